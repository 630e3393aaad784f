"""Documents out of the files of a data card: one stream, each document with the place it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sovtune.data.card import LoadedCard, chosen_files
from sovtune.data.card_schema import Format
from sovtune.data.document import Document
from sovtune.data.entries import files_of
from sovtune.data.files import LocalFile
from sovtune.data.formats import read_rows
from sovtune.data.rows import RowFault, guess_format, to_document, type_name
from sovtune.errors import DataRefused

ROWS_READ = "rows_read"
ROWS_USED = "rows_used"
NORMALISED = "normalised_nfc"
DROPPED = "dropped."
"""Before the reason of a row that was dropped, for example ``dropped.role_order``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """Which rows of a card, and what to do with those that do not fit its format."""

    split: str | None = None
    max_rows: int | None = None
    on_bad_row: Literal["error", "drop"] = "error"


def read_documents(loaded: LoadedCard, request: SourceRequest, counts: Counter[str]) -> Iterator[Document]:
    """Read a card's documents one by one; memory does not grow with the files.

    Text is kept as it is, but normalised to NFC. ``verify_files`` holds the files to the card, this does not.

    Args:
        loaded: the card.
        request: split, number of rows (the first ones, bad rows included), and what to do with bad rows.
        counts: is added to while reading: ``rows_read``, ``rows_used``, ``normalised_nfc`` (documents that
            it changed) and ``dropped.REASON``.

    Raises:
        DataRefused: a file is broken or is not what the card's format says; with ``on_bad_row`` error a row
            that does not fit; no row is left.
        EnvironmentFault: a Hub data set cannot be had.
    """
    before = counts[ROWS_READ], counts[ROWS_USED]
    for _, entry in chosen_files(loaded, request.split):
        for file in files_of(loaded.card, entry, loaded.folder):
            left = None if request.max_rows is None else request.max_rows - counts[ROWS_READ] + before[0]
            if left is None or left > 0:
                yield from _documents(loaded, file, left, request.on_bad_row, counts)
    if counts[ROWS_USED] == before[1]:
        dropped = ", ".join(f"{name} {count}" for name, count in sorted(dropped_rows(counts).items()))
        raise DataRefused(
            f"no row is left (dropped: {dropped})",
            where=loaded.where("files"),
            fix="correct `format` in the card; `on_bad_row: error` in the recipe shows the first bad row",
        )


def dropped_rows(counts: Counter[str]) -> dict[str, int]:
    """Rows that were dropped, by reason."""
    return {name.removeprefix(DROPPED): count for name, count in counts.items() if name.startswith(DROPPED)}


def _documents(
    loaded: LoadedCard, file: LocalFile, limit: int | None, on_bad_row: str, counts: Counter[str]
) -> Iterator[Document]:
    format = loaded.card.format
    for number, row in read_rows(file, format):
        if limit == 0:
            return
        limit = None if limit is None else limit - 1
        counts[ROWS_READ] += 1
        where = f"{file.shown}:{number}"
        try:
            if isinstance(row, RowFault):
                raise row
            format = format or _guess(row, where)
            document, changed = to_document(row, format, where)
        except RowFault as fault:
            if on_bad_row == "error":
                raise DataRefused(
                    str(fault),
                    where=where,
                    fix="correct the row or `format` in the card, or write `on_bad_row: drop` in the recipe",
                ) from fault
            counts[DROPPED + fault.reason] += 1
            continue
        counts[ROWS_USED] += 1
        counts[NORMALISED] += changed
        yield document


def _guess(row: object, where: str) -> Format:
    """The format of a file whose card has none, from its first sound row."""
    if isinstance(row, str):
        return Format(kind="text")
    if not isinstance(row, dict):
        raise RowFault("not_object", f"the row is {type_name(row)}, expected an object")
    format = guess_format(row)
    if format is None:
        names = ", ".join(sorted(str(name) for name in row)[:12]) or "nothing"
        raise DataRefused(
            f"the card has no `format`, and these keys are not the usual ones: {names}",
            where=where,
            fix="add `format:` to the card, with `kind` and `fields`; docs/data-cards.md shows how",
        )
    return format
