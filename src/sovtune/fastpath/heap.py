"""Memory of this process that nobody uses any more: freed heap given back to the system, fewer kernels kept."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

KERNELS_KEPT = 192
"""Compiled products that oneDNN keeps; a step needs some 50, and the next one, of another number of tokens, as many new
ones (fastpath.shapes). 1,200 products of as many shapes let a process grow by 0.79 GB with oneDNN's own limit of 1,024,
by 0.57 GB with this one, in the same time."""
SLACK_ALLOWED = 0.1
"""Free memory that is held at most beyond what a single step leaves, as a share of all that is held."""
TAKEN_PER_SECOND, COST_ALLOWED = 1.5e9, 0.02
"""Bytes of new memory that a step gets from the system in a second (500 MB touched for the first time took 0.33 s), and
the share of time that may cost: a step of 20 seconds may begin with 0.6 GB given back."""
WORTH_GIVING = 100_000_000
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
    """Gives freed memory back between steps: whenever that costs nearly nothing, and once too much has piled up.

    Holes that a step leaves between live tensors do not fit the next step's when its row has another length: with
    checkpointing Qwen2.5-1.5B rose from 3.0 to 5.8 GB in 20 steps, of which 3.3 GB were free. ``resident`` tells the
    process's memory in bytes, ``clock`` seconds.
    """

    resident: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    floor: int | None = None
    of_a_step: int = 0
    given_at: float = 0.0
    just_given: bool = False

    def after_step(self) -> None:
        """Look at what is held, and give it back when it is cheap or too much."""
        held = self.resident()
        if self.floor is None:
            self.of_a_step = held - self._give()
            return
        free = held - self.floor
        if self.just_given:
            self.of_a_step = max(self.of_a_step, free)
        piled = free - self.of_a_step > SLACK_ALLOWED * held
        self.just_given = False
        if piled or WORTH_GIVING < free < TAKEN_PER_SECOND * COST_ALLOWED * (self.clock() - self.given_at):
            self._give()

    def _give(self) -> int:
        give_back()
        floor = self.resident()
        self.floor, self.given_at, self.just_given = floor, self.clock(), True
        return floor


def keep_few_kernels() -> None:
    """Limit oneDNN's cache unless the environment says something; it is read at the first product of a process."""
    os.environ.setdefault(_VARIABLE, str(KERNELS_KEPT))
