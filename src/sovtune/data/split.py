"""Long running text cut where a reader would pause: at paragraphs, else sentences, else words; nothing is lost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sovtune.data.chat import Rendered
from sovtune.data.document import Document
from sovtune.data.scripts import SPACE, class_table, codes_of
from sovtune.errors import DataRefused

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Cuts = npt.NDArray[np.int64]
"""Ascending token indexes at which a text may be cut: the token there begins the next piece."""

_CLOSING = r"[)\]}\"'”’»›」』】》〉）］]*"
_SENTENCE = re.compile(
    rf"[.!?…]+{_CLOSING}(?=\s|\Z)\s*"  # a full stop ends a sentence only before a blank: 3.5, sovtune.org
    rf"|[。！？｡؟۔।॥]+{_CLOSING}\s*"
    r"|\n\s*"
)
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LEAST = 2
"""Tokens in a piece: a single one predicts nothing."""
_PARAGRAPH_FILL = 0.5
"""A paragraph's end is taken when the piece is at least so full; else the last sentence's end makes fewer pieces."""


def render_pieces(
    document: Document, tokenizer: Tokenizer, *, bos: int | None, eos: int | None, max_length: int
) -> list[Rendered]:
    """Running text as pieces of at most ``max_length`` tokens that all carry loss.

    The text is tokenised as a whole and its tokens are shared out, so that the pieces, one after the other, are the
    whole text. BOS stands only before the first, EOS only after the last piece.

    Raises:
        DataRefused: the text is empty.
    """
    text = document.text or ""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    ids = encoded.ids
    if not ids:
        raise DataRefused("the text is empty", where=document.where)
    head = [bos] if bos is not None else []
    tail = [eos] if eos is not None else []
    if len(head) + len(ids) + len(tail) <= max_length:
        starts = [0]
    else:
        offsets = np.array(encoded.offsets, dtype=np.int64)
        starts = [0, *cut(text, offsets, max_length, before=len(head), after=len(tail))]
    pieces = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        part = (head if start == 0 else []) + ids[start:end] + (tail if end == len(ids) else [])
        pieces.append(Rendered(input_ids=part, labels=list(part), where=document.where))
    return pieces


def cut(
    text: str, offsets: npt.NDArray[np.int64], max_length: int, *, before: int = 0, after: int = 0
) -> list[int]:
    """Where to cut a text that is longer than a row.

    Each piece ends at the last paragraph that fills at least half of it, else at its last sentence, else at its last
    word, else (one word is longer than a row) between two characters.

    Args:
        text: the text.
        offsets: its tokens' first character and the one after their last, shape (tokens, 2).
        max_length: tokens a piece may hold, at least 16 (the recipe's least).
        before: tokens that will stand before the first piece.
        after: tokens that will stand after the last piece.

    Returns:
        Index of the first token of every piece but the first.
    """
    paragraphs, sentences, words, characters = _breaks(text, offsets)
    cuts: list[int] = []
    start, lead, total = 0, before, len(offsets)
    while total - start + after > max_length - lead:
        room = max_length - lead
        low = start + max(1, _LEAST - lead)
        high = min(start + room, total - max(1, _LEAST - after))
        found = (
            _last(paragraphs, start + int(_PARAGRAPH_FILL * room), high)
            or _last(sentences, low, high)
            or _last(words, low, high)
            or _last(characters, low, high)
        )
        start, lead = found or high, 0
        cuts.append(start)
    return cuts


def _last(cuts: Cuts, low: int, high: int) -> int | None:
    """The largest of ``cuts`` between two bounds, both included."""
    place = int(np.searchsorted(cuts, high, side="right")) - 1
    return int(cuts[place]) if place >= 0 and cuts[place] >= low else None


def _breaks(text: str, offsets: npt.NDArray[np.int64]) -> tuple[Cuts, Cuts, Cuts, Cuts]:
    """Cuts at paragraphs, sentences (paragraphs among them), words, and between characters."""
    ends, starts = offsets[:-1, 1], offsets[1:, 0]
    # Bytes of one character are several tokens with the same offsets: between them is no place to cut.
    whole = starts >= ends
    blank = class_table()[codes_of(text)] == SPACE
    around = np.concatenate(([True], blank, [True]))  # character i is at i + 1
    at_word = (starts > ends) | around[ends] | around[ends + 1]
    found = (_inside(_PARAGRAPH, text, ends), _inside(_SENTENCE, text, ends), at_word, True)
    paragraphs, sentences, words, characters = (np.flatnonzero(whole & where) + 1 for where in found)
    return paragraphs, sentences, words, characters


def _inside(pattern: re.Pattern[str], text: str, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which places in the text lie in the gap after a pause: behind its marks, before the next letter."""
    gaps = [
        (match.start() + len(match.group().rstrip()), match.end()) for match in pattern.finditer(text)
    ] or [(-1, -1)]
    begins, ends = np.array(gaps, dtype=np.int64).T
    nearest = np.searchsorted(begins, places, side="right") - 1
    inside: npt.NDArray[np.bool_] = (nearest >= 0) & (places <= ends[nearest])
    return inside
