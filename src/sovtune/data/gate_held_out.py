"""Held-out text for the gate: prepared as training text is, indexed for runs, sketched for whole rows."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovtune.data.contamination import EvalIndex
from sovtune.data.dedup import Sketch, sketch_all
from sovtune.data.gate_read import SHARD_BYTES, GateSource, rows_of, slices
from sovtune.data.gate_settings import GateSettings
from sovtune.data.gate_steps import prepared_held_out
from sovtune.errors import DataRefused

_AT_ONCE = 1024  # texts sketched together


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Everything held out: the index of runs, a sketch and a place for every text, and a hash of it all."""

    index: EvalIndex
    sketches: tuple[Sketch, ...]
    names: tuple[str, ...]
    owners: array[int]
    numbers: array[int]
    sha256: str

    def where(self, place: int) -> str:
        """``file:row`` of a held-out text."""
        return f"{self.names[self.owners[place]]}:{self.numbers[place]}"


def read_held_out(sources: Sequence[GateSource], settings: GateSettings, scratch: Path) -> HeldOut | None:
    """Read and index held-out files; None when there are none.

    Args:
        sources: the files; rows of evaluation sets may have any fields.
        settings: what is done to training text is done to these texts too.
        scratch: see ``slices``.

    Raises:
        DataRefused: a file is broken, or a row of it cannot be read: it could not be looked for.
    """
    if not sources:
        return None
    owners, numbers = array("q"), array("q")
    sketches: list[Sketch] = []
    digest = hashlib.sha256()

    def texts() -> Iterator[tuple[str, str]]:
        pending: list[str] = []  # sketched many at a time, which is several times as fast
        for owner, source in enumerate(sources):
            for number, text in _texts(source, settings, scratch):
                owners.append(owner)
                numbers.append(number)
                pending.append(text)
                if len(pending) == _AT_ONCE:
                    sketches.extend(sketch_all(pending))
                    pending.clear()
                digest.update(f"{owner} {number} {len(text)} ".encode() + text.encode("utf-8", "replace"))
                yield source.file.shown, text
        sketches.extend(sketch_all(pending))

    index = EvalIndex.build(texts())
    names = tuple(source.file.shown for source in sources)
    digest.update("\0".join(names).encode())
    return HeldOut(
        index=index,
        sketches=tuple(sketches),
        names=names,
        owners=owners,
        numbers=numbers,
        sha256=digest.hexdigest(),
    )


def _texts(source: GateSource, settings: GateSettings, scratch: Path) -> Iterator[tuple[int, str]]:
    """Number and prepared text of every row that says something."""
    for part in slices(0, source, settings.languages, SHARD_BYTES, scratch):
        for row in rows_of(part, source, settings.languages):
            if row.document is None:
                if row.reason in ("empty", "null"):
                    continue
                raise DataRefused(
                    f"a held-out row cannot be read: {row.message}",
                    where=f"{source.file.shown}:{row.number}",
                    why="what cannot be read cannot be looked for in the training data",
                    fix="correct the row, or leave the file out",
                )
            text = prepared_held_out(row.document, settings)
            if text is not None:
                yield row.number, text
