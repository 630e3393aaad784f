"""Checkpoints that are whole or absent: a seal with hashes is written last, unsealed folders are swept away."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from sovtune.errors import RunFailed

SEAL = "sovtune-seal.json"
PREFIX = "checkpoint-"
WHOLE = "whole"
"""How most checkpoints are kept: the optimizer's state in one file, from which any number of processes goes on."""


def layout_of(strategy: str, world: int) -> str:
    """How a strategy keeps the optimizer's state; DeepSpeed writes a part from each process and reads just those."""
    return f"a part from each of {world} processes with zero3" if strategy == "zero3" else WHOLE


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file or folder to disk, so that a power cut cannot leave a seal without its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path, *, fingerprint: str, layout: str = WHOLE) -> None:
    """Declare a checkpoint complete: hashes of its files, written to a temporary name and renamed.

    Args:
        folder: ``checkpoint-N`` with all files in place.
        fingerprint: what the run is (recipe, data, base); a checkpoint of another run is never resumed.
        layout: how it is kept, see ``layout_of``.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    content = {
        "fingerprint": fingerprint,
        "layout": layout,
        "files": {path.relative_to(folder).as_posix(): _digest(path) for path in files},
    }
    part = folder / (SEAL + ".part")
    part.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    _sync(part)
    os.replace(part, folder / SEAL)
    _sync(folder)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def _all(home: Path) -> list[Path]:
    found = [
        path for path in home.glob(PREFIX + "*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()
    ]
    return sorted(found, key=_step)


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint is complete and its files are what was sealed."""
    seal_file = folder / SEAL
    if not seal_file.is_file():
        return False
    files: dict[str, str] = json.loads(seal_file.read_text(encoding="utf-8"))["files"]
    return all(
        (folder / name).is_file() and _digest(folder / name) == digest for name, digest in files.items()
    )


def newest(home: Path, *, fingerprint: str, layout: str | None = None) -> Path | None:
    """The newest complete checkpoint; incomplete ones (a kill during a save) are removed.

    Args:
        home: folder of the checkpoints.
        fingerprint: what the run is.
        layout: how this run keeps them, where it goes on from one.

    Raises:
        RunFailed: the newest checkpoint belongs to another recipe, data set or base, or is kept in another way.
    """
    for folder in reversed(_all(home)):
        if not is_sealed(folder):
            shutil.rmtree(folder)
            continue
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if sealed["fingerprint"] != fingerprint:
            raise RunFailed(
                f"{folder.name} belongs to another recipe, other data or another base",
                where=str(home),
                why="resuming from it would mix two runs",
                fix="pass --restart to begin anew (the old folder is moved aside), or undo the change",
            )
        kept = sealed.get("layout", WHOLE)
        if layout not in (None, kept):
            raise RunFailed(
                f"{folder.name} cannot be read by the processes of this run",
                where=str(home),
                why=f"the optimizer's state in it: {kept}; what this run reads: {layout}",
                fix="go on with `launch` as it was, or pass --restart to begin anew (the old folder is moved aside)",
            )
        return folder
    return None


def step_of(folder: Path) -> int:
    """The optimizer step a checkpoint was taken after."""
    return _step(folder)


def prune(home: Path, keep: int) -> None:
    """Keep the newest ``keep`` sealed checkpoints."""
    sealed = [folder for folder in _all(home) if (folder / SEAL).is_file()]
    for folder in sealed[:-keep]:
        shutil.rmtree(folder)
