"""Opening data files: suffix, gzip and zstd, lines of UTF-8; each way to be broken has its own error."""

from __future__ import annotations

import codecs
import errno
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sovtune.errors import DataRefused
from sovtune.records import FileHash

LINE_LIMIT = 64 * 2**20
"""Longest line, CSV cell or JSON element in bytes: a longer one is a broken file and would fill memory."""
CHUNK = 2**20
_SAMPLE = 8192

FileKind = Literal["jsonl", "json", "csv", "tsv", "parquet", "txt", "md"]
_KINDS: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
    ".md": "md",
}
_PACKED = (".gz", ".zst")
# First bytes of what people rename to .txt or .jsonl by mistake.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file", "let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "let its name end in .zst"),
    (b"PAR1", "a Parquet file", "let its name end in .parquet"),
    (b"PK\x03\x04", "a zip archive or office document", "export it as plain text, CSV or JSON lines"),
    (b"%PDF", "a PDF", "extract its text first"),
    (b"\x89PNG", "a picture", "extract its text first"),
    (b"\xff\xfe", "UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
)
# Codecs that texts of a language were commonly written in before UTF-8, likeliest first.
_LEGACY: dict[str, tuple[str, ...]] = {
    "ko": ("cp949",),
    "ja": ("cp932", "euc_jp"),
    "zh": ("gb18030", "big5"),
    "ar": ("cp1256", "iso8859_6"),
    "fa": ("cp1256",),
    "ur": ("cp1256",),
    "ru": ("cp1251", "koi8_r"),
    "uk": ("cp1251",),
    "el": ("cp1253",),
    "he": ("cp1255",),
    "th": ("cp874",),
    "tr": ("cp1254",),
    "vi": ("cp1258",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """One file on disk, the name people know it by (as in the card), and the card's language tags."""

    path: Path
    shown: str
    languages: tuple[str, ...] = ()

    @property
    def kind(self) -> FileKind:
        """What the suffix says.

        Raises:
            DataRefused: no reader for this suffix.
        """
        name = self.path.name.lower()
        packed = next((suffix for suffix in _PACKED if name.endswith(suffix)), "")
        kind = _KINDS.get(Path(name.removesuffix(packed)).suffix)
        if kind is None or (packed and kind == "parquet"):
            raise DataRefused(
                f"no reader for files named *{''.join(self.path.suffixes[-2:]) or self.path.name}",
                where=self.shown,
                fix=f"use one of {', '.join(_KINDS)}; all but .parquet also with .gz or .zst",
            )
        return kind


@contextmanager
def named_faults(file: LocalFile) -> Iterator[None]:
    """Turn the faults of opening and reading a file into ``DataRefused``."""
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        raise _fault(error, file) from error


def _fault(error: EOFError | zlib.error | OSError, file: LocalFile) -> DataRefused:
    again = "copy or download the file again"
    if isinstance(error, EOFError) or "Truncated" in str(error):
        return DataRefused("the compressed file is cut short", where=file.shown, fix=again)
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return DataRefused(f"not a sound gzip file: {error}", where=file.shown, fix=again)
    code = error.errno
    if code is None:  # pyarrow's own
        return DataRefused(f"the file is damaged: {error}", where=file.shown, fix=again)
    known = {
        errno.ENOENT: ("there is no such file", "correct `path` in the card; it is relative to the card"),
        errno.EACCES: ("no permission to read it", f"chmod u+r {file.path}"),
        errno.EPERM: ("no permission to read it", f"chmod u+r {file.path}"),
        errno.EISDIR: ("a folder stands where a file is expected", "name a file, or a folder of .md files"),
        errno.ELOOP: ("a symbolic link that leads back to itself", "let the link point to the file"),
    }
    what, fix = known.get(code, (error.strerror or str(error), None))
    return DataRefused(what, where=file.shown, fix=fix)


@contextmanager
def opened(file: LocalFile) -> Iterator[io.BufferedReader]:
    """The file's bytes, unpacked; faults while reading are named too.

    Raises:
        DataRefused: the file is missing, unreadable, empty, or broken as a compressed file.
    """
    with named_faults(file):
        if file.path.stat().st_size == 0:
            raise DataRefused("the file is empty", where=file.shown)
        with _unpacked(file.path) as stream:
            yield stream


def _unpacked(path: Path) -> io.BufferedReader:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path), CHUNK)
    if suffix == ".zst":
        # Not zstandard's stream_reader: it takes a file that is cut short for one that has ended.
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), CHUNK)
    return io.BufferedReader(io.FileIO(path), CHUNK)


