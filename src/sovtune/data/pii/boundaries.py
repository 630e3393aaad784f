"""Where a number may begin and end: never inside a longer number, an identifier, a hash or a web address."""

from __future__ import annotations

import re

_LETTERS = "A-Za-zÀ-ɏḀ-ỿ"

LEFT = rf"(?<![0-9{_LETTERS}_+])(?<![0-9][-.:])(?<![A-Za-z][-_/])"
"""No digit, Latin letter, + or _ before; no digit or letter joined by a hyphen, no path component."""

RIGHT = rf"(?![0-9{_LETTERS}_])(?![-.:][0-9])(?![-_][A-Za-z])"
"""The same to the right. Hangul, Han, Kana, Arabic and Devanagari may touch: 번호는 …으로, …です."""

ALONE_LEFT = r"(?<![0-9] )"
ALONE_RIGHT = r"(?! [0-9])"
"""For numbers written in groups with spaces: one group more on either side makes it another number."""

NUMBER = re.compile(r"[+(]{0,2}[0-9](?:[ .()\-]{0,3}[0-9]){6,}")
"""A maximal run of seven digits or more with the separators people put between them."""

FOUR_DIGITS = re.compile(r"[0-9]{4}")
"""Every account or identity number with letters holds four digits in a row."""
LONGEST_LETTERED = 48
"""No such number is longer: an IBAN of 33 characters with a space after every fourth has 41."""

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]*://|www\.)[!#-&(-;=?-~]+")


def url_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every web address; quotes and angle brackets end one."""
    if "://" not in text and "www." not in text:
        return []
    return [match.span() for match in _URL.finditer(text)]


def windows(sign: re.Pattern[str], text: str, margin: int) -> list[tuple[int, int]]:
    """Stretches of the text around each place where a cheap sign is seen; those that meet are one."""
    spans: list[tuple[int, int]] = []
    for match in sign.finditer(text):
        low, high = max(0, match.start() - margin), min(len(text), match.end() + margin)
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    return spans
