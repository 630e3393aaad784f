"""Texts as code points for comparing: joined in batches, white space and punctuation classed by table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]
Index = npt.NDArray[np.int64]

BARRIER = 0x10FFFF
"""Code point between joined texts: a noncharacter, so no text has a use for it."""

BATCH_CHARACTERS = 1 << 17
"""Characters joined at a time: enough to hide numpy's cost per call, small enough to stay in the cache."""

SCANNED = 0x20000
"""Tables look at planes 0 and 1; above them are only Han ideographs (letters) and invisible tags."""

_SEPARATOR = chr(BARRIER)


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive slices of about ``BATCH_CHARACTERS``; a longer text is a slice of its own."""
    start, size = 0, 0
    for at, text in enumerate(texts):
        if at > start and size + len(text) > BATCH_CHARACTERS:
            yield texts[start:at]
            start, size = at, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def nfc(text: str) -> str:
    """NFC, with the barrier (were it ever there) replaced so that joined texts cannot be torn apart."""
    if _SEPARATOR in text:
        text = text.replace(_SEPARATOR, "\ufffd")
    return unicodedata.normalize("NFC", text)


def joined_nfc(texts: Sequence[str]) -> str:
    """``nfc`` of every text, a barrier after each."""
    joined = "".join([text + _SEPARATOR for text in texts])
    if joined.count(_SEPARATOR) > len(texts):
        joined = "".join(nfc(text) + _SEPARATOR for text in texts)
    return unicodedata.normalize("NFC", joined)


@cache
def categories() -> tuple[str, ...]:
    """Unicode category of every code point below ``SCANNED`` (unassigned: ``Cn``)."""
    return tuple(unicodedata.category(chr(code)) for code in range(SCANNED))
