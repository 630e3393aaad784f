"""Text that was once decoded with the wrong codec: found cheaply, mended when the outcome is clearly better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sovtune.data.decode import Reading, plausibility, readings
from sovtune.data.scripts import Codes, primary, scripts_of

# What bytes 80-FF become in Latin-1 (C1 controls) or in Windows-1252.
_WINDOWS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_HIGH = f"\x80-\xff{_WINDOWS}"
_PAIR = re.compile(f"[\x80-\xff][{_HIGH}]|[{_HIGH}][\x80-\xff]|вЂ")
_RUN = re.compile(f"[\x00-\x7f{_HIGH}]+")
_WORD_RUN = re.compile(f"[{_HIGH}]{{2,}}")
_ASCII = re.compile(r"[\x00-\x7f]+")
_ONE = re.compile(f"[{_HIGH}]")
_ACCENTED = re.compile("[\xc0-\xff]")
_UNREADABLE = re.compile(f"[\x80-\x9f\xc0-\xff][{_HIGH}\ufffd]{{3,}}")
_TO_BYTE = {
    ord(char): byte for byte in range(0x80, 0x100) if (char := bytes([byte]).decode("cp1252", "ignore"))
}

# UTF-8 of U+FFFD U+FFFD read as cp949 or GBK: the characters themselves are lost.
_LOST = {"占쏙옙": "\ufffd\ufffd", "锟斤拷": "\ufffd\ufffd"}
_CLEARLY = 0.6
_LEAD = 0.3
"""``decode.plausibility`` that a repaired text needs, and by how much it must beat the text as it is."""
_LEAST_HIGH = 4
_MARK = 4
"""Characters that one hit of ftfy's badness stands for; mojibake of a character has two to four."""
_ASKED = 3
"""Lines that are asked for the codec of all."""
_MUCH = 0.2
"""Share of a line that is mojibake from which on the whole line is judged by what repair left of it."""
_UNREADABLE_SHARE = 0.1


class Mended(NamedTuple):
    """The text, and whether a tenth or more of it is still unreadable."""

    text: str
    unreadable: bool


def _two_byte_row(codec: str, leads: range) -> set[str]:
    """Every character of the given rows of a two-byte code table."""
    trails = (*range(0x40, 0x7F), *range(0x80, 0xFF))
    pairs = (bytes((lead, trail)).decode(codec, "ignore") for lead in leads for trail in trails)
    return set("".join(pairs))


@cache
def _rare_characters() -> str:
    """Hangul and Han that no national standard has among its frequent characters, and half-width kana.

    Frequent are the 2,350 syllables of KS X 1001 and level 1 of GB 2312, Big5 and JIS X 0208. Measured:
    others are under 0.1 % of our Korean, Chinese and Japanese corpora and at most 8 % of one short text; of UTF-8
    that was read as CP949, GB18030 or Shift-JIS they are 41 to 75 %, as Big5 26 to 45 %.
    """
    frequent = _two_byte_row("euc_kr", range(0xB0, 0xC9)) | _two_byte_row("gb2312", range(0xB0, 0xD8))
    frequent |= _two_byte_row("big5", range(0xA4, 0xC7)) | _two_byte_row("shift_jis", range(0x88, 0x99))
    others = (chr(code) for code in (*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4)))
    return "".join([*(char for char in others if char not in frequent), *map(chr, range(0xFF61, 0xFFA0))])


@cache
def _rare() -> re.Pattern[str]:
    return re.compile(f"[{_rare_characters()}]")


_CHUNK = 48
_RARE_SHARE = 0.2
_LEAST_RARE = 3


def _has_many_rare(text: str) -> bool:
    """Whether the beginning, middle or end of a text has far too many rare characters."""
    middle = len(text) // 2
    chunks = [text[:_CHUNK], text[middle : middle + _CHUNK], text[-_CHUNK:]]
    for chunk in chunks if len(text) > 3 * _CHUNK else [text]:
        count = len(_rare().findall(chunk))
        if count >= _LEAST_RARE and count >= _RARE_SHARE * len(_ASCII.sub("", chunk)):
            return True
    return False


