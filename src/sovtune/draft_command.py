"""`sovtune data card`: measure files and write a data card with the questions that are left."""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune.data.card_draft import draft_text
from sovtune.data.card_questions import open_questions
from sovtune.data.card_schema import DataFile, Format
from sovtune.data.entries import Figures, hash_entry
from sovtune.data.files import LocalFile
from sovtune.data.formats import count_rows, read_rows
from sovtune.data.gate import curate
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_settings import GateSettings
from sovtune.data.rows import guess_format
from sovtune.errors import UsageError
from sovtune.runs import write_result
from sovtune.scan_command import check_tags, sources_of
from sovtune.yaml_file import parse_yaml

if TYPE_CHECKING:
    from sovtune.progress import Reporter

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """What the command line asked for."""

    files: tuple[Path, ...]
    language: str
    out: Path
    candidates: tuple[str, ...] = ()
    against: tuple[Path, ...] = ()
    card_id: str | None = None
    workers: int = 2


def draft_card(request: DraftRequest, progress: Reporter) -> list[str]:
    """Measure the files and write the card.

    Returns:
        Paths of the values that are questions, such as ``licence.expression``.

    Raises:
        UsageError: the card is there already, its name is no id, or there is no such file.
        DataRefused: a file is broken.
        EnvironmentFault: the card cannot be written.
    """
    card_id = _checked_id(request)
    check_tags((request.language, *request.candidates))
    settings = GateSettings(
        language=request.language,
        candidates=request.candidates,
        check_language=False,
        quality=None,
        personal_data="report",
    )
    progress.stage("card")
    per_path = [sources_of([path], settings.languages) for path in request.files]
    sources = [source for group in per_path for source in group]
    format = _common_format(sources)
    figures = [
        _figures(path, group, format, request.out.parent)
        for path, group in zip(request.files, per_path, strict=True)
    ]
    held_out = sources_of(request.against, settings.languages, any_fields=True)
    with (
        tempfile.TemporaryDirectory(prefix="sovtune-card-") as work,
        curate(sources, settings, Path(work), held_out=held_out, workers=request.workers) as curated,
    ):
        report = curated.report
    progress.say(f"{report.rows:,} rows measured")
    text = draft_text(card_id, figures, format, report, dt.datetime.now(tz=dt.UTC).date())
    write_result(request.out, text, what="the card")
    return [problem.path for problem in open_questions(parse_yaml(text, str(request.out)))]


def _checked_id(request: DraftRequest) -> str:
    out = request.out
    if os.path.lexists(out):
        raise UsageError(
            "this card is there already", where=str(out), fix="name another file, or remove it first"
        )
    if not out.parent.is_dir():
        raise UsageError("there is no such folder", where=str(out.parent), fix=f"mkdir -p {out.parent}")
    card_id = request.card_id or re.sub(r"[^a-z0-9._-]+", "-", out.stem.lower()).strip("-._")
    if not _ID.fullmatch(card_id):
        raise UsageError(
            f"`{card_id}` is no short name for data",
            why="an id has small letters a to z, digits, `.`, `_` and `-`, at most 63",
            fix="give one with --id",
        )
    return card_id


def _common_format(sources: Sequence[GateSource]) -> Format | None:
    """What the first row of every file says a row is; None when the keys are unusual.

    Raises:
        UsageError: the files do not agree: one card describes rows of one kind.
    """
    kinds = {source.file.shown: _first_format(source.file) for source in sources}
    distinct = {format.kind if format else None for format in kinds.values()}
    if len(distinct) > 1:
        listed = ", ".join(
            f"{name}: {format.kind if format else 'unknown'}" for name, format in kinds.items()
        )
        raise UsageError(
            f"the files hold rows of different kinds ({listed})", fix="draft a card for each kind"
        )
    return next(iter(kinds.values()))


def _first_format(file: LocalFile) -> Format | None:
    for _, row in read_rows(file, None):
        if isinstance(row, str):
            return Format(kind="text")
        if isinstance(row, Mapping):
            return guess_format(row)
    return None


def _figures(path: Path, group: Sequence[GateSource], format: Format | None, folder: Path) -> Figures:
    """Size, hash and rows of a file or folder, under its path relative to the card."""
    files = tuple(source.file for source in group)
    shown = Path(os.path.relpath(path, folder)).as_posix()
    named = tuple(
        LocalFile(path=file.path, shown=shown + file.shown.removeprefix(str(path)), languages=file.languages)
        for file in files
    )
    entry = DataFile(path=shown, sha256="0" * 64, rows=1)  # only its path is looked at
    rows = sum(count_rows(file, format) for file in named)
    return Figures(hash=hash_entry(entry, named), rows=rows)