def raw_lines(file: LocalFile) -> Iterator[tuple[int, int, bytes]]:
    """Number, byte offset and bytes of each line, with its line end; a byte order mark is skipped.

    Raises:
        DataRefused: as ``opened``; no text at all; a line above ``LINE_LIMIT``.
    """
    with opened(file) as stream:
        offset = skip_mark(stream, file)
        number = 1
        while line := stream.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                raise DataRefused(
                    f"the line is longer than {LINE_LIMIT >> 20} MB",
                    where=f"{file.shown}:{number}",
                    why="one row is one line; this file seems to have lost its line ends",
                )
            yield number, offset, line
            offset += len(line)
            number += 1


def skip_mark(stream: io.BufferedReader, file: LocalFile) -> int:
    """Refuse what is not text, skip a UTF-8 byte order mark; returns the offset of the first byte of text."""
    head = stream.peek(_SAMPLE)[:_SAMPLE]
    foreign = foreign_kind(head)
    if foreign is not None:
        raise DataRefused(f"this is {foreign[0]}, text was expected", where=file.shown, fix=foreign[1])
    if b"\0" in head:
        offset = head.index(b"\0")
        raise DataRefused(
            f"binary data, text was expected (a zero byte at offset {offset})", where=file.shown
        )
    return len(stream.read(len(codecs.BOM_UTF8))) if head.startswith(codecs.BOM_UTF8) else 0


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that is no UTF-8 text, by its first bytes, and what to do; None when nothing is recognised."""
    return next(((what, fix) for magic, what, fix in _MAGIC if head.startswith(magic)), None)


def text_lines(file: LocalFile) -> Iterator[tuple[int, str]]:
    """Number and text of each line, with its line end.

    Raises:
        DataRefused: as ``raw_lines``; bytes that are not UTF-8.
    """
    for number, offset, line in raw_lines(file):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(file, number, offset, error) from error
        yield number, text


def not_utf8(file: LocalFile, number: int, offset: int, error: UnicodeDecodeError) -> DataRefused:
    """The refusal for bytes that are not UTF-8: where, and what they probably are.

    Args:
        file: the file.
        number: line in which the bytes stand.
        offset: byte offset of ``error.object`` in the unpacked file.
        error: the decoder's complaint.
    """
    codec = likely_codec(error.object[:CHUNK], file.languages)
    guess = f"; it looks like {codec.upper()}" if codec else ""
    fix = f"iconv -f {codec.upper()} -t UTF-8 {file.shown} > FIXED" if codec else "save the file as UTF-8"
    return DataRefused(
        f"not UTF-8 at byte {offset + error.start} (0x{error.object[error.start]:02x}){guess}",
        where=f"{file.shown}:{number}",
        fix=fix + "; then correct the card's figures",
    )


def likely_codec(sample: bytes, languages: Iterable[str]) -> str | None:
    """The first legacy codec of these languages, or CP1252, that decodes the sample; None when none does."""
    candidates = [codec for tag in languages for codec in _LEGACY.get(tag.split("-")[0], ())]
    for codec in [*candidates, "cp1252"]:
        try:
            codecs.getincrementaldecoder(codec)().decode(sample, final=False)
        except UnicodeDecodeError:
            continue
        return codec
    return None


def markdown_in(folder: Path, shown: str, languages: tuple[str, ...]) -> tuple[LocalFile, ...]:
    """All Markdown files below a folder, sorted by path.

    Raises:
        DataRefused: there are none, or the folder cannot be read.
    """
    ends = tuple(f".md{packed}" for packed in ("", *_PACKED))
    with named_faults(LocalFile(path=folder, shown=shown)):
        next(folder.iterdir(), None)  # rglob passes over a folder that it may not read
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.name.lower().endswith(ends) and (path.is_symlink() or path.is_file())
        )
    if not found:
        raise DataRefused(
            "a folder without .md files stands where a file is expected",
            where=shown,
            fix="name a file, or a folder of .md files",
        )
    return tuple(
        LocalFile(
            path=path, shown=f"{shown.rstrip('/')}/{path.relative_to(folder).as_posix()}", languages=languages
        )
        for path in found
    )


def hash_stream(stream: BinaryIO) -> str:
    """SHA-256 of what is left in the stream, lower-case hex."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def hash_file(file: LocalFile) -> FileHash:
    """Size and SHA-256 of the bytes on disk.

    Raises:
        DataRefused: the file cannot be read.
    """
    with named_faults(file), file.path.open("rb") as stream:
        return FileHash(path=file.shown, bytes=file.path.stat().st_size, sha256=hash_stream(stream))


def hash_many(files: tuple[LocalFile, ...], root: str) -> FileHash:
    """One figure for several files: bytes added up, SHA-256 over sorted ``path sha256`` lines."""
    hashes = [hash_file(file) for file in files]
    lines = sorted(f"{item.path.removeprefix(root).lstrip('/')} {item.sha256}\n" for item in hashes)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return FileHash(path=root, bytes=sum(item.bytes for item in hashes), sha256=digest)