def may_be_mojibake(text: str) -> bool:
    """A cheap test that clean text fails and mojibake passes; a hit still proves nothing."""
    if text.isascii():
        return False
    lost = "占쏙옙" in text or "锟斤拷" in text
    return lost or _PAIR.search(text) is not None or _has_many_rare(text)


_BYTE, _SIGN, _SCARCE, _TELLING = 1, 2, 4, 8
"""What a character may be a sign of: see ``_signs``."""


@cache
def _signs() -> npt.NDArray[np.uint8]:
    """For every code point what ``may_be_mojibake`` looks for in it: ``_PAIR`` is a _BYTE next to a _SIGN."""
    table = np.zeros(0x110000, dtype=np.uint8)
    table[0x80:0x100] = _BYTE | _SIGN
    table[[ord(char) for char in _WINDOWS]] |= _SIGN
    table[[ord(char) for char in _rare_characters()]] |= _SCARCE
    table[[ord(char) for char in "Ђ쏙锟"]] |= _TELLING  # of "вЂ" and ``_LOST``
    return table


def suspicious(codes: Codes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """``may_be_mojibake`` of many texts at once; errs by suspecting too many, never by missing one.

    Args:
        codes: code points of all texts, one after the other.
        starts: where each text begins; none is empty.
    """
    signs = _signs()[codes]
    byte, sign = (signs & _BYTE).view(np.bool_), (signs & _SIGN) != 0
    telling = (signs & _TELLING) != 0
    telling[:-1] |= (byte[:-1] & sign[1:]) | (sign[:-1] & byte[1:])
    found = np.zeros(len(starts), dtype=np.bool_)
    found[np.searchsorted(starts, np.flatnonzero(telling), side="right") - 1] = True
    scarce = np.searchsorted(starts, np.flatnonzero(signs & _SCARCE), side="right") - 1
    return found | (np.bincount(scarce, minlength=len(starts)) >= _LEAST_RARE)


def _other_script(reading: Reading) -> bool:
    return scripts_of(reading.language)[0] != "Latin"


def _bytes_of(text: str) -> bytes:
    """The bytes that were read as Latin-1 or Windows-1252; Latin-1 controls and Windows signs may mix."""
    return text.translate(_TO_BYTE_AS_LATIN).encode("latin-1")


_TO_BYTE_AS_LATIN = {code: chr(byte) for code, byte in _TO_BYTE.items()}


def _shown_bytes(run: str) -> bytes | None:
    """The bytes that a run of Latin-1 letters shows, when it looks like the bytes of another script."""
    high = len(_ONE.findall(run))
    paired = sum(map(len, _WORD_RUN.findall(run)))
    return None if high < _LEAST_HIGH or paired < 0.6 * high else _bytes_of(run)


def _legacy(run: str, data: bytes, languages: tuple[str, ...]) -> Reading | None:
    """The bytes in a legacy codec of the languages, when that is clearly what they are.

    Codecs of languages in Latin letters are left out: too much of them is the same in Latin-1.
    """
    best = next(filter(_other_script, readings(data, languages)), None)
    if best is None or best.score < _CLEARLY or "\ufffd" in best.text:
        return None
    return best if plausibility(run, "cp1252", "en") <= best.score - _LEAD else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _from_bytes(run: str, languages: tuple[str, ...]) -> str:
    """A run of Latin-1 letters as the UTF-8, EUC-KR, GBK, Shift-JIS, CP1256 ... text whose bytes it shows."""
    data = _shown_bytes(run)
    if data is None:
        return run
    if _is_utf8(data):
        return data.decode("utf-8")
    found = _legacy(run, data, languages)
    return found.text if found is not None else run


def _as_the_others(line: str, codec: str) -> str:
    """A line that shows nothing but bytes, in the codec that the other lines of its text are in, if it can be."""
    if not _ONE.search(line) or not _RUN.fullmatch(line):
        return line
    try:
        return _bytes_of(line).decode(codec)
    except UnicodeDecodeError:
        return line


def _codec_of(lines: Sequence[str], languages: tuple[str, ...]) -> str | None:
    """The legacy codec that the line with most foreign bytes is clearly in."""
    for line in sorted(lines, key=lambda line: -len(_ONE.findall(line)))[:_ASKED]:
        for run in _RUN.findall(line):
            data = _shown_bytes(run)
            if data is None or _is_utf8(data):
                continue
            found = _legacy(run, data, languages)
            if found is not None:
                return found.codec
    return None


def _mend_line(line: str, languages: tuple[str, ...]) -> tuple[str, int]:
    """(line, characters of it that stay unreadable)."""
    import ftfy
    from ftfy.badness import badness

    if any(scripts_of(tag)[0] != "Latin" for tag in languages):
        line = _RUN.sub(lambda match: _from_bytes(match[0], languages), line)
    before = badness(line)
    if not before:
        return line, 0
    config = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, normalization=None)
    fixed = ftfy.fix_encoding(line, config)
    left = badness(fixed)
    if "\ufffd" in fixed or left >= before:
        return line, _MARK * before
    # Where much of a line was put right and something was not, bytes are lost: the line cannot be trusted. Where the
    # language has no accented letters of its own, one that is left tells the same. A line with a scar or with an
    # example of mojibake in it is as unreadable as that.
    if _MARK * before <= _MUCH * len(line):
        return fixed, _MARK * left
    foreign = scripts_of(languages[0])[0] != "Latin" if languages else False
    rests = foreign and _ACCENTED.search(fixed) is not None
    return fixed, len(fixed) if left or rests else 0


