"""The libraries that train, imported once and quickly: most of the time from a command to its first step is theirs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NO_COMPILER = "TORCHDYNAMO_DISABLE"
"""torch's own switch: what is decorated with ``torch.compile`` while it is set stays as it is."""


def import_stack() -> None:
    """Import torch, transformers, peft, trl and bitsandbytes, if that has not been done.

    Imports make objects and no garbage: without the collector, which looks through all of them again and again, they
    take a fifth less time. What they made is then taken out of its sight for good.
    """
    if "sovtune.train.engine" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _without_compiler():
            import bitsandbytes  # noqa: F401
        import sovtune.train.engine  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def _without_compiler() -> Iterator[None]:
    """On a machine without a GPU bitsandbytes' compiled functions are not used, nor torch's inductor loaded.

    They are its fallback for 8-bit kernels; decorating them takes a second, and calling them needs a C++ compiler.
    """
    import torch

    if torch.cuda.is_available() or _NO_COMPILER in os.environ:
        yield
        return
    os.environ[_NO_COMPILER] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_COMPILER]
