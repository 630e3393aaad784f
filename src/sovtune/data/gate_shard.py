"""A shard's result on disk: a folder that appears whole or not at all, named by everything that decides it.

It holds ``rows.jsonl`` (the verdict so far, and the text of rows that are not dropped yet; a line holds some dozens
of rows), ``places.bin`` (for every row its number and where it stands), ``features.bin`` and ``signatures.bin``
(fixed-size records of the rows not dropped yet: what duplicates and percentiles are made from) and ``shard.json``
(counts, examples, what is left of the rows, and the sizes of the other files). Rows are numbered from the beginning of
the shard, so that the same text at another place is the same shard.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from sovtune.data.caches import mark_used
from sovtune.data.dedup import WIDTH, Sketch
from sovtune.data.document import Document, Message, bytes_of
from sovtune.data.gate_read import GateSource, Slice
from sovtune.data.gate_report import Tally
from sovtune.data.quality import Measures
from sovtune.errors import EnvironmentFault

ROWS, PLACES, FEATURES, SIGNATURES = "rows.jsonl", "places.bin", "features.bin", "signatures.bin"
SUMMARY = "shard.json"
MEASURES = tuple(entry.name for entry in fields(Measures))
FEATURE = np.dtype(
    [
        ("place", "<i8"),
        ("length", "<i8"),
        ("fingerprint", "V16"),
        ("signed", "?"),
        ("measures", "<f8", (len(MEASURES),)),
    ]
)
"""``place`` counts all rows of the shard from 0; ``signed`` rows have a record in ``signatures.bin``."""
PLACE = Struct("<qqq")
"""Number of a row in its slice, the byte of ``rows.jsonl`` at which its line begins, and its place in that line."""
ROWS_A_LINE = 64
"""Writing and reading JSON row by row would take as long as the text itself."""
SIGNATURE_BYTES = 4 * WIDTH
_AT_ONCE = 4096  # records read together
_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder each time
_decode = json.JSONDecoder().decode


@dataclass(slots=True)
class Row:
    """A row on its way through the gate.

    ``step`` and ``reason`` are set when it is dropped, and ``document`` is None from then on. ``languages`` are
    weights by tag (see ``data.language``) and ``tag`` is the main one, ``found`` personal data and secrets by kind,
    ``size`` the UTF-8 bytes of its texts when it came.
    """

    number: int
    size: int
    document: Document | None
    step: str = ""
    reason: str = ""
    changed: list[str] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    languages: dict[str, float] = field(default_factory=dict)
    tag: str = ""

    def values(self) -> list[object]:
        """The row as JSON values, for ``of_values``."""
        document = self.document
        text: object = None
        if document is not None:
            turns = [[message.role, message.content] for message in document.messages]
            text = [turns, document.rejected, document.good] if document.text is None else document.text
        return [
            self.number,
            self.size,
            self.step,
            self.reason,
            self.changed,
            self.found,
            self.languages,
            text,
        ]

    @classmethod
    def of_values(cls, values: list[Any], shown: str, first: int) -> Row:
        """The inverse of ``values``, with the number and name the row has in its file."""
        number, size, step, reason, changed, found, languages, text = values
        where = f"{shown}:{first + number}"
        document = None
        if isinstance(text, str):
            document = Document(where=where, text=text)
        elif text is not None:
            turns, rejected, good = text
            messages = tuple(Message(role, content) for role, content in turns)
            document = Document(where=where, messages=messages, rejected=rejected, good=good)
        tag = next(iter(languages), "")
        return cls(first + number, size, document, step, reason, changed, found, languages, tag)


@dataclass(slots=True)
class Alive:
    """Rows that are not dropped yet, added up.

    ``size`` is the UTF-8 bytes of their texts when they came, ``text_bytes`` what those texts have now; ``languages``
    are hundredths of a weight by tag (see ``data.language``), so that rows can be taken off again exactly.
    """

    rows: int = 0
    size: int = 0
    text_bytes: int = 0
    languages: Counter[str] = field(default_factory=Counter)

    def add(self, other: Alive) -> None:
        """Add what is left elsewhere."""
        self.rows += other.rows
        self.size += other.size
        self.text_bytes += other.text_bytes
        self.languages.update(other.languages)

    def count(self, row: Row, sign: int = 1) -> None:
        """Add a row that has its document, or with ``sign`` -1 take it off."""
        if row.document is None:
            return
        self.rows += sign
        self.size += sign * row.size
        self.text_bytes += sign * (bytes_of(row.document) if row.changed else row.size)
        for tag, weight in row.languages.items():
            self.languages[tag] += sign * round(100 * weight)

    def as_json(self) -> dict[str, Any]:
        """For ``of``."""
        return {
            "rows": self.rows, "size": self.size, "text_bytes": self.text_bytes, "languages": self.languages,
        }  # fmt: skip

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Alive:
        """The inverse of ``as_json``."""
        return cls(**{**values, "languages": Counter(values["languages"])})

    def weights(self) -> dict[str, float]:
        """The weights by tag."""
        return {tag: hundredths / 100 for tag, hundredths in self.languages.items() if hundredths}


class Feature(NamedTuple):
    """What stays in memory or in the index of one row that is not dropped yet."""

    place: int
    sketch: Sketch
    measures: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A finished shard: which file it belongs to, the number of its first line.

    ``base`` is the place of its first row among all rows of the run.
    """

    folder: Path
    source: int
    shown: str
    first: int
    base: int
    rows: int
    codecs: Mapping[str, int]
    languages: Mapping[str, float]
    alive: Alive

    def read_rows(self) -> Iterator[Row]:
        """Every row in the order of the file."""
        with (self.folder / ROWS).open(encoding="utf-8") as stream:
            for line in stream:
                for values in _decode(line):
                    yield Row.of_values(values, self.shown, self.first)

    def rows_at(self, places: Iterable[int]) -> Iterator[Row]:
        """The rows at ascending places of the shard; a line that holds several of them is read once."""
        held: list[list[Any]] = []
        at = -1
        with (self.folder / PLACES).open("rb") as index, (self.folder / ROWS).open("rb") as stream:
            for place in places:
                _, begins, within = _place(index, place)
                if begins != at:
                    stream.seek(begins)
                    held, at = _decode(stream.readline().decode()), begins
                yield Row.of_values(held[within], self.shown, self.first)

    def where(self, place: int) -> str:
        """``file:row`` of the row at a place of the shard."""
        with (self.folder / PLACES).open("rb") as index:
            return f"{self.shown}:{self.first + _place(index, place)[0]}"

    def features(self) -> Iterator[Feature]:
        """The record of every row that is not dropped yet."""
        with (
            (self.folder / FEATURES).open("rb") as records,
            (self.folder / SIGNATURES).open("rb") as signatures,
        ):
            while data := records.read(_AT_ONCE * FEATURE.itemsize):
                for place, length, fingerprint, signed, measures in np.frombuffer(
                    data, dtype=FEATURE
                ).tolist():
                    signature = signatures.read(SIGNATURE_BYTES) if signed else None
                    yield Feature(
                        place=place,
                        sketch=Sketch(fingerprint, signature, length),
                        measures=_measures(measures),
                    )