def _mend_double(line: str, languages: tuple[str, ...]) -> str:
    """UTF-8 that was read with a two-byte codec, when every byte survived."""
    for codec in _double_byte(languages):
        try:
            fixed = line.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
        if not fixed.isascii():
            return fixed
    return line


@cache
def _double_byte(languages: tuple[str, ...]) -> tuple[str, ...]:
    """The main two-byte codec of each language that has one."""
    first = {"ko": "cp949", "zh": "gb18030", "ja": "cp932"}
    return tuple(first[tag] for tag in dict.fromkeys(map(primary, languages)) if tag in first)


def mend(text: str, languages: tuple[str, ...]) -> Mended:
    """Repair line by line what was decoded with the wrong codec; lines change only for clearly better ones.

    Covered: UTF-8 read as Latin-1, Windows-1252, MacRoman or Windows-1251 (the last two by ftfy); the
    languages' legacy codecs read as Latin-1 or Windows-1252; UTF-8 read as CP949, GB18030 or Shift-JIS
    while no byte was lost.

    Args:
        text: any text; call it after ``may_be_mojibake``, it is slow.
        languages: tags that the text may be in.
    """
    for lost, sign in _LOST.items():
        text = text.replace(lost, sign)
    lines = text.split("\n")
    unreadable = 0
    suspects = [line for line in lines if _PAIR.search(line)]
    codec = _codec_of(suspects, languages) if suspects and len(lines) > 1 else None
    if (
        codec is not None
    ):  # a heading full of Latin words, or a single sign, is clear only by the lines around it
        lines = [_as_the_others(line, codec) for line in lines]
    for index, line in enumerate(lines):
        if _PAIR.search(line):
            lines[index], left = _mend_line(line, languages)
            unreadable += max(left, sum(map(len, _UNREADABLE.findall(lines[index]))))
    if _has_many_rare(text):
        lines = [_mend_double(line, languages) for line in lines]
    text = "\n".join(lines)
    high = len(_ASCII.sub("", text))
    rare = len(_rare().findall(text))
    many_rare = rare >= max(_LEAST_RARE, _RARE_SHARE * high)
    return Mended(text, many_rare or unreadable >= max(_LEAST_HIGH, _UNREADABLE_SHARE * len(text)))
