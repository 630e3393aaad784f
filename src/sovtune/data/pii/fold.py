"""One character for one: digits of every script and typographic separators as ASCII, for matching only."""

from __future__ import annotations

import re

# Zero of each script's decimal digits: Arabic-Indic, Persian, NKo, Devanagari, Bengali, Gurmukhi, Gujarati,
# Oriya, Tamil, Telugu, Kannada, Malayalam, Thai, Lao, Tibetan, Myanmar, Khmer, Mongolian, full-width.
_ZEROS = (
    *(0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66),
    *(0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x17E0, 0x1810, 0xFF10),
)
_HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58\ufe63\u30fc"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
# Direction marks, zero-width space, word joiner, soft hyphen, byte-order mark: they split a number on
# screen not at all.
_INVISIBLE = (
    "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)

_TABLE: dict[int, str] = {
    **{0xFF01 + offset: chr(0x21 + offset) for offset in range(94)},
    **{ord(sign): "-" for sign in _HYPHENS},
    **{ord(sign): " " for sign in _SPACES + _INVISIBLE},
    **{zero + digit: str(digit) for zero in _ZEROS for digit in range(10)},
    0x06D4: ".",  # Arabic full stop
    0x066B: ".",  # Arabic decimal separator
}
_FOLDABLE = re.compile("[" + "".join(re.escape(chr(code)) for code in sorted(_TABLE)) + "]")


def fold(text: str) -> str:
    """The text with digits and separators in ASCII; same length, so that offsets stay."""
    return text.translate(_TABLE) if _FOLDABLE.search(text) else text
