"""What became of a row: verdicts of the search among all shards, on disk between two passes, and judged rows."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sovtune.data.document import Document


class Verdict(NamedTuple):
    """What the search among all shards said of one row; ``kept`` is the row in whose stead it goes."""

    row: int
    step: str
    reason: str
    kept: int | None
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRow:
    """What became of one row. ``duplicate_of`` is ``file:row``; the document is the curated one, None when dropped.

    ``language`` is the tag of its main language, empty when that cannot be said or the row was not read.
    """

    file: str
    row: int
    document: Document | None
    language: str
    step: str
    reason: str | None
    changed: tuple[str, ...]
    found: tuple[str, ...]
    duplicate_of: str | None

    def decision(self) -> dict[str, object]:
        """The documented line of a decisions file."""
        return {
            "file": self.file,
            "row": self.row,
            "kept": self.document is not None,
            "reason": self.reason,
            "changed": list(self.changed),
            "pii": list(self.found),
            "duplicate_of": self.duplicate_of,
        }


class VerdictFiles:
    """Verdicts of pass 2 on disk, by step, each file in the order of the input."""

    _RECORD = struct.Struct("<qqBf")
    _STEPS = ("quality", "duplicates")
    _NONE = -(1 << 62)

    def __init__(self, folder: Path):
        self.paths = {step: folder / f"verdicts-{step}.bin" for step in self._STEPS}
        self.reasons: list[str] = []
        for path in self.paths.values():
            path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Verdict], None]]:
        """A function that takes verdicts, those of each step in the order of the input."""
        streams = {step: path.open("wb") for step, path in self.paths.items()}

        def write(verdict: Verdict) -> None:
            if verdict.reason not in self.reasons:
                self.reasons.append(verdict.reason)
            kept = self._NONE if verdict.kept is None else verdict.kept
            reason = self.reasons.index(verdict.reason)
            streams[verdict.step].write(self._RECORD.pack(verdict.row, kept, reason, verdict.similarity))

        try:
            yield write
        finally:
            for stream in streams.values():
                stream.close()

    def read(self) -> Iterator[Verdict]:
        """All verdicts in the order of the input."""
        return heapq.merge(*(self._one(step) for step in self._STEPS), key=lambda verdict: verdict.row)

    def _one(self, step: str) -> Iterator[Verdict]:
        if not self.paths[step].exists():
            return
        with self.paths[step].open("rb") as stream:
            while data := stream.read(4096 * self._RECORD.size):
                for row, kept, reason, similarity in self._RECORD.iter_unpack(data):
                    stood = None if kept == self._NONE else kept
                    yield Verdict(row, step, self.reasons[reason], stood, similarity)
