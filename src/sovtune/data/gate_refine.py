"""One shard through all steps that need no other shard, in batches, in whichever process."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sovtune.data.contamination import EvalIndex
from sovtune.data.dedup import sketch_all
from sovtune.data.document import Document, joined
from sovtune.data.gate_read import GateSource, RawRow, Slice, rows_of
from sovtune.data.gate_report import new_tallies
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.data.gate_shard import (
    FEATURES,
    PLACES,
    ROWS,
    SIGNATURES,
    SUMMARY,
    Alive,
    Feature,
    Row,
    feature_records,
    is_finished,
    named_disk_faults,
    row_lines,
)
from sovtune.data.gate_steps import (
    Dropped,
    Kept,
    Outcome,
    check_contamination,
    check_language,
    hide_all_personal_data,
    hide_all_secrets,
    normalise_all,
    shortened,
)
from sovtune.data.language import identify_documents
from sovtune.data.quality import Measures, judge_all, measure_all
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
        self.languages: dict[str, float] = {}  # weights by tag, see data.language
        self.recomposed: set[int] = set()  # rows that reading brought to NFC
        self.measures: dict[int, Measures] = {}
        self.alive = Alive()

    def run(self) -> None:
        rows = held = 0
        paths = [self.folder / name for name in (ROWS, PLACES, FEATURES, SIGNATURES)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            lines, places, records, signatures = files
            for batch in self._batches():
                self._judge(batch)
                line, place = row_lines(batch, held)
                lines.write(line)
                places.write(place)
                held += len(line)
                for row in batch:
                    self.alive.count(row)
                record, signature = feature_records(self._features(batch, rows))
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
            "alive": self.alive.as_json(),
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
        settings, index = self.settings, self.context.held_out
        self._each("normalise", batch, self._normalise)
        self._each("language", batch, self._language)
        self._each("quality", batch, self._quality)
        self._each(
            "secrets",
            batch,
            lambda _, documents: hide_all_secrets(documents, settings.secrets, settings.language),
        )
        self._each(
            "personal_data",
            batch,
            lambda _, documents: hide_all_personal_data(
                documents, settings.personal_data, settings.languages
            ),
        )
        if index is not None and settings.contamination:
            self._each("contamination", batch, lambda _, documents: check_contamination(documents, index))

    def _each(
        self,
        step: str,
        batch: Sequence[Row],
        apply: Callable[[Sequence[Row], Sequence[Document]], Sequence[Outcome | None]],
    ) -> None:
        """Take the rows of a batch that are left through a step; those of which it says None go on as they are."""
        begun = time.perf_counter()
        tally = self.tallies[step]
        alive = [(row, row.document) for row in batch if row.document is not None]
        rows = [row for row, _ in alive]
        tally.rows += len(rows)
        tally.bytes += sum([row.size for row in rows])
        for row, outcome in zip(rows, apply(rows, [document for _, document in alive]), strict=True):
            if outcome is not None:
                self._take(step, row, outcome)
        tally.seconds += time.perf_counter() - begun

    def _take(self, step: str, row: Row, outcome: Outcome) -> None:
        """Count what a step said about a row."""
        tally = self.tallies[step]
        tally.found.update(outcome.found)
        if step in ("personal_data", "secrets"):
            for kind, number in outcome.found.items():
                row.found[kind] = row.found.get(kind, 0) + number
        if isinstance(outcome, Dropped):
            self._drop(step, row, outcome)
            return
        if outcome.changed:
            tally.changed += 1
            tally.changes.update(outcome.changed)
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

    def _normalise(self, rows: Sequence[Row], documents: Sequence[Document]) -> Sequence[Outcome | None]:
        outcomes = normalise_all(documents, self.settings.clean_policy)
        for place, row in enumerate(rows):
            if row.number in self.recomposed:
                outcome = outcomes[place] or Kept(document=documents[place])
                if isinstance(outcome, Kept):
                    outcome = replace(outcome, changed=tuple(dict.fromkeys(("nfc", *outcome.changed))))
                outcomes[place] = outcome
        return outcomes

    def _language(self, rows: Sequence[Row], documents: Sequence[Document]) -> Sequence[Outcome | None]:
        found = identify_documents([joined(document) for document in documents], self.settings.languages)
        for row, languages in zip(rows, found, strict=True):
            row.tag = languages.tag
            row.languages = {
                tag: round(share * languages.letters, 2) for tag, share in languages.shares.items()
            }
            for tag, weight in row.languages.items():
                self.languages[tag] = self.languages.get(tag, 0) + weight
        return [check_language(languages, self.settings) for languages in found]

    def _quality(self, rows: Sequence[Row], documents: Sequence[Document]) -> Sequence[Outcome | None]:
        quality = self.settings.quality
        if quality is None:
            return [None] * len(rows)
        known = {primary(tag) for tag in self.settings.kept_languages}
        texts = [joined(document) for document in documents]
        tags = [row.tag if primary(row.tag) in known else self.settings.language for row in rows]
        if isinstance(quality, Percentiles):  # known only when all shards are measured
            self.measures.update(zip([row.number for row in rows], measure_all(texts, tags), strict=True))
            return [None] * len(rows)
        reasons = judge_all(texts, tags, quality)
        return [None if reason is None else Dropped(reason=reason) for reason in reasons]

    def _features(self, batch: Sequence[Row], first: int) -> list[Feature]:
        """Records of the rows that are left, for the search among all shards."""
        if not self.settings.duplicates and not self.measures:
            return []
        begun = time.perf_counter()
        alive = [(place, row) for place, row in enumerate(batch, first) if row.document is not None]
        sketches = sketch_all([joined(row.document) for _, row in alive if row.document is not None])
        self.tallies["duplicates"].seconds += time.perf_counter() - begun
        features = [
            Feature(place=place, sketch=sketch, measures=self.measures.get(row.number))
            for (place, row), sketch in zip(alive, sketches, strict=True)
        ]
        self.measures.clear()
        return features
