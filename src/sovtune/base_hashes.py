"""Hashes of bases: compared with the recipe's, and remembered with the state of their files for plans."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from sovtune.errors import BaseUnavailable
from sovtune.recipe_base import Base


def remember(cache: Path, folder: Path, content_sha256: str) -> None:
    """Note what a folder's files hash to, beside their names, sizes and times of change."""
    note = _note(cache, folder)
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"state": _state(folder), "content_sha256": content_sha256}), encoding="utf-8")
    os.replace(part, note)


def remembered(cache: Path, folder: Path) -> str | None:
    """The content hash of a folder whose files look as they did when it was taken; None when it is not known.

    Good enough to find what was prepared for this base. What is trained on is hashed again.
    """
    note = _note(cache, folder)
    if not note.is_file():
        return None
    kept = json.loads(note.read_text(encoding="utf-8"))
    return str(kept["content_sha256"]) if kept["state"] == _state(folder) else None


def check_named(base: Base, place: str, found: str) -> None:
    """Compare the content hash of a base that was found at ``place`` with the recipe's, if it names one.

    Raises:
        BaseUnavailable: it is another base.
    """
    if base.content_sha256 and found != base.content_sha256:
        raise BaseUnavailable(
            f"{base.model} from {place} is not the base the recipe names",
            where="base.content_sha256",
            why=f"expected {base.content_sha256}, found {found}",
            fix="name the right mirror, or put the found hash into the recipe if this base is the one you want",
        )


def _note(cache: Path, folder: Path) -> Path:
    return cache / "hashes" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.json"


def _state(folder: Path) -> list[list[str | int]]:
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [[path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in found]
