"""A shard's result on disk: a folder that appears whole or not at all, named by everything that decides it.

It holds ``rows.jsonl`` (one line per row: the verdict so far, and the text of rows that are not dropped yet),
``numbers.bin`` (the number of every row), ``features.bin`` and ``signatures.bin`` (fixed-size records of the rows not
dropped yet: what duplicates and percentiles are made from) and ``shard.json`` (counts, examples, and the sizes of
the other files). Rows are numbered from the beginning of the shard, so that the same text at another place is the
same shard.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sovtune.data.caches import mark_used
from sovtune.data.dedup import WIDTH, Sketch
from sovtune.data.document import Document, Message
from sovtune.data.gate_read import GateSource, Slice
from sovtune.data.gate_report import Tally
from sovtune.data.quality import Measures
from sovtune.errors import EnvironmentFault

ROWS, NUMBERS, FEATURES, SIGNATURES = "rows.jsonl", "numbers.bin", "features.bin", "signatures.bin"
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
SIGNATURE_BYTES = 4 * WIDTH
_AT_ONCE = 4096  # records read together


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
    found: Counter[str] = field(default_factory=Counter)
    languages: dict[str, float] = field(default_factory=dict)
    tag: str = ""

    def line(self) -> str:
        """The row as a line of ``rows.jsonl``."""
        document = self.document
        text: object = None
        if document is not None:
            turns = [[message.role, message.content] for message in document.messages]
            text = [turns, document.rejected, document.good] if document.text is None else document.text
        values = [
            self.number,
            self.size,
            self.step,
            self.reason,
            self.changed,
            self.found,
            self.languages,
            text,
        ]
        return json.dumps(values, ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str, shown: str, first: int) -> Row:
        """The inverse of ``line``, with the number and name the row has in its file."""
        number, size, step, reason, changed, found, languages, text = json.loads(line)
        where = f"{shown}:{first + number}"
        document = None
        if isinstance(text, str):
            document = Document(where=where, text=text)
        elif text is not None:
            turns, rejected, good = text
            messages = tuple(Message(role, content) for role, content in turns)
            document = Document(where=where, messages=messages, rejected=rejected, good=good)
        tag = next(iter(languages), "")
        kinds: Counter[str] = Counter(found) if found else Counter()
        return cls(first + number, size, document, step, reason, changed, kinds, languages, tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
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

    def read_rows(self) -> Iterator[Row]:
        """Every row in the order of the file."""
        with (self.folder / ROWS).open(encoding="utf-8") as stream:
            for line in stream:
                yield Row.of_line(line, self.shown, self.first)

    def where(self, place: int) -> str:
        """``file:row`` of the row at a place of the shard."""
        with (self.folder / NUMBERS).open("rb") as stream:
            stream.seek(8 * place)
            return f"{self.shown}:{self.first + int.from_bytes(stream.read(8), 'little')}"

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
