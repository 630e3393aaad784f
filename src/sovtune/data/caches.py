"""The data caches: finished shards of the data gate, work folders of scans, prepared rows; what is old goes.

Below the cache home lie ``gate/SHARD`` (shared by all runs, under ``gate/lock``), ``gate/SCAN`` (the work folder of a
scan that was not finished, with a lock of its own), ``data/KEY`` (prepared rows; a run that reads them shares a
lock), ``taught/KEY`` (what a teacher finds likely, in the same way) and ``scores/KEY.json`` (what a base scored). All
can be made again; nothing else below the home is ever touched.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovtune.errors import EnvironmentFault

Kind = Literal["shard", "scan", "rows", "scores", "taught", "leftover"]
DAYS = 30
"""What was not used for so many days is removed after a run and by `sovtune data clean`, unless told otherwise."""
GATE, DATA, SCORES, TAUGHT, LOCK = "gate", "data", "scores", "taught", "lock"
_WRITING = "writing"
_DAY = 86_400.0
_SHARD = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9a-f]{32}")
_SCORES = re.compile(r"[0-9a-f]{64}\.json")
_SCORES_LEFTOVER = re.compile(r"[0-9a-f]{64}\.\d+\.part")
_GATE_LEFTOVER = re.compile(r"\.part-.+|verdicts-[a-z]+\.bin|duplicates")
_DATA_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.(part|lock)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that can be removed: what it is, its size, when it was last used (seconds since 1970)."""

    path: Path
    kind: Kind
    bytes: int
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What was removed (or would be), what was used too lately, what is in use."""

    removed: tuple[Part, ...]
    kept: tuple[Part, ...]
    in_use: tuple[Part, ...]


def mark_used(folder: Path) -> None:
    """Note that a folder of the cache is of use today."""
    os.utime(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder of the cache from being removed; any number of runs may hold it."""
    mark_used(folder)
    with (folder / LOCK).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Wait until nobody else adds to a folder that is held."""
    with (folder / _WRITING).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def clean(home: Path, *, days: float, dry_run: bool = False) -> Cleaned:
    """Remove what was not used for some days and is not in use.

    Args:
        home: the cache home.
        days: 0 removes everything that is not in use.
        dry_run: only say what would be removed.

    Raises:
        EnvironmentFault: something cannot be removed or looked at.
    """
    before = time.time() - days * _DAY
    removed: list[Part] = []
    kept: list[Part] = []
    in_use: list[Part] = []

    def sort(parts: list[Part], *, free: bool) -> None:
        for part in parts:
            if not free:
                in_use.append(part)
            elif part.used > before:
                kept.append(part)
            else:
                if not dry_run:
                    _remove(part.path)
                removed.append(part)

    with _named_faults(home):
        with _alone(home / GATE, make=not dry_run) as gate_is_free:
            sort(_below(home / GATE, {"shard": _SHARD, "leftover": _GATE_LEFTOVER}), free=gate_is_free)
            # While the gate works its run may be filling one of these; without the gate it takes minutes.
            unfinished = _below(home / DATA, {"leftover": _DATA_LEFTOVER})
            old = time.time() - _DAY
            for part in unfinished:
                sort([part], free=gate_is_free and part.used < old)
        # Nobody holds one for longer than it takes to read it; a half-written one may be finished yet.
        sort(_below(home / SCORES, {"scores": _SCORES}), free=True)
        for part in _below(home / SCORES, {"leftover": _SCORES_LEFTOVER}):
            sort([part], free=part.used < time.time() - _DAY)
        for part in (
            *_below(home / GATE, {"scan": _FOLDER}),
            *_below(home / DATA, {"rows": _FOLDER}),
            *_below(home / TAUGHT, {"taught": _FOLDER}),
        ):
            with _alone(part.path, make=not dry_run) as free:
                sort([part], free=free)
    return Cleaned(removed=tuple(removed), kept=tuple(kept), in_use=tuple(in_use))


def forget_old_shards(folder: Path, *, days: float = DAYS) -> int:
    """Remove the shards of a work folder that no run has used for some days; whoever calls holds the folder's lock.

    Returns:
        How many were removed. One that cannot be removed stays for the next time.
    """
    before = time.time() - days * _DAY
    old = [part for part in _below(folder, {"shard": _SHARD}) if part.used < before]
    for part in old:
        try:
            _remove(part.path)
        except OSError:  # tidying up is no reason to lose a finished run
            continue
    return sum(not part.path.exists() for part in old)


def _below(folder: Path, wanted: dict[Kind, re.Pattern[str]]) -> list[Part]:
    """The things in a folder whose names are of these forms, by name; links are not followed."""
    if not folder.is_dir():
        return []
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        kind = next((kind for kind, form in wanted.items() if form.fullmatch(entry.name)), None)
        if kind is None or entry.is_symlink():
            continue
        if kind != "leftover" and entry.is_dir() == (kind == "scores"):
            continue
        path = Path(entry.path)
        found.append(Part(path=path, kind=kind, bytes=_size(path), used=_used(path, kind)))
    return found


def _used(path: Path, kind: Kind) -> float:
    """When it was last used; a scan's folder with its newest shard, a half-written one with its newest file."""
    times = [path.stat().st_mtime]
    if path.is_dir() and kind in ("scan", "leftover"):
        times += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(path)]
    return max(times)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(
        entry.stat(follow_symlinks=False).st_size
        if not entry.is_dir(follow_symlinks=False)
        else _size(Path(entry.path))
        for entry in os.scandir(path)
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _alone(folder: Path, *, make: bool) -> Iterator[bool]:
    """Whether nobody else holds the lock of a folder; as long as the block lasts, nobody will.

    ``filelock``, which the gate uses, takes the same lock of the system. With ``make`` a lock file that is not there
    (its last holder may have removed it) is made, so that nobody can take it in the meantime.
    """
    path = folder / LOCK
    if not folder.is_dir() or not (make or path.exists()):
        yield True
        return
    with path.open("a" if make else "r") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _named_faults(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot clean the cache: {error.strerror or error}",
            where=error.filename or str(home),
            fix="make it yours to write, or remove it by hand",
        ) from error
