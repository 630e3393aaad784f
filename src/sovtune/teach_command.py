"""The teacher of a run: compared with the base, and asked once about each row before training begins."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovtune.base import ResolvedBase, cache_home
from sovtune.errors import BaseUnavailable, EnvironmentFault, UsageError
from sovtune.figures import duration, share
from sovtune.plan import read_base_facts
from sovtune.plan_teacher import READ_AT_ONCE
from sovtune.progress import Reporter
from sovtune.recipe import Recipe
from sovtune.recipe_distil import Distil
from sovtune.records import TeacherRecord
from sovtune.runs import write_atomic

if TYPE_CHECKING:
    from sovtune.train.group import Group
    from sovtune.train.rows import Row
    from sovtune.train.taught import TaughtStore

ABOUT = "about.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Who teaches whom: a recipe with its teacher, and where the two models lie."""

    recipe: Recipe
    section: Distil
    base: Path
    teacher: ResolvedBase

    @property
    def words(self) -> int:
        """Tokens that the base can write."""
        return read_base_facts(self.base).vocabulary

    def about(self) -> dict[str, Any]:
        """All that the teacher's numbers depend on, but for rounding on other processors and by the plain engine."""
        return {
            "teacher": self.teacher.record.model,
            "content_sha256": self.teacher.record.content_sha256,
            "quantisation": self.section.teacher.quantisation.model_dump(mode="json"),
            "temperature": self.section.temperature,
            "top": self.section.top,
            "vocabulary": self.words,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What the teacher said, and the record of it."""

    store: TaughtStore
    record: TeacherRecord


@contextmanager
def at_the_teacher() -> Iterator[None]:
    """Errors about a base that are raised within name the teacher's part of the recipe."""
    try:
        yield
    except BaseUnavailable as error:
        if error.where is not None and error.where.startswith("base."):
            error.where = f"distil.teacher.{error.where.removeprefix('base.')}"
        raise


@contextmanager
def taught(
    lesson: Lesson | None, rows: Sequence[Row], group: Group, report: Reporter
) -> Iterator[Learnt | None]:
    """What the teacher finds likely in these rows; what the cache knows is not asked again.

    The first process of a group asks, the others wait. As long as the block lasts nobody clears it away.

    Args:
        lesson: None for a run without a teacher.
        rows: each row of the run once.
        group: the processes that train together.
        report: told what takes time.

    Raises:
        EnvironmentFault: out of memory, or the teacher cannot be loaded.
        UsageError: as many tokens are to be kept as the base has.
    """
    if lesson is None:
        yield None
        return
    _check_top(lesson)
    from sovtune.data.caches import TAUGHT, held, writing
    from sovtune.train.rows import digest
    from sovtune.train.taught import TaughtStore

    text = json.dumps(lesson.about(), indent=2, sort_keys=True) + "\n"
    folder = cache_home() / TAUGHT / hashlib.sha256(text.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    begun, asked = time.monotonic(), 0
    names = [digest(row) for row in rows]
    with held(folder):
        if group.leads:
            with writing(folder):
                write_atomic(folder / ABOUT, text)
                store = TaughtStore(folder, lesson.section.top)
                missing = store.missing(names)
                asked = _ask(lesson, (rows[at] for at in missing), len(missing), store, report)
        group.wait()
        store = TaughtStore(folder, lesson.section.top)
        record = _record(lesson, store.covered(names), asked, time.monotonic() - begun)
        if asked or group.world == 1:
            of = (
                f"{asked:,} of {len(rows):,} rows read"
                if asked
                else f"all {len(rows):,} rows were read before"
            )
            report.say(
                f"teacher {record.model}: {of}, {duration(record.seconds)}; the {record.top} likeliest tokens have "
                f"{share(record.covered)} of its probability"
            )
        yield Learnt(store=store, record=record)


def _check_top(lesson: Lesson) -> None:
    top, words = lesson.section.top, lesson.words
    if top >= words:
        raise UsageError(
            f"{top} tokens are to be kept of a vocabulary of {words}",
            where="distil.top",
            why="all others count as one token, so that one at least must be left",
            fix="write a smaller distil.top, such as 64",
        )


def _ask(lesson: Lesson, rows: Iterable[Row], count: int, store: TaughtStore, report: Reporter) -> int:
    """Let the teacher read rows that are not known yet, as they come; how many those were."""
    if not count:
        return 0
    from sovtune.model import load_teacher
    from sovtune.train.out_of_memory import named_memory_faults, release_freed_memory
    from sovtune.train.teacher import Teacher, grouped

    report.say(f"loading the teacher, {lesson.teacher.record.model}")
    with named_memory_faults(_no_memory_to_ask):
        loaded = load_teacher(lesson.recipe, lesson.section.teacher.quantisation, lesson.teacher.folder)
        for note in loaded.notes:
            report.say(f"teacher: {note}")
        teacher = Teacher(loaded.model, fast=loaded.fast, section=lesson.section, words=lesson.words)
        for done in store.add(grouped(rows, READ_AT_ONCE[loaded.device]), teacher):
            report.update(done, count, "rows read by the teacher")
    del loaded, teacher
    release_freed_memory()
    return count


def _record(lesson: Lesson, covered: float, asked: int, seconds: float) -> TeacherRecord:
    section, record = lesson.section, lesson.teacher.record
    return TeacherRecord(
        model=record.model,
        revision=record.revision,
        licence=section.teacher.licence,
        content_sha256=record.content_sha256,
        parameters=record.parameters,
        quantisation=section.teacher.quantisation.kind,
        weight=section.weight,
        temperature=section.temperature,
        top=section.top,
        covered=covered,
        rows_asked=asked,
        seconds=seconds,
    )


def _no_memory_to_ask(reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "out of memory while the teacher reads the rows; what it has read is kept",
        where="distil.teacher",
        why=reason,
        fix="store it smaller (`distil.teacher.quantisation.kind: nf4`), shorten train.rows.max_length, or let a "
        "larger machine read the rows: copy its folder `taught` of $SOVTUNE_HOME here",
    )
