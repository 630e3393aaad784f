"""Files cut into slices of whole rows for the data gate, and the rows of one slice; text of any codec is read.

A slice holds unpacked bytes and is what a worker gets: lines as they stand in the file for .txt and .jsonl,
``[number, value]`` as JSON lines for everything else. Cutting costs little, so one process cuts for all workers,
and compressed files, which cannot be entered in the middle, are shared out like any other.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

from sovtune.data import decode
from sovtune.data.card_schema import Format
from sovtune.data.document import Document, bytes_of
from sovtune.data.files import LINE_LIMIT, LocalFile, foreign_kind, named_faults, opened
from sovtune.data.formats import read_rows
from sovtune.data.rows import RowFault, guess_format, to_document, type_name
from sovtune.errors import DataRefused

SHARD_BYTES = 8 << 20
"""Default size of a slice: about four seconds of work, so little is lost when a run is killed."""
HEAD_BYTES = 1 << 20
"""How much of a file is looked at for what it is: kind, codec, keys of the rows."""
_NOT_ASCII_BASED = ("utf-16", "utf-32", "iso2022")
"""Codecs in which a byte below 128 may be part of another character: such files are decoded before cutting."""
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")

Form = Literal["lines", "json_lines", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSource:
    """One file for the gate.

    ``format`` is the card's, or None to go by the usual keys row by row; ``card`` is the id of the card the file
    belongs to, None for a loose file. With ``any_fields`` a row without usual keys is all its strings, a field on
    a line: evaluation sets name their questions and choices as they please.
    """

    file: LocalFile
    format: Format | None = None
    card: str | None = None
    any_fields: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Consecutive rows of one file.

    ``source`` is the file's place among the inputs, ``first`` the number of the first line (the rows of form
    ``rows`` carry their own numbers), ``codec`` what the file as a whole is written in.
    """

    source: int
    form: Form
    first: int
    codec: str
    data: bytes


class RawRow(NamedTuple):
    """A row that was read: its document, or why there is none.

    ``changed``: reading already brought the text to NFC. ``size`` counts the UTF-8 bytes of its texts.
    """

    number: int
    codec: str
    document: Document | None = None
    changed: bool = False
    reason: str = ""
    message: str = ""
    size: int = 0


def slices(
    place: int, source: GateSource, languages: Sequence[str], size: int, scratch: Path
) -> Iterator[Slice]:
    """Cut a file into slices of about ``size`` bytes, each of whole rows.

    Args:
        place: the source's place among the inputs.
        source: the file.
        languages: tags that it may be in, likeliest first; they decide between legacy codecs.
        size: bytes.
        scratch: folder for a copy in UTF-8 of a file that must be parsed as a whole (.csv, .json) and is not.

    Raises:
        DataRefused: the file is missing, unreadable, empty, broken, binary, without rows, or of unknown keys; a
            line is longer than ``LINE_LIMIT``.
    """
    kind = source.file.kind
    document = (source.format and source.format.fields.document) or "line"
    if kind == "jsonl" or (kind == "txt" and document == "line"):
        found = _line_slices(place, source, languages, size)
    else:
        found = _row_slices(place, source, languages, size, scratch)
    empty = True
    for part in found:
        empty = False
        yield part
    if empty:
        raise DataRefused("the file has no rows", where=source.file.shown)


def _line_slices(place: int, source: GateSource, languages: Sequence[str], size: int) -> Iterator[Slice]:
    file = source.file
    form: Form = "json_lines" if file.kind == "jsonl" else "lines"
    with opened(file) as stream:
        head = stream.read(HEAD_BYTES)
        codec = _codec(head, file, languages)
        reader = _Utf8(stream, head, codec) if codec.startswith(_NOT_ASCII_BASED) else _Plain(stream, head)
        first = 1
        while data := reader.lines(size, file, first):
            if first == 1 and form == "json_lines" and source.format is None and not source.any_fields:
                _refuse_unknown_keys(data, codec, file)
            if not data.isspace():
                yield Slice(source=place, form=form, first=first, codec=codec, data=data)
            first += data.count(b"\n")


