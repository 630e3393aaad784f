"""The data gate: files in, curated documents and a report out; memory does not grow with the files.

Three passes. First every shard (a slice of about 8 MB of one file) goes through the steps that need no other
shard, in worker processes, and its result is written to the work folder under a name made from its bytes, the
settings and the code: a killed run goes on from there, and an edited file has another name. Then duplicates are
searched for among all rows that are left, and percentiles are taken; the report adds up what the shards counted and
takes off what this search dropped. The last pass, for who wants the rows, reads them in the order of the input and
says what became of each. The result depends neither on the number of workers nor on the shard size.
"""

from __future__ import annotations

import heapq
import os
import shutil
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from sovtune.data.document import Document, joined
from sovtune.data.files import hash_file
from sovtune.data.gate_duplicates import Search
from sovtune.data.gate_held_out import HeldOut, read_held_out
from sovtune.data.gate_pool import Engine, LocalEngine, finished_shards
from sovtune.data.gate_ray import ray_engine
from sovtune.data.gate_ray_cluster import RayCluster
from sovtune.data.gate_read import SHARD_BYTES, GateSource, Slice, open_fault, slices
from sovtune.data.gate_refine import ShardContext
from sovtune.data.gate_report import DataGateReport, GateInput, HeldOutSet, Tally, new_tallies, shares
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.data.gate_shard import Alive, Row, Shard, load_shard, named_disk_faults
from sovtune.data.gate_steps import shortened
from sovtune.data.gate_verdicts import JudgedRow, Verdict, VerdictFiles
from sovtune.data.quality import Measures, Thresholds, from_percentiles
from sovtune.errors import UsageError
from sovtune.records import FileHash

SAMPLE = 20_000
"""Texts that percentiles are taken from: those with the smallest fingerprints, the same in any order of reading."""
Progress = Callable[[int, int], None]
"""Called with rows done and bytes of text read so far."""


class Curated:
    """A finished run; rows and documents can be read as often as wanted while the work folder is held."""

    def __init__(self, run: _Run, report: DataGateReport):
        self._run = run
        self.report = report

    def rows(self) -> Iterator[JudgedRow]:
        """What became of every row, in the order of the input."""
        return self._run.judged()

    def documents(self) -> Iterator[Document]:
        """The curated documents, in the order of the input."""
        return (
            row.document
            for _, row, verdict in self._run.rows()
            if verdict is None and row.document is not None
        )


