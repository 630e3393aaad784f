"""The run folder: which stage is done, atomic records, the lock that says what the run is made of."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import IO, Any, TypeVar

from sovtune.errors import EnvironmentFault, RunConflict, UsageError
from sovtune.records import read_record, to_json

R = TypeVar("R")

LOCK = "recipe.lock.yaml"
LAUNCH = "launch"
"""Folder of a run for the jobs that start it; it may be there before the run is."""
STOP = "stop"
"""A file there asks the run to save a checkpoint and end, like Ctrl-C; a job makes it before its time is up."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
RECORD_FILES = {
    "base": "model.json",
    "data": "data.json",
    "plan": "plan.json",
    "train": "train.json",
    "evaluate": "eval.json",
    "card": "card.json",
    "publish": "receipt.json",
}


def result_folder(run_dir: Path) -> Path:
    """What a run trained: `model` after full training, else `adapter`."""
    whole = run_dir / "model"
    return whole if whole.is_dir() else run_dir / "adapter"


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new, never half."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def write_result(path: Path, text: str, *, what: str) -> None:
    """As ``write_atomic``, to a place that a person named.

    Raises:
        EnvironmentFault: it cannot be written; ``what`` is the name of it in the message.
    """
    try:
        write_atomic(path, text)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {what}: {error.strerror or error}",
            where=str(path),
            fix="name a folder that exists and can be written",
        ) from error


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def save(self, stage: str, record: Any) -> None:
        """Save a stage's record; the stage counts as done from then on."""
        write_atomic(self.path / RECORD_FILES[stage], to_json(record))

    def load(self, stage: str, kind: type[R]) -> R | None:
        """A stage's record, or None when the stage was not done."""
        file = self.path / RECORD_FILES[stage]
        return read_record(kind, file) if file.is_file() else None

    def need(self, stage: str, kind: type[R]) -> R:
        """A record that must be there.

        Raises:
            UsageError: the stage was not done.
        """
        record = self.load(stage, kind)
        if record is None:
            raise UsageError(
                f"the stage `{stage}` was not done in this run",
                where=str(self.path),
                fix="`sovtune run RECIPE` does all stages that are missing",
            )
        return record

    def forget(self, *stages: str) -> None:
        """Remove records of stages that must be repeated."""
        for stage in stages:
            (self.path / RECORD_FILES[stage]).unlink(missing_ok=True)


def open_run(runs_dir: Path, name: str, lock: str, *, restart: bool) -> RunFolder:
    """The folder of this run: new, or one that was made from exactly this lock.

    Args:
        runs_dir: home of all runs.
        name: the recipe's name.
        lock: text of the lock: effective recipe and hashes of what it names.
        restart: move an older folder aside and begin anew.

    Raises:
        RunConflict: the folder holds a run of another version of this recipe, or of other data.
    """
    folder = runs_dir / name
    lock_file = folder / LOCK
    if restart and folder.exists():
        _move_aside(folder)
    if lock_file.is_file():
        old = lock_file.read_text(encoding="utf-8")
        if old != lock:
            raise RunConflict(
                f"{folder} holds a run that differs from this one",
                why="; ".join(differences(old, lock)),
            )
    elif folder.exists() and any(entry.name != LAUNCH for entry in folder.iterdir()):
        raise RunConflict(f"{folder} is not empty and holds no run of sovtune")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(lock_file, lock)
    return RunFolder(folder)


@contextmanager
def alone(runs_dir: Path, name: str, *, patience_s: float = 0) -> Iterator[bool]:
    """Keep other processes from working on a run as long as the block lasts; the system ends it with the process.

    The lock lies beside the run folder, which `--restart` may move. Yields whether there is one: some file systems of
    clusters know no locks (Lustre without the mount option flock).

    Args:
        runs_dir: home of all runs.
        name: the recipe's name.
        patience_s: how long to wait for another one. A file server notices late that a machine is gone.

    Raises:
        RunConflict: another process works on it.
        EnvironmentFault: the folder of runs cannot be written.
    """
    path = runs_dir / f".{name}.busy"
    until = time.monotonic() + patience_s
    with _opened(path) as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise _busy(path, runs_dir / name) from None
                time.sleep(1)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                yield False
                return
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {gethostname()}")
        stream.flush()
        yield True


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write into the folder of runs: {error.strerror or error}",
            where=str(path.parent),
            fix="`--runs-dir FOLDER` names another one",
        ) from error


def _busy(path: Path, folder: Path) -> RunConflict:
    return RunConflict(
        "another command is at work on this run",
        where=str(folder),
        why=path.read_text(encoding="utf-8") or None,
        fix="wait until it has finished, or stop it with Ctrl-C: it saves its step first",
    )


def _move_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(aside)


def differences(old: str, new: str, limit: int = 5) -> list[str]:
    """Lines of the lock that changed, as ``old -> new``, at most ``limit`` of them."""
    from difflib import ndiff

    removed: list[str] = []
    found: list[str] = []
    for line in ndiff(old.splitlines(), new.splitlines()):
        if line.startswith("- "):
            removed.append(line[2:].strip())
        elif line.startswith("+ "):
            before = removed.pop(0) if removed else "(nothing)"
            found.append(f"{before} -> {line[2:].strip()}")
    found += [f"{line} -> (nothing)" for line in removed]
    more = [f"and {len(found) - limit} more"] if len(found) > limit else []
    return found[:limit] + more
