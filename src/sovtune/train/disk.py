"""A full disk, told apart from other trouble: libraries that write say it in errors of their own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sovtune.errors import EnvironmentFault

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MESSAGES = ("no space left", "quota exceeded", "file too large", "pytorchstreamwriter failed writing")
"""What safetensors (words of the system in a SafetensorError) and torch (a RuntimeError) make of these."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a file could not be written for lack of room."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return isinstance(error, RuntimeError | SafetensorError) and any(
        words in str(error).lower() for words in _MESSAGES
    )


@contextmanager
def named_disk_faults(run_dir: Path) -> Iterator[None]:
    """Within the block a full disk is an error with advice.

    Raises:
        EnvironmentFault: the disk is full, or a quota or the largest size of a file is reached.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise EnvironmentFault(
            "the disk is full; the last complete checkpoint is intact",
            where=str(run_dir),
            why=str(error).splitlines()[0],
            fix="free some space (train.run.keep_checkpoints: 1 needs less), then `sovtune train RECIPE --resume`",
        ) from error
