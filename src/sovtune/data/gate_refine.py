"""One shard through all steps that need no other shard, in batches, in whichever process."""

from __future__ import annotations

import json
import os
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sovtune.data.contamination import EvalIndex
from sovtune.data.dedup import sketch_all
from sovtune.data.document import Document
from sovtune.data.gate_read import GateSource, RawRow, Slice, joined, rows_of
from sovtune.data.gate_report import new_tallies
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.data.gate_shard import (
    FEATURES,
    NUMBERS,
    ROWS,
    SIGNATURES,
    SUMMARY,
    Feature,
    Row,
    feature_record,
    is_finished,
    named_disk_faults,
)
from sovtune.data.gate_steps import (
    Dropped,
    Kept,
    Outcome,
    check_contamination,
    check_language,
    check_quality,
    hide_personal_data,
    hide_secrets,
    language_of,
    normalise_document,
    shortened,
)
from sovtune.data.quality import Measures, measure
from sovtune.data.scripts import primary

BATCH_BYTES = 1 << 19
"""Text that goes through the steps together: what lies in memory at once besides the slice itself."""
BATCH_ROWS = 8192
_NOTHING_SPECIAL = ("utf-8", "utf-8-sig")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardContext:
    """What every shard of a run shares; sent to each worker once."""

    settings: GateSettings
    sources: tuple[GateSource, ...]
    held_out: EvalIndex | None
    fingerprint: str
    folder: Path


def refine(part: Slice, key: str, context: ShardContext) -> None:
    """Take one shard through the steps and write its folder.

    Args:
        part: the rows.
        key: name of the folder, see ``shard_key``.
        context: settings and the folder of all shards.

    Raises:
        EnvironmentFault: the folder cannot be written, for example because the disk is full.
    """
    target = context.folder / key
    scratch = context.folder / f".part-{os.getpid()}-{key[:16]}"
    with named_disk_faults(context.folder):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            _Refinery(part, context, scratch).run()
            if not is_finished(target):  # else another worker was given the same text and was first
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


