"""Which Unicode script a character belongs to, which scripts a language is written in, and counts."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]
Classes = npt.NDArray[np.uint8]

OTHER, SPACE, DIGIT, PUNCTUATION, SYMBOL, BAD = range(6)
"""Classes that are no letters; BAD is U+FFFD, private use, unassigned and lone surrogates."""
FIRST_SCRIPT = 6

_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": (
        (0x41, 0x24F),
        (0x250, 0x2B8),
        (0x1D00, 0x1DBF),
        (0x1E00, 0x1EFF),
        (0x2C60, 0x2C7F),
        (0xA720, 0xA7FF),
        (0xAB30, 0xAB6F),
        (0xFB00, 0xFB06),
        (0xFF21, 0xFF5A),
    ),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x530, 0x58F),),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Syriac": ((0x700, 0x74F),),
    "Thaana": ((0x780, 0x7BF),),
    "Nko": ((0x7C0, 0x7FF),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "Khmer": ((0x1780, 0x17FF),),
    "Mongolian": ((0x1800, 0x18AF),),
    "Tifinagh": ((0x2D30, 0x2D7F),),
    "Hiragana": ((0x3040, 0x309F),),
    "Katakana": ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF65, 0xFF9F)),
    "Bopomofo": ((0x3100, 0x312F), (0x31A0, 0x31BF)),
    "Han": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x9FFF), (0xF900, 0xFAFF)),
    "Yi": ((0xA000, 0xA4CF),),
    "Javanese": ((0xA980, 0xA9DF),),
    "Unknown": (),
}
"""Script -> code point ranges, after Unicode 15 Scripts.txt; inside them only letters count."""

SCRIPTS: tuple[str, ...] = tuple(_BLOCKS)
SCRIPT_CLASS: dict[str, int] = {name: FIRST_SCRIPT + index for index, name in enumerate(SCRIPTS)}
CLASSES = FIRST_SCRIPT + len(SCRIPTS)

_VOWEL_SIGNS = frozenset(SCRIPTS[SCRIPTS.index("Devanagari") : SCRIPTS.index("Georgian")]) | {
    "Khmer",
    "Javanese",
    "Thaana",
}
"""Scripts whose marks are vowels or consonants, not optional diacritics: they count as letters."""

_SUBTAGS = {
    "Latn": ("Latin",),
    "Cyrl": ("Cyrillic",),
    "Arab": ("Arabic",),
    "Hang": ("Hangul",),
    "Kore": ("Hangul", "Han"),
    "Hans": ("Han",),
    "Hant": ("Han",),
    "Hani": ("Han",),
    "Jpan": ("Hiragana", "Katakana", "Han"),
    "Deva": ("Devanagari",),
    "Beng": ("Bengali",),
    "Guru": ("Gurmukhi",),
    "Mong": ("Mongolian",),
    "Tfng": ("Tifinagh",),
    "Tibt": ("Tibetan",),
    "Grek": ("Greek",),
    "Hebr": ("Hebrew",),
}
_LANGUAGES: dict[tuple[str, ...], str] = {
    ("Hangul",): "ko",
    ("Han",): "zh yue wuu nan hak lzh",
    ("Hiragana", "Katakana", "Han"): "ja",
    ("Arabic",): "ar fa ur ps ckb sd ug ks arz ary apc azb",
    ("Devanagari",): "hi mr ne sa mai bho kok",
    ("Bengali",): "bn as",
    ("Cyrillic",): "ru uk be bg sr mk kk ky tg tt ba cv mn ce os sah",
    ("Greek",): "el",
    ("Hebrew",): "he yi",
    ("Armenian",): "hy",
    ("Georgian",): "ka",
    ("Gurmukhi",): "pa",
    ("Gujarati",): "gu",
    ("Oriya",): "or",
    ("Tamil",): "ta",
    ("Telugu",): "te",
    ("Kannada",): "kn",
    ("Malayalam",): "ml",
    ("Sinhala",): "si",
    ("Thai",): "th",
    ("Lao",): "lo",
    ("Tibetan",): "bo dz",
    ("Myanmar",): "my shn",
    ("Khmer",): "km",
    ("Ethiopic",): "am ti",
    ("Thaana",): "dv",
    ("Syriac",): "syr",
    ("Nko",): "nqo",
    ("Tifinagh",): "zgh",
    ("Yi",): "ii",
}
_SCRIPTS_OF = {tag: scripts for scripts, tags in _LANGUAGES.items() for tag in tags.split()}


def primary(tag: str) -> str:
    """The language subtag alone: ``zh-Hant-TW`` -> ``zh``."""
    return tag.split("-", 1)[0].lower()


def scripts_of(tag: str) -> tuple[str, ...]:
    """Scripts a language is written in, its own first.

    A script subtag decides (``sr-Latn``); a language that is not listed is taken to be written in Latin
    letters, which holds for most of the languages ISO 639 lists.
    """
    for part in tag.split("-")[1:]:
        if len(part) == 4 and part.title() in _SUBTAGS:
            return _SUBTAGS[part.title()]
    return _SCRIPTS_OF.get(primary(tag), ("Latin",))


_KINDS = {"Z": SPACE, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL}


def _kind(category: str) -> int:
    """Class of a character that is no letter of a named script, by its Unicode general category."""
    if category in ("Co", "Cn", "Cs"):
        return BAD
    if category[0] == "L":
        return SCRIPT_CLASS["Unknown"]
    return _KINDS.get(category[0], OTHER)


@cache
def class_table() -> Classes:
    """Class of every code point, shape (0x110000,); built once in about 50 ms."""
    table = np.full(0x110000, BAD, dtype=np.uint8)
    categories = [unicodedata.category(chr(code)) for code in range(0x20000)]
    table[:0x20000] = [_kind(category) for category in categories]
    for name, ranges in _BLOCKS.items():
        counted = "LM" if name in _VOWEL_SIGNS else "L"
        for first, last in ranges:
            for code in range(first, last + 1):
                if categories[code][0] in counted:
                    table[code] = SCRIPT_CLASS[name]
    table[0x3007] = SCRIPT_CLASS["Han"]
    table[[9, 10, 11, 12, 13]] = SPACE
    table[0xFFFD] = BAD
    table[[0x115F, 0x1160, 0x3164, 0xFFA0, 0xFFFC]] = OTHER  # Hangul fillers, object replacement
    table[0x20000:0x323B0] = SCRIPT_CLASS["Han"]
    table[0xE0000:0xE0200] = OTHER
    emoji = table[0x1F000:0x1FB00]
    emoji[emoji == BAD] = SYMBOL  # pictures newer than this Python's Unicode data
    return table


def codes_of(text: str) -> Codes:
    """Code points of a text, shape (characters,); lone surrogates pass."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def class_counts(text: str) -> npt.NDArray[np.int64]:
    """How many characters of each class a text has, shape (CLASSES,)."""
    counts: npt.NDArray[np.int64] = np.bincount(class_table()[codes_of(text)], minlength=CLASSES)
    return counts


def class_counts_by_line(text: str, lines: int) -> npt.NDArray[np.int64]:
    """``class_counts`` of every line, shape (lines, CLASSES); a line break counts with the line it begins."""
    codes = codes_of(text)
    keys = class_table()[codes].astype(np.int64)
    keys += np.cumsum(codes == ord("\n")) * CLASSES
    counts: npt.NDArray[np.int64] = np.bincount(keys, minlength=lines * CLASSES).reshape(lines, CLASSES)
    return counts


def script_shares(text: str) -> dict[str, float]:
    """Share of each script among the letters of a text, largest first; empty when there are no letters."""
    letters = class_counts(text)[FIRST_SCRIPT:]
    total = int(letters.sum())
    found = sorted(((int(letters[index]), SCRIPTS[index]) for index in np.flatnonzero(letters)), reverse=True)
    return {name: count / total for count, name in found}
