"""Rows out of files: JSON lines, JSON lists, CSV, TSV, Parquet, text and Markdown, streaming."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from sovtune.data.card_schema import Format
from sovtune.data.files import (
    CHUNK,
    LINE_LIMIT,
    LocalFile,
    not_utf8,
    opened,
    raw_lines,
    skip_mark,
    text_lines,
)
from sovtune.data.rows import RowFault, columns, required
from sovtune.errors import DataRefused

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Row = tuple[int, object]
"""Where in the file (line, element of a list, row of a Parquet file; from 1), and the parsed value; a
string for a piece of running text; a ``RowFault`` for a row that cannot be parsed."""
_JSON_SPACE = " \t\r\n"
_BATCH = 1024


def read_rows(file: LocalFile, format: Format | None) -> Iterator[Row]:
    """All rows of a file.

    Raises:
        DataRefused: the file as a whole is broken, has no rows, or does not go with the card's format.
    """
    _fits(file, format)
    empty = True
    for row in _reader(file, format):
        empty = False
        yield row
    if empty:
        raise DataRefused("the file has no rows", where=file.shown)


def count_rows(file: LocalFile, format: Format | None) -> int:
    """How many rows ``read_rows`` would give, without parsing where the file's form allows it.

    Raises:
        DataRefused: as ``read_rows``.
    """
    if file.kind == "jsonl":
        return sum(not line.isspace() for _, _, line in raw_lines(file))
    if file.kind == "parquet":
        with _parquet_file(file) as table:
            return int(table.metadata.num_rows)
    return sum(1 for _ in read_rows(file, format))


def _reader(file: LocalFile, format: Format | None) -> Iterator[Row]:
    kind = file.kind
    if kind == "jsonl":
        return _json_lines(file)
    if kind == "json":
        return _json_list(file)
    if kind in ("csv", "tsv"):
        return _csv(file, (format and format.delimiter) or ("\t" if kind == "tsv" else ","))
    if kind == "parquet":
        return _parquet(file, format)
    document = (format and format.fields.document) or ("file" if kind == "md" else "line")
    return {"line": _by_line, "paragraph": _by_paragraph, "file": _whole}[document](file)


def _fits(file: LocalFile, format: Format | None) -> None:
    """Refuse a format whose settings this kind of file cannot follow."""
    if format is None:
        return
    kind, document = file.kind, format.fields.document
    what: str | None = None
    if kind in ("txt", "md") and format.kind != "text":
        what = f"a .{kind} file holds running text, format.kind is {format.kind}"
    elif kind in ("txt", "md") and format.fields.text is not None:
        what = f"a .{kind} file has no fields, format.fields.text is {format.fields.text}"
    elif kind not in ("txt", "md") and document is not None:
        what = f"format.fields.document is for .txt files, in .{kind} each row is a document"
    elif kind == "md" and document not in (None, "file"):
        what = f"each .md file is one document, format.fields.document is {document}"
    elif kind not in ("csv", "tsv") and format.delimiter is not None:
        what = f"format.delimiter is for .csv and .tsv, this is .{kind}"
    if what:
        raise DataRefused(what, where=file.shown, fix="correct `format` in the data card")


def _json_lines(file: LocalFile) -> Iterator[Row]:
    for number, offset, line in raw_lines(file):
        if line.isspace():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise not_utf8(file, number, offset, error) from error
        except (ValueError, RecursionError) as error:  # ValueError: also a number of over 4300 digits
            yield number, RowFault("not_json", f"not JSON: {error}")


def _json_list(file: LocalFile) -> Iterator[Row]:
    """Elements one by one; a file that is in truth JSON lines, as many on the Hub are, is read as such."""
    text = _Growing(file)
    text.skip_space()
    if text.next_is("{") and _is_json_lines(file):
        yield from _json_lines(file)
        return
    if not text.next_is("["):
        raise DataRefused(
            "a .json file holds a list of objects, this one does not begin with [",
            where=file.shown,
            fix="write a list, or one object per line in a .jsonl file",
        )
    text.position += 1
    text.skip_space()
    number = 0
    closed = text.next_is("]")
    while not closed:
        number += 1
        yield number, text.element(number)
        closed = text.next_is("]")
        text.position += 1
        text.skip_space()
    text.position += number == 0
    text.skip_space()
    if text.next_is(""):
        return
    raise DataRefused("something stands behind the end of the list", where=f"{file.shown}:{number}")


def _is_json_lines(file: LocalFile) -> bool:
    _, _, first = next(iter(raw_lines(file)))
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


class _Growing:
    """The text of a JSON file, of which only what is being parsed is kept."""

    def __init__(self, file: LocalFile):
        self._file = file
        self._pieces = _text_pieces(file)
        self._decoder = json.JSONDecoder()
        self._text = ""
        self.position = 0

    def _grow(self) -> bool:
        """Forget what was parsed and at least double the rest; False at the end of the file."""
        self._text = self._text[self.position :]
        self.position = 0
        wanted = 2 * len(self._text) + 1
        pieces = [self._text]
        size = len(self._text)
        while size < wanted:
            piece = next(self._pieces, "")
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        grown = size > len(self._text)
        self._text = "".join(pieces)
        return grown

    def skip_space(self) -> None:
        """Go to the next character that is not white space."""
        while True:
            while self.position < len(self._text) and self._text[self.position] in _JSON_SPACE:
                self.position += 1
            if self.position < len(self._text) or not self._grow():
                return

    def next_is(self, character: str) -> bool:
        """Is this the next character? The empty string stands for the end of the file."""
        return self._text[self.position : self.position + 1] == character

    def element(self, number: int) -> object:
        """The next element; afterwards the position is at the comma or bracket behind it."""
        while True:
            start = self.position
            reason = "the list is cut short"
            try:
                value: object
                value, self.position = self._decoder.raw_decode(self._text, start)
                self.skip_space()
                if self.next_is(",") or self.next_is("]"):
                    return value
                if not self.next_is(""):
                    self._refuse(number, "expected a comma or ] behind the element")
                self._refuse(number, reason)
            except (ValueError, RecursionError) as error:
                reason = str(error)
            self.position = start
            if len(self._text) - start > LINE_LIMIT or not self._grow():
                self._refuse(number, reason)

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise DataRefused(f"not JSON: {reason}", where=f"{self._file.shown}:{number}")


def _text_pieces(file: LocalFile) -> Iterator[str]:
    with opened(file) as stream:
        offset = skip_mark(stream, file)
        decoder = codecs.getincrementaldecoder("utf-8")()
        line = 1
        while True:
            chunk = stream.read(CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                piece = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise not_utf8(file, line, offset - waiting, error) from error
            if piece:
                yield piece
            if not chunk:
                return
            offset += len(chunk)
            line += chunk.count(b"\n")


def _csv(file: LocalFile, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(LINE_LIMIT)  # the module's own limit is 128 kB, less than a long article
    reader = csv.reader((text for _, text in text_lines(file)), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if not all(header) or len(set(header)) < len(header):
            raise DataRefused(
                f"the header names a column twice or not at all: {', '.join(header)}", where=f"{file.shown}:1"
            )
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                yield line, RowFault("columns", f"{len(cells)} columns, the header has {len(header)}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataRefused(
            f"not sound CSV: {error}",
            where=f"{file.shown}:{reader.line_num}",
            why="a quotation mark is open or stands in the wrong place",
            fix='put cells with line ends, quotes or delimiters in "...", and write a quote inside as ""',
        ) from error


def _parquet(file: LocalFile, format: Format | None) -> Iterator[Row]:
    """Rows of the columns that the format reads (all of them when there is no format)."""
    import pyarrow

    with _parquet_file(file) as table:
        names: list[str] = list(table.schema_arrow.names)
        wanted = names
        # With a column missing all are read, so that the row's error can list what there is.
        if format is not None and required(format) <= set(names):
            wanted = [name for name in names if name in columns(format)]
        number = 0
        try:
            for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise DataRefused(
                f"the Parquet file is damaged: {error}",
                where=f"{file.shown}:{number + 1}",
                fix="copy or download the file again",
            ) from error


@contextmanager
def _parquet_file(file: LocalFile) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with opened(file) as stream:
        try:
            table = ParquetFile(stream, pre_buffer=False)  # a buffer of all row groups grows with the file
        except (pyarrow.ArrowException, OSError) as error:
            raise DataRefused(
                f"not a sound Parquet file: {str(error).splitlines()[0]}",
                where=file.shown,
                fix="copy or download the file again; a Parquet file that is cut short cannot be read at all",
            ) from error
        yield table


def _by_line(file: LocalFile) -> Iterator[Row]:
    for number, text in text_lines(file):
        if text.strip():
            yield number, text.rstrip("\r\n")


def _by_paragraph(file: LocalFile) -> Iterator[Row]:
    lines: list[str] = []
    first = 0
    for number, text in text_lines(file):
        if text.strip():
            first = first if lines else number
            lines.append(text)
        elif lines:
            yield first, "".join(lines).rstrip("\r\n")
            lines = []
    if lines:
        yield first, "".join(lines).rstrip("\r\n")


def _whole(file: LocalFile) -> Iterator[Row]:
    text = "".join(text for _, text in text_lines(file))
    if text.strip():
        yield 1, text