def _codec(head: bytes, file: LocalFile, languages: Sequence[str]) -> str:
    """What the file is written in; refuses what is no text."""
    first = _HIGH_BYTE.search(head)
    start = head.rfind(b"\n", 0, first.start()) + 1 if first else 0
    marked = head.startswith(
        (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
    )
    sample = head if marked or b"\0" in head else head[start:]
    codec = decode.sniff(sample[: decode.SAMPLE_BYTES], languages)
    if codec.startswith(("utf-16", "utf-32")):
        return codec
    foreign = foreign_kind(head)
    if foreign is not None:
        raise DataRefused(f"this is {foreign[0]}, text was expected", where=file.shown, fix=foreign[1])
    if b"\0" in head[: decode.SAMPLE_BYTES]:
        offset = head.index(b"\0")
        raise DataRefused(
            f"binary data, text was expected (a zero byte at offset {offset})", where=file.shown
        )
    return codec


class _Plain:
    """Lines of a file whose codec keeps ASCII apart, in its own bytes; a UTF-8 mark is left out."""

    def __init__(self, stream: BufferedReader, head: bytes):
        self._stream = stream
        self._head = head.removeprefix(codecs.BOM_UTF8)

    def lines(self, size: int, file: LocalFile, first: int) -> bytes:
        """About ``size`` bytes of whole lines; none at the end of the file."""
        data, self._head = self._head[:size], self._head[size:]
        if len(data) < size:
            data += self._stream.read(size - len(data))
        if data.endswith(b"\n") or not data:
            return data
        end = self._head.find(b"\n") + 1
        rest = self._head[:end] if end else self._head
        self._head = self._head[len(rest) :]
        if not end:
            rest += self._stream.readline(LINE_LIMIT + 1)
        if len(data) - data.rfind(b"\n") - 1 + len(rest) > LINE_LIMIT:
            raise _too_long(file, first + data.count(b"\n"))
        return data + rest


class _Utf8:
    """Lines of a file in UTF-16, UTF-32 or ISO-2022, decoded as they are read and given out in UTF-8."""

    def __init__(self, stream: BufferedReader, head: bytes, codec: str):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(codec)("replace")
        self._text = self._decoder.decode(head).encode("utf-8", "replace")
        self._ended = False

    def lines(self, size: int, file: LocalFile, first: int) -> bytes:
        """About ``size`` bytes of whole lines; none at the end of the file."""
        parts, length, end = [self._text], len(self._text), self._text.find(b"\n", size) + 1
        while not end and not self._ended:
            raw = self._stream.read(HEAD_BYTES)
            self._ended = not raw
            parts.append(self._decoder.decode(raw, final=self._ended).encode("utf-8", "replace"))
            found = parts[-1].find(b"\n", max(0, size - length)) + 1
            end = length + found if found else 0
            length += len(parts[-1])
            if length > size + LINE_LIMIT:
                raise _too_long(file, first + sum(part.count(b"\n") for part in parts))
        data = b"".join(parts)
        end = end or len(data)
        self._text = data[end:]
        return data[:end]


def _too_long(file: LocalFile, number: int) -> DataRefused:
    return DataRefused(
        f"the line is longer than {LINE_LIMIT >> 20} MB",
        where=f"{file.shown}:{number}",
        why="one row is one line; this file seems to have lost its line ends",
        fix="put each document on a line of its own",
    )


def _refuse_unknown_keys(data: bytes, codec: str, file: LocalFile) -> None:
    """Refuse a file of JSON lines in whose beginning no row has usual keys: every row would be dropped."""
    names: dict[str, None] = {}
    for line in data[:HEAD_BYTES].splitlines()[:100]:
        try:
            row = json.loads(
                line.decode(codec if not codec.startswith(_NOT_ASCII_BASED) else "utf-8", "replace")
            )
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or guess_format(row) is not None:
            return
        names.update(dict.fromkeys(str(name) for name in row))
    if names:
        raise DataRefused(
            f"no row has the usual keys; there is: {', '.join(list(names)[:12])}",
            where=file.shown,
            fix="name the field `text` (running text) or `messages` (dialogues), or write a data card with `format`",
        )


def _row_slices(
    place: int, source: GateSource, languages: Sequence[str], size: int, scratch: Path
) -> Iterator[Slice]:
    lines: list[bytes] = []
    held = 0

    def gathered() -> Slice:
        return Slice(source=place, form="rows", first=0, codec=codec, data=b"\n".join(lines) + b"\n")

    with _in_utf8(source.file, languages, scratch) as (file, codec):
        for number, row in read_rows(file, source.format):
            value = {"fault": [row.reason, str(row)]} if isinstance(row, RowFault) else {"row": row}
            line = json.dumps([number, value], ensure_ascii=False, default=_no_text)
            lines.append(line.encode("utf-8", "surrogatepass"))
            held += len(lines[-1]) + 1
            if held >= size:
                yield gathered()
                lines, held = [], 0
    if lines:
        yield gathered()


def _no_text(value: object) -> dict[str, str]:
    """What JSON has no word for (dates, bytes in Parquet): an object, which no field of text accepts."""
    return {"type": type(value).__name__}


@contextmanager
def _in_utf8(file: LocalFile, languages: Sequence[str], scratch: Path) -> Iterator[tuple[LocalFile, str]]:
    """The file, or a copy in UTF-8 that is gone afterwards, and the codec it is written in."""
    if file.kind == "parquet":
        yield file, "utf-8"
        return
    with opened(file) as stream:
        head = stream.read(HEAD_BYTES)
        codec = _codec(head, file, languages)
        if codec in ("utf-8", "utf-8-sig"):
            yield file, "utf-8"
            return
        copy = scratch / f".part-text-{os.getpid()}.{file.kind}"
        decoder = codecs.getincrementaldecoder(codec)("replace")
        try:
            with copy.open("w", encoding="utf-8", newline="") as target:
                while head:
                    target.write(decoder.decode(head))
                    head = stream.read(HEAD_BYTES)
                target.write(decoder.decode(b"", final=True))
            yield replace(file, path=copy), codec
        finally:
            copy.unlink(missing_ok=True)


def rows_of(part: Slice, source: GateSource, languages: Sequence[str]) -> Iterator[RawRow]:
    """The rows of a slice, one by one; rows that cannot be read come with a reason. Blank lines are no rows."""
    codec = "utf-8" if part.form == "rows" or part.codec.startswith(_NOT_ASCII_BASED) else part.codec
    for offset, line in enumerate(part.data.split(b"\n")):
        if not line.strip():
            continue
        text, used = _decode_line(line, codec, languages)
        number = part.first + offset
        shown = part.codec if used == codec and part.codec != codec else used
        if part.form == "lines":
            yield _document(text.rstrip("\r"), source, number, shown)
            continue
        try:
            value = _parse(text)
        except (ValueError, RecursionError) as error:
            yield RawRow(
                number=number, codec=shown, reason="not_json", message=f"not JSON: {error}", size=len(line)
            )
            continue
        if part.form == "rows":
            number, value = value
            if "fault" in value:
                reason, message = value["fault"]
                yield RawRow(number=number, codec=shown, reason=reason, message=message, size=len(line))
                continue
            value = value["row"]
        yield _document(value, source, number, shown)


def _decode_line(line: bytes, codec: str, languages: Sequence[str]) -> tuple[str, str]:
    """A line as text, and the codec it was read with: UTF-8, the file's, or the likeliest for this line alone."""
    for known in ("utf-8", codec):
        try:
            return line.decode(known), known
        except UnicodeDecodeError:
            continue
    decoded = decode.decode(line, languages)
    return decoded.text, decoded.codec


def _document(value: object, source: GateSource, number: int, codec: str) -> RawRow:
    where = f"{source.file.shown}:{number}"
    if source.any_fields and isinstance(value, dict) and guess_format(value) is None:
        value = "\n".join(_strings(value))
    try:
        document, changed = to_document(value, source.format or _usual_format(value), where)
    except RowFault as fault:
        return RawRow(number=number, codec=codec, reason=fault.reason, message=str(fault))
    size = bytes_of(document)
    return RawRow(number=number, codec=codec, document=document, changed=changed, size=size)


def _usual_format(value: object) -> Format:
    if isinstance(value, str):
        return _TEXT
    if not isinstance(value, dict):
        raise RowFault("not_object", f"the row is {type_name(value)}, expected an object")
    format = guess_format(value)
    if format is None:
        names = ", ".join(sorted(str(name) for name in value)[:12]) or "nothing"
        raise RowFault("missing_field", f"no field of the usual names (there is: {names})")
    return format


_TEXT = Format(kind="text")
_parse = json.JSONDecoder().decode


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def open_fault(file: LocalFile) -> None:
    """Look whether a file can be opened at all, so that its fault is named before any work is done.

    Raises:
        DataRefused: it is missing, a folder, a link to itself, not readable, or empty.
    """
    with named_faults(file), file.path.open("rb") as stream:
        if not stream.read(1):
            raise DataRefused("the file is empty", where=file.shown)
