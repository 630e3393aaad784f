"""Figures and language tags as people read them, the same in the terminal, the card and the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

NOT_MEASURED = "not measured"
MINUS = "−"
"""U+2212, which lines up with digits and is never broken from them."""

_NAMES = {
    "ar": "Arabic", "arz": "Egyptian Arabic", "bn": "Bengali", "cs": "Czech", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "kk": "Kazakh", "km": "Khmer", "ko": "Korean",
    "lo": "Lao", "mn": "Mongolian", "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch",
    "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish",
    "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "yue": "Cantonese", "zh": "Chinese",
}  # fmt: skip
"""English names of the languages our users work with; other tags are shown as they are."""

_LATIN = frozenset(("cs", "de", "en", "es", "fr", "id", "it", "ms", "nl", "pl", "pt", "sv", "sw", "tr", "vi"))
_MOSTLY = 0.5
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def visible(text: str) -> str:
    """No control character but tab and line break, and no lone surrogate; they would break the file."""
    return _CONTROL.sub("\ufffd", text)


def number(value: float, digits: int = 4) -> str:
    """A plain figure, ``1.2346``; thousands are set apart, the sign is U+2212."""
    return f"{value:,.{digits}f}".replace("-", MINUS)


def change(value: float, digits: int = 1) -> str:
    """A difference in percent with its sign, ``−14.6 %``; what rounds to nothing has none, ``0.0 %``."""
    shown = f"{value:+.{digits}f}"
    if float(shown) == 0:
        shown = shown[1:]
    return f"{shown.replace('-', MINUS)} %"


def interval(ends: tuple[float, float], digits: int = 4) -> str:
    """``1.2 to 1.3``."""
    return f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def change_interval(ends: tuple[float, float]) -> str:
    """``−15.9 to −13.2 %``."""
    return f"{change(ends[0]).removesuffix(' %')} to {change(ends[1])}"


def share(value: float) -> str:
    """A share of one as ``12.5 %``."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as ``1 h 02 min``, ``3 min 05 s``, ``12 s`` or ``0.4 s``; whole seconds have no decimals."""
    whole = round(seconds)
    if seconds < 10 and seconds != whole:
        return f"{seconds:.1f} s"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def size(num_bytes: float) -> str:
    """Bytes as kB, MB or GB with powers of ten, the way disks and GPUs are sold."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes:.0f} B"


def primary(tag: str) -> str:
    """The language of a BCP-47 tag without script and region, in lower case."""
    return tag.split("-", maxsplit=1)[0].lower()


def language_name(tag: str) -> str:
    """``Korean``, or ``Chinese (zh-Hant)`` where the tag says more; unknown tags as they are."""
    name = _NAMES.get(primary(tag))
    if name is None:
        return tag
    return name if tag.lower() == primary(tag) else f"{name} ({tag})"


@cache
def known_languages() -> frozenset[str]:
    """Every ISO 639-1, 639-2 and 639-3 code (the list is shipped, so that nothing is looked up online)."""
    text = Path(__file__).with_name("iso639.txt").read_text(encoding="ascii")
    return frozenset(text.split("\n", maxsplit=1)[1].split())


def spoken_in(text: str, tag: str) -> str | None:
    """The tag for a ``lang`` attribute, or None when the text is plainly in another script.

    A base model often answers in English whatever it was asked; a screen reader must not read that as Korean.
    """
    if primary(tag) in _LATIN or primary(tag) not in _NAMES:
        return tag
    letters = [char for char in text if char.isalpha()]
    foreign = sum(char > "\u024f" for char in letters)
    return tag if letters and foreign >= _MOSTLY * len(letters) else None


FILTERS: dict[str, Callable[..., str]] = {
    "number": number,
    "change": change,
    "interval": interval,
    "change_interval": change_interval,
    "share": share,
    "duration": duration,
    "size": size,
    "language": language_name,
    "count": "{:,}".format,
    "short": "{:g}".format,
}
"""What the templates call these functions."""