class _Refinery:
    """The steps over one slice."""

    def __init__(self, part: Slice, context: ShardContext, folder: Path):
        self.part, self.context, self.folder = part, context, folder
        self.settings = context.settings
        self.tallies = new_tallies()
        self.codecs: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.recomposed: set[int] = set()  # rows that reading brought to NFC
        self.measures: dict[int, Measures] = {}

    def run(self) -> None:
        rows = 0
        paths = [self.folder / name for name in (ROWS, NUMBERS, FEATURES, SIGNATURES)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            lines, numbers, records, signatures = files
            for batch in self._batches():
                self._judge(batch)
                lines.write("".join(row.line() for row in batch).encode())
                numbers.write(array("q", [row.number for row in batch]).tobytes())
                for feature in self._features(batch, rows):
                    record, signature = feature_record(feature)
                    records.write(record)
                    signatures.write(signature)
                rows += len(batch)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        summary = {
            "sizes": {path.name: path.stat().st_size for path in paths},
            "rows": rows,
            "codecs": self.codecs,
            "languages": self.languages,
            "tallies": {name: tally.as_json() for name, tally in self.tallies.items()},
        }
        with (self.folder / SUMMARY).open("w", encoding="utf-8") as stream:
            json.dump(summary, stream, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())

    def _batches(self) -> Iterator[list[Row]]:
        batch: list[Row] = []
        held = 0
        tally = self.tallies["read"]
        begun = time.perf_counter()
        for raw in rows_of(self.part, self.context.sources[self.part.source], self.settings.languages):
            batch.append(self._read(raw))
            held += raw.size
            if held >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                tally.seconds += time.perf_counter() - begun
                yield batch
                batch, held, begun = [], 0, time.perf_counter()
        tally.seconds += time.perf_counter() - begun
        if batch:
            yield batch

    def _read(self, raw: RawRow) -> Row:
        tally = self.tallies["read"]
        tally.rows += 1
        tally.bytes += raw.size
        self.codecs[raw.codec] += 1
        row = Row(number=raw.number - self.part.first, size=raw.size, document=raw.document)
        if raw.codec not in _NOTHING_SPECIAL:
            tally.changed += 1
            tally.changes[raw.codec] += 1
            row.changed.append("read")
        if raw.document is None:
            self._drop("read", row, Dropped(reason=raw.reason, note=raw.message))
        elif raw.changed:
            self.recomposed.add(row.number)
        return row

    def _judge(self, batch: Sequence[Row]) -> None:
        settings = self.settings
        self._each(
            "normalise", batch, lambda _, document: normalise_document(document, settings.clean_policy)
        )
        self._each("language", batch, self._language)
        self._each("quality", batch, self._quality)
        self._each(
            "secrets", batch, lambda _, document: hide_secrets(document, settings.secrets, settings.language)
        )
        self._each(
            "personal_data",
            batch,
            lambda _, document: hide_personal_data(document, settings.personal_data, settings.languages),
        )
        index = self.context.held_out
        if index is not None and settings.contamination:
            begun = time.perf_counter()
            alive = [(row, row.document) for row in batch if row.document is not None]
            outcomes = check_contamination([document for _, document in alive], index)
            for (row, _), outcome in zip(alive, outcomes, strict=True):
                self._take("contamination", row, outcome)
            self.tallies["contamination"].seconds += time.perf_counter() - begun

    def _each(self, step: str, batch: Sequence[Row], apply: Callable[[Row, Document], Outcome]) -> None:
        begun = time.perf_counter()
        for row in batch:
            if row.document is not None:
                self._take(step, row, apply(row, row.document))
        self.tallies[step].seconds += time.perf_counter() - begun

    def _take(self, step: str, row: Row, outcome: Outcome) -> None:
        """Count what a step said about a row."""
        tally = self.tallies[step]
        tally.rows += 1
        tally.bytes += row.size
        tally.found.update(outcome.found)
        if step in ("personal_data", "secrets"):
            row.found.update(outcome.found)
        if isinstance(outcome, Dropped):
            self._drop(step, row, outcome)
            return
        changed = outcome.changed
        if step == "normalise" and row.number in self.recomposed:
            changed = tuple(dict.fromkeys(("nfc", *changed)))
        if changed:
            tally.changed += 1
            tally.changes.update(changed)
            row.changed.append(step)
        row.document = outcome.document

    def _drop(self, step: str, row: Row, outcome: Dropped) -> None:
        tally = self.tallies[step]
        text = note = ""
        if tally.wants_example(outcome.reason):
            note = shortened(outcome.note, self.settings.languages)
            text = shortened(joined(row.document), self.settings.languages) if row.document else ""
        tally.drop(outcome.reason, where=str(row.number), text=text, note=note)
        row.step, row.reason, row.document = step, outcome.reason, None

    def _language(self, row: Row, document: Document) -> Outcome:
        found = language_of(document, self.settings)
        row.languages = {tag: round(share * found.letters, 2) for tag, share in found.shares.items()}
        self.languages.update(row.languages)
        row.tag = found.tag
        return check_language(document, found, self.settings)

    def _quality(self, row: Row, document: Document) -> Outcome:
        quality = self.settings.quality
        if quality is None:
            return Kept(document=document)
        known = {primary(tag) for tag in self.settings.kept_languages}
        measures = measure(joined(document), row.tag if primary(row.tag) in known else self.settings.language)
        if isinstance(quality, Percentiles):  # known only when all shards are measured
            self.measures[row.number] = measures
            return Kept(document=document)
        return check_quality(document, measures, quality)

    def _features(self, batch: Sequence[Row], first: int) -> Iterator[Feature]:
        """Records of the rows that are left, for the search among all shards."""
        if not self.settings.duplicates and not self.measures:
            return
        begun = time.perf_counter()
        alive = [(place, row) for place, row in enumerate(batch, first) if row.document is not None]
        sketches = sketch_all([joined(row.document) for _, row in alive if row.document is not None])
        self.tallies["duplicates"].seconds += time.perf_counter() - begun
        for (place, row), sketch in zip(alive, sketches, strict=True):
            yield Feature(place=place, sketch=sketch, measures=self.measures.get(row.number))
        self.measures.clear()