def _place(index: BinaryIO, place: int) -> tuple[int, int, int]:
    """The record of ``places.bin`` at a place."""
    index.seek(PLACE.size * place)
    number, begins, within = PLACE.unpack(index.read(PLACE.size))
    return number, begins, within


def row_lines(rows: Sequence[Row], begins: int) -> tuple[bytes, bytes]:
    """Rows as (lines of ``rows.jsonl``, records of ``places.bin``).

    Args:
        rows: rows of a shard, in order.
        begins: bytes that ``rows.jsonl`` has so far.
    """
    lines, places = [], []
    for start in range(0, len(rows), ROWS_A_LINE):
        group = rows[start : start + ROWS_A_LINE]
        line = (_encode([row.values() for row in group]) + "\n").encode()
        lines.append(line)
        places += [PLACE.pack(row.number, begins, within) for within, row in enumerate(group)]
        begins += len(line)
    return b"".join(lines), b"".join(places)


def feature_records(features: Sequence[Feature]) -> tuple[bytes, bytes]:
    """Features as (records, signatures of those that have one)."""
    if not features:
        return b"", b""
    records = np.zeros(len(features), dtype=FEATURE)
    records["place"] = [feature.place for feature in features]
    records["length"] = [feature.sketch.length for feature in features]
    records["fingerprint"] = np.frombuffer(
        b"".join(feature.sketch.fingerprint for feature in features), dtype=FEATURE["fingerprint"]
    )
    records["signed"] = [feature.sketch.signature is not None for feature in features]
    unmeasured = (-1.0,) * len(MEASURES)
    records["measures"] = [
        _values(feature.measures) if feature.measures else unmeasured for feature in features
    ]
    return records.tobytes(), b"".join(feature.sketch.signature or b"" for feature in features)


_values: Callable[[Measures], tuple[float, ...]] = attrgetter(*MEASURES)


def _measures(record: npt.NDArray[np.float64]) -> Measures | None:
    values = record.tolist()
    if values[0] < 0:
        return None
    return Measures(characters=int(values[0]), **dict(zip(MEASURES[1:], values[1:], strict=True)))


def shard_key(part: Slice, source: GateSource, fingerprint: str) -> str:
    """SHA-256 of everything that decides a shard's result: its bytes, how they are read, settings and code."""
    format = source.format.model_dump_json() if source.format else ""
    digest = hashlib.sha256(json.dumps([part.form, part.codec, format, fingerprint]).encode())
    digest.update(part.data)
    return digest.hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether a shard's folder is there and its files have the sizes they were written with."""
    try:
        sizes = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError, KeyError):
        return False


def load_shard(folder: Path, part: Slice, shown: str, base: int) -> tuple[Shard, dict[str, Tally]]:
    """The finished shard of a slice, and its counts by step; its folder is marked as used today.

    Args:
        folder: its folder.
        part: the slice; only its place is looked at.
        shown: name of the file.
        base: rows before it in the run.
    """
    values = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    mark_used(folder)
    tallies = {name: Tally.of(tally) for name, tally in values["tallies"].items()}
    for tally in tallies.values():
        for examples in tally.examples.values():
            for example in examples:
                example["where"] = f"{shown}:{part.first + int(example['where'])}"
    shard = Shard(
        folder=folder,
        source=part.source,
        shown=shown,
        first=part.first,
        base=base,
        rows=values["rows"],
        codecs=values["codecs"],
        languages=values["languages"],
        alive=Alive.of(values["alive"]),
    )
    return shard, tallies


@contextmanager
def named_disk_faults(folder: Path) -> Iterator[None]:
    """Turn the faults of writing below a folder into ``EnvironmentFault``."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write: {error.strerror or error}",
            where=str(folder),
            why="finished parts are kept, so that a repeated run goes on from there",
            fix="free disk space there, or let SOVTUNE_HOME name a folder on a larger disk",
        ) from error
