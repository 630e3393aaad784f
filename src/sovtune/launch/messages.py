"""What a worker tells the process that started it: its error, whole, in the file that torchrun names for it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sovtune import errors
from sovtune.errors import FileProblems, RunFailed, SovtuneError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
STARTED_HERE = "SOVTUNE_STARTED_HERE"
"""Set, to its process number, for workers whose parent is sovtune on the same machine: it tells their errors itself."""
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


def is_worker() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_worker() -> bool:
    """Whether this process is the one that talks; true without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def started_here() -> bool:
    """Whether sovtune itself started this process, on this machine, and tells what goes wrong."""
    return is_worker() and STARTED_HERE in os.environ


def end_with_starter() -> None:
    """Die when the sovtune that started this worker dies: else it would go on beside the run that resumes (Linux only).

    Checkpoints are sealed as a whole, so that this may happen at any moment.
    """
    if not started_here() or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[STARTED_HERE]):  # it died before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)


def tell_starter(error: SovtuneError) -> bool:
    """Write an error where torchrun looks for it; returns whether sovtune is there to tell it to the user."""
    file = os.environ.get(ERROR_FILE)
    if not is_worker() or not file:
        return False
    parts = {name: getattr(error, name) for name in ("what", "where", "why", "fix")}
    message = {
        "message": str(error),
        "extraInfo": {"timestamp": str(int(time.time())), "sovtune": [type(error).__name__, parts]},
    }
    Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
    return started_here()


def error_of(told: Iterable[Mapping[str, Any]], exit_code: int) -> SovtuneError:
    """The error to show for a group that failed.

    Args:
        told: what the workers' error files hold, the first failure first.
        exit_code: of the worker that failed first; negative is a signal.
    """
    found = [error for error in map(_read, told) if error is not None]
    # A process that lost another one says so; the reason is with that other one.
    reasons = [error for error in found if "another process" not in error.what]
    if reasons or found:
        return (reasons or found)[0]
    if exit_code < 0:
        return RunFailed(
            f"a training process was ended by signal {-exit_code}",
            why="9 is what the system sends when memory runs out" if exit_code == -9 else None,
            fix="`sovtune train RECIPE --resume` goes on from the last checkpoint",
        )
    return RunFailed(f"a training process ended with code {exit_code}", why="its message stands above")


def _read(told: Mapping[str, Any]) -> SovtuneError | None:
    message = told.get("message")
    extra = message.get("extraInfo", {}) if isinstance(message, dict) else {}
    if "sovtune" not in extra:
        return None
    name, parts = extra["sovtune"]
    kind = getattr(errors, name, RunFailed)
    if issubclass(kind, FileProblems):  # its parts are a list of places; as text they say the same
        kind = RunFailed
    error: SovtuneError = kind(parts["what"], where=parts["where"], why=parts["why"], fix=parts["fix"])
    return error
