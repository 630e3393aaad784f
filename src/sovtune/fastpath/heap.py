"""Memory of this process that nobody uses any more: freed heap given back to the system, fewer kernels kept."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

KERNELS_KEPT = 192
"""Compiled products that oneDNN keeps; a step needs some 50, and the next one, of another number of tokens, as many new
ones (fastpath.shapes). 1,200 products of as many shapes let a process grow by 0.79 GB with oneDNN's own limit of 1,024,
by 0.57 GB with this one, in the same time."""
SLACK_ALLOWED = 1.25
"""Free memory that is held at most, in units of what a single step leaves."""
_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@cache
def _trim() -> Callable[[int], int] | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    found: Callable[[int], int] | None = getattr(libc, "malloc_trim", None)
    return found


def give_back() -> None:
    """Return freed memory to the system; without glibc there is nothing to do.

    Not for every training step: it costs up to a tenth of the next one, which asks for the same memory again.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@dataclass(slots=True)
class Slack:
    """Gives freed memory back once more of it has piled up than a single step leaves behind.

    Holes that a step leaves between live tensors do not fit the next step's when its row has another length: with
    checkpointing Qwen2.5-1.5B rose from 3.0 to 5.8 GB in 20 steps, of which 3.3 GB were free. ``resident`` tells the
    process's memory in bytes.
    """

    resident: Callable[[], int]
    floor: int | None = None
    of_a_step: int = 0
    just_given: bool = False

    def after_step(self) -> None:
        """Look at what is held, and give it back when it is too much."""
        held = self.resident()
        if self.floor is not None and self.just_given:
            self.of_a_step = max(self.of_a_step, held - self.floor)
            self.just_given = False
        elif self.floor is None or held - self.floor > SLACK_ALLOWED * self.of_a_step:
            give_back()
            now = self.resident()
            if self.floor is None:
                self.of_a_step = held - now
            self.floor, self.just_given = now, True


def keep_few_kernels() -> None:
    """Limit oneDNN's cache unless the environment says something; it is read at the first product of a process."""
    os.environ.setdefault(_VARIABLE, str(KERNELS_KEPT))