@contextmanager
def curate(
    sources: Sequence[GateSource],
    settings: GateSettings,
    work_dir: Path,
    *,
    held_out: Sequence[GateSource] = (),
    workers: int | None = None,
    cluster: RayCluster | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Iterator[Curated]:
    """Put files through the gate.

    Args:
        sources: the files, in the order in which their rows are wanted; duplicates are found across all of them.
        settings: languages, policies, limits.
        work_dir: folder of finished shards; may be kept and used again, by one run at a time.
        held_out: evaluation files; rows that overlap with them are dropped.
        workers: processes; None is one per core of this machine, or of the cluster.
        cluster: a Ray cluster that does the work; None is processes of this machine. The result is the same.
        shard_bytes: size of a slice; changes memory and speed, never the result.
        progress: told after every shard.

    Raises:
        DataRefused: a file is missing, broken, empty, not text, or of unknown keys.
        UsageError: no files, the work folder is in use, or settings that cannot be followed.
        EnvironmentFault: the work folder cannot be written, a worker process was killed, or the cluster cannot
            be used (see ``ray_engine``).
    """
    if not sources:
        raise UsageError("no files to read", fix="name at least one file")
    if (workers is not None and workers < 1) or not 1 <= shard_bytes <= 64 << 20:
        raise UsageError("workers must be 1 or more, and a shard between 1 byte and 64 MB")
    for source in (*sources, *held_out):
        _ = source.file.kind
        open_fault(source.file)
    begun = time.monotonic()
    work_dir = work_dir.absolute()  # a worker elsewhere starts in another folder
    with _held(work_dir):
        run = _Run(tuple(sources), settings, work_dir, read_held_out(held_out, settings, work_dir))
        with _engine(workers, cluster, work_dir) as engine:
            run.refine(engine, shard_bytes, progress)
            with named_disk_faults(work_dir):
                run.compare(engine)
        yield Curated(run, run.report(engine.workers, begun))


@contextmanager
def _engine(workers: int | None, cluster: RayCluster | None, folder: Path) -> Iterator[Engine]:
    if cluster is None:
        yield LocalEngine(workers or os.cpu_count() or 1, folder)
        return
    with ray_engine(cluster, workers, folder) as engine:
        yield engine


@contextmanager
def _held(work_dir: Path) -> Iterator[None]:
    """The work folder, made, locked, and without the leavings of a killed run."""
    from filelock import FileLock, Timeout

    with named_disk_faults(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(work_dir / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            "another run is using this work folder",
            where=str(work_dir),
            fix="wait until it has finished, or name another folder",
        ) from error
    try:
        for leftover in work_dir.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


class _Run:
    """The passes of one run over its work folder."""

    def __init__(
        self, sources: tuple[GateSource, ...], settings: GateSettings, folder: Path, held_out: HeldOut | None
    ):
        self.sources, self.settings, self.folder, self.held_out = sources, settings, folder, held_out
        self.hashes: list[FileHash] = []
        self.shards: list[Shard] = []
        self.bases: list[int] = []
        self.reused = 0
        self.tallies = new_tallies()
        self.found: list[Counter[str]] = [Counter() for _ in sources]
        self.limits = settings.quality if isinstance(settings.quality, Thresholds) else None
        self.verdicts = VerdictFiles(folder)

    # Pass 1

    def refine(self, engine: Engine, shard_bytes: int, progress: Progress | None) -> None:
        """Every shard through the steps that need no other shard."""
        self.hashes = [hash_file(source.file) for source in self.sources]
        context = ShardContext(
            settings=self.settings,
            sources=self.sources,
            held_out=self.held_out.index if self.held_out else None,
            fingerprint=self.settings.fingerprint(self.held_out.sha256 if self.held_out else ""),
            folder=self.folder,
        )
        with engine.pool(context) as pool:
            for part, folder, reused in finished_shards(self._parts(shard_bytes), context, pool):
                self._add(part, folder, reused)
                if progress is not None:
                    progress(self.tallies["read"].rows, self.tallies["read"].bytes)

    def _add(self, part: Slice, folder: Path, reused: bool) -> None:
        rows = self.tallies["read"].rows
        shard, tallies = load_shard(folder, part, self.sources[part.source].file.shown, rows)
        self.shards.append(shard)
        self.bases.append(rows)
        self.reused += reused
        for name, tally in tallies.items():
            self.tallies[name].add(tally)
        self.found[part.source].update(tallies["personal_data"].found)

    def _parts(self, shard_bytes: int) -> Iterator[Slice]:
        for place, source in enumerate(self.sources):
            yield from slices(place, source, self.settings.languages, shard_bytes, self.folder)

    # Pass 2

    def compare(self, engine: Engine) -> None:
        """Percentiles, then duplicates among the rows that are left."""
        if isinstance(self.settings.quality, Percentiles):
            self.limits = self._limits(self.settings.quality)
        search = Search(
            shards=tuple(self.shards),
            held_out=self.held_out.sketches if self.held_out else (),
            limits=self.limits if isinstance(self.settings.quality, Percentiles) else None,
            threshold=self.settings.duplicate_threshold,
        )
        begun = time.perf_counter()
        with self.verdicts.writing() as write:
            for verdict in search.outside():
                write(verdict)
            if self.settings.duplicates:
                for gone in engine.duplicates(search):
                    write(Verdict(gone.row, "duplicates", gone.reason, gone.kept, gone.similarity))
        self.tallies["duplicates"].seconds += time.perf_counter() - begun

    def _limits(self, wanted: Percentiles) -> Thresholds:
        least = Thresholds().min_length
        sample: list[tuple[int, int, Measures]] = []  # a heap with the largest fingerprint on top
        seen: set[int] = set()
        for shard in self.shards:
            for feature in shard.features():
                if feature.measures is None or feature.measures.characters < least:
                    continue
                key = int.from_bytes(feature.sketch.fingerprint, "big")
                if key in seen or (len(sample) == SAMPLE and -key < sample[0][0]):
                    continue
                seen.add(key)
                entry = (-key, shard.base + feature.place, feature.measures)
                if len(sample) < SAMPLE:
                    heapq.heappush(sample, entry)
                else:
                    seen.discard(-heapq.heapreplace(sample, entry)[0])
        return from_percentiles([measures for _, _, measures in sample], wanted.low, wanted.high)

    # Pass 3

    def rows(self) -> Iterator[tuple[Shard, Row, Verdict | None]]:
        """Every row with the verdict of pass 2, in order."""
        verdicts = self.verdicts.read()
        verdict = next(verdicts, None)
        for shard in self.shards:
            for place, row in enumerate(shard.read_rows(), shard.base):
                if verdict is not None and verdict.row == place:
                    yield shard, row, verdict
                    verdict = next(verdicts, None)
                else:
                    yield shard, row, None

    def judged(self) -> Iterator[JudgedRow]:
        for shard, row, verdict in self.rows():
            kept_in_stead = verdict.kept if verdict is not None else None
            yield JudgedRow(
                file=shard.shown,
                row=row.number,
                document=row.document if verdict is None else None,
                language=row.tag,
                step=verdict.step if verdict is not None else row.step,
                reason=verdict.reason if verdict is not None else row.reason or None,
                changed=tuple(row.changed),
                found=tuple(row.found),
                duplicate_of=self.where(kept_in_stead) if kept_in_stead is not None else None,
            )

    def where(self, place: int) -> str:
        """``file:row`` of a row of the input, or of a held-out text (negative)."""
        if place < 0:
            return self.held_out.where(-1 - place) if self.held_out else ""
        number = self._shard_of(place)
        return self.shards[number].where(place - self.bases[number])

    def report(self, workers: int, begun: float) -> DataGateReport:
        """Add up what the shards counted, and take off what the search among them dropped."""
        left: list[Alive] = [Alive() for _ in self.sources]
        for shard in self.shards:
            left[shard.source].add(shard.alive)
        self._take_off(left)
        return self._record(left, workers, time.monotonic() - begun)

    def _take_off(self, left: Sequence[Alive]) -> None:
        steps = self.tallies
        if self.settings.duplicates:
            steps["duplicates"].rows += sum(alive.rows for alive in left)
            steps["duplicates"].bytes += sum(alive.size for alive in left)
        for number, group in groupby(self.verdicts.read(), lambda verdict: self._shard_of(verdict.row)):
            shard, verdicts = self.shards[number], list(group)
            rows = shard.rows_at(verdict.row - self.bases[number] for verdict in verdicts)
            for verdict, row in zip(verdicts, rows, strict=True):
                left[shard.source].count(row, -1)
                self._count_dropped(verdict, row)

    def _count_dropped(self, verdict: Verdict, row: Row) -> None:
        if row.document is None:  # the search looks at rows with a document only
            return
        if verdict.step == "quality" and self.settings.duplicates:
            self.tallies["duplicates"].rows -= 1
            self.tallies["duplicates"].bytes -= row.size
        step = self.tallies[verdict.step]
        text = note = ""
        if step.wants_example(verdict.reason):
            text = shortened(joined(row.document), self.settings.languages)
            if verdict.kept is not None:
                note = f"{verdict.similarity:.0%} like {self.where(verdict.kept)}"
        step.drop(verdict.reason, where=row.document.where, text=text, note=note)

    def _shard_of(self, place: int) -> int:
        return bisect_right(self.bases, place) - 1

    def _record(self, left: Sequence[Alive], workers: int, seconds: float) -> DataGateReport:
        tallies, kept = self.tallies, Alive()
        for alive in left:
            kept.add(alive)
        found = tallies["personal_data"].found + tallies["secrets"].found
        before: Counter[str] = Counter()
        for shard in self.shards:
            before.update(shard.languages)
        limits = (
            {entry.name: getattr(self.limits, entry.name) for entry in fields(Thresholds)}
            if self.limits
            else {}
        )
        return DataGateReport(
            language=self.settings.language,
            candidates=self.settings.languages,
            settings=self.settings.in_words(),
            inputs=tuple(self._input(place, alive.rows) for place, alive in enumerate(left)),
            rows=tallies["read"].rows,
            kept=kept.rows,
            bytes_read=tallies["read"].bytes,
            bytes_kept=kept.text_bytes,
            steps=tuple(tally.step(name) for name, tally in tallies.items()),
            personal_data=dict(found.most_common()),
            languages_before=shares(before),
            languages_after=shares(kept.weights()),
            limits={name: float(limit) for name, limit in limits.items() if limit is not None},
            held_out=self._held_out(tallies["contamination"]),
            seconds=round(seconds, 3),
            workers=workers,
            shards=len(self.shards),
            shards_reused=self.reused,
        )

    def _input(self, place: int, kept: int) -> GateInput:
        source, hashed = self.sources[place], self.hashes[place]
        own = [shard for shard in self.shards if shard.source == place]
        codecs: Counter[str] = Counter()
        letters: Counter[str] = Counter()
        for shard in own:
            codecs.update(shard.codecs)
            letters.update(shard.languages)
        return GateInput(
            file=source.file.shown,
            card=source.card,
            bytes=hashed.bytes,
            sha256=hashed.sha256,
            rows=sum(shard.rows for shard in own),
            kept=kept,
            codecs=dict(codecs.most_common()),
            letters={tag: round(weight, 2) for tag, weight in letters.most_common()},
            found=dict(self.found[place].most_common()),
        )

    def _held_out(self, tally: Tally) -> tuple[HeldOutSet, ...]:
        if self.held_out is None:
            return ()
        index = self.held_out.index
        return tuple(
            HeldOutSet(
                name=name,
                texts=index.texts.get(name, 0),
                too_short=index.too_short.get(name, 0),
                hits=tally.found[name],
            )
            for name in self.held_out.names
        )
