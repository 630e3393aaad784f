"""`sovtune data clean`: remove what the data caches hold and nobody has used for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sovtune.base import cache_home
from sovtune.data.caches import Cleaned, Kind, Part, clean
from sovtune.figures import size

if TYPE_CHECKING:
    from sovtune.progress import Reporter

_NAMES: dict[Kind, tuple[str, str]] = {
    "shard": ("finished part of the data gate", "finished parts of the data gate"),
    "scan": ("work folder of a scan that was not finished", "work folders of scans that were not finished"),
    "rows": ("set of prepared rows", "sets of prepared rows"),
    "scores": ("measurement of a base", "measurements of bases"),
    "taught": ("teacher's word on rows", "teachers' words on rows"),
    "leftover": ("leaving of an unfinished run", "leavings of unfinished runs"),
}


def clean_caches(days: float, progress: Reporter, *, dry_run: bool) -> Cleaned:
    """Clean, and say where.

    Raises:
        EnvironmentFault: something cannot be removed.
    """
    home = cache_home()
    progress.stage("clean")
    progress.say(str(home))
    return clean(home, days=days, dry_run=dry_run)


def in_words(cleaned: Cleaned, days: float, *, dry_run: bool) -> str:
    """What was removed and what stayed, a line each."""
    verb = "would be removed" if dry_run else "removed"
    lines = [
        f"{_counted(kind, [part for part in cleaned.removed if part.kind == kind])} {verb}"
        for kind in _NAMES
        if any(part.kind == kind for part in cleaned.removed)
    ]
    lines.append(f"{'would free' if dry_run else 'freed'} {size(_bytes(cleaned.removed))}")
    if cleaned.kept:
        when = f"the last {days:g} days" if days != 1 else "the last day"
        lines.append(f"kept: {len(cleaned.kept):,} used in {when}, {size(_bytes(cleaned.kept))}")
    if cleaned.in_use:
        lines.append(f"kept: {len(cleaned.in_use):,} in use, {size(_bytes(cleaned.in_use))}")
    return "\n".join(lines)


def as_values(cleaned: Cleaned, *, dry_run: bool) -> dict[str, object]:
    """The documented result for programs."""
    return {
        "dry_run": dry_run,
        "freed_bytes": _bytes(cleaned.removed),
        "removed": {
            kind: {"count": len(parts), "bytes": _bytes(parts)}
            for kind in _NAMES
            if (parts := [part for part in cleaned.removed if part.kind == kind])
        },
        "kept": {"count": len(cleaned.kept), "bytes": _bytes(cleaned.kept)},
        "in_use": {"count": len(cleaned.in_use), "bytes": _bytes(cleaned.in_use)},
    }


def _counted(kind: Kind, parts: Sequence[Part]) -> str:
    one, many = _NAMES[kind]
    return f"{len(parts):,} {one if len(parts) == 1 else many}, {size(_bytes(parts))}"


def _bytes(parts: Sequence[Part]) -> int:
    return sum(part.bytes for part in parts)
