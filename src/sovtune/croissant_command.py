"""`sovtune data croissant`: write a data card as Croissant JSON-LD."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune.data.card import LoadedCard, load_card
from sovtune.data.card_schema import HUB_PREFIX, DataFile, Format
from sovtune.data.croissant import croissant, left_out
from sovtune.data.croissant_records import Row, needs_row
from sovtune.data.entries import files_of
from sovtune.data.formats import read_rows
from sovtune.data.rows import guess_format
from sovtune.errors import UsageError
from sovtune.runs import write_result

if TYPE_CHECKING:
    from sovtune.progress import Reporter

_PUBLIC_HUB = "https://huggingface.co"


def export_croissant(card: Path, out: Path | None, progress: Reporter) -> str:
    """The card as JSON-LD; also written to ``out`` when that is given.

    Raises:
        CardError: the card is wrong.
        DataRefused: a file whose rows the card does not describe cannot be read; or nothing reads such files.
        UsageError: ``out`` is the card or one of its files.
        EnvironmentFault: ``out`` cannot be written.
    """
    loaded = load_card(card)
    if out is not None:
        _refuse_to_overwrite(loaded, out)
    rows = tuple(_rows(loaded, entry) for entry in loaded.card.files)
    document = croissant(
        loaded,
        rows,
        beside=loaded.folder if out is None else out.parent,
        hub=os.environ.get("HF_ENDPOINT") or _PUBLIC_HUB,
    )
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    if out is not None:
        write_result(out, text, what="the file")
    for entry, known in zip(loaded.card.files, rows, strict=True):
        if entry.path.startswith(HUB_PREFIX):
            progress.say(f"{entry.path}: named as a repository, its records are not described")
        elif known is None:
            progress.say(f"{entry.path}: records not described, `format` is missing in the card")
    missing = left_out(document)
    if missing:
        progress.say(f"left out, though Croissant asks for it (the card does not say): {', '.join(missing)}")
    return text


def _rows(loaded: LoadedCard, entry: DataFile) -> tuple[Format, Row] | None:
    """What a row of this entry is, with its first row where the card alone does not tell."""
    format = loaded.card.format
    if entry.path.startswith(HUB_PREFIX):
        return None
    if format is not None and not needs_row(format):
        return format, {}
    file = files_of(loaded.card, entry, loaded.folder)[0]
    for _, row in read_rows(file, format):
        if isinstance(row, str):
            return Format(kind="text"), {}
        if isinstance(row, Mapping):
            known = format or guess_format(row)
            return (known, row) if known else None
    return None


def _refuse_to_overwrite(loaded: LoadedCard, out: Path) -> None:
    taken = [loaded.path, *(loaded.folder / entry.path for entry in loaded.card.files)]
    if os.path.realpath(out) in {os.path.realpath(path) for path in taken}:
        raise UsageError(
            "this would overwrite the card or its data", where=str(out), fix="give --out another name"
        )
