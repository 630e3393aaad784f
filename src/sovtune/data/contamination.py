"""Evaluation text inside training text: found whatever the spacing, punctuation, vowel marks or digit forms.

Both sides are reduced to letters, digits and marks: NFC, case folded, white space, punctuation and symbols
gone, Arabic vowel marks and tatweel gone, digits of every script as ASCII, full-width and presentation forms
as their plain letter. What remains is compared as one run of characters, so words may be joined or split
anywhere.

A training text is hit when it shares with one evaluation text a run of

* ``RUN`` = 30 characters, where most letters are of a script written without spaces or, like Hangul, with
  spaces that vary from writer to writer;
* ``RUN_WORDS`` = 13 words (and 30 characters) in every other script;
* the whole evaluation text when that is shorter, from ``WHOLE`` = 16 characters (unspaced) or
  ``WHOLE_WORDS`` = 8 words (others). Still shorter texts are ordinary phrases; ``too_short`` counts them, and
  held-out rows among them are compared by ``dedup`` as whole rows.

How: the index holds a 64-bit hash of the 16 characters at every 15th place of every evaluation text: any
shared run of 30 contains one whole such window. Training text is hashed at every place by doubling (1, 2, 4,
8, 16), sieved through a table of flags, then looked up; each hit is extended in both directions on the stored
text, which excludes collisions and gives the run's true length.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from sovtune.data.matching import BARRIER, Codes, Index, batches, categories, joined_nfc
from sovtune.data.scripts import codes_of

RUN, RUN_WORDS = 30, 13
"""Shared characters, shared words, from which a text is contaminated."""
WHOLE, WHOLE_WORDS = 16, 8
"""A shorter evaluation text counts when it is contained whole and is at least this long."""
SEED, STRIDE = 16, 15
"""Window hashed, and distance between windows: SEED + STRIDE - 1 = RUN."""
MAX_PLACES = 64
"""Places kept per window: a phrase in more evaluation texts is their template, not their content."""

_DROPPED, _SEPARATING = 0, 1  # values of the folding table that are no letters; a separator ends a word
_WORD_START = np.uint32(1 << 31)
_LETTER_BITS = np.uint32((1 << 31) - 1)
_EVAL_BARRIER = np.uint32(
    BARRIER - 1
)  # differs from the barrier of training text, so that no run crosses either
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_MASK = (1 << 64) - 1
_CHUNK = 1 << 16  # windows of evaluation text hashed at once

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Hit:
    """A run shared with an evaluation text.

    ``name`` and ``item`` say which one (``item`` counts from 0 within the name), ``start`` and ``end`` where
    it lies in the NFC form of the text searched, ``matched`` how many letters and digits it has, ``kind``
    whether it is a run of sufficient length or a short evaluation text contained whole.
    """

    name: str
    item: int
    start: int
    end: int
    matched: int
    kind: Literal["run", "whole"]


_VOWEL_MARKS = (  # Arabic tashkeel, small letters and Koranic signs, superscript alef, tatweel
    *range(0x0610, 0x061B),
    *range(0x064B, 0x0660),
    *range(0x06D6, 0x06DD),
    *range(0x06DF, 0x06E9),
    *range(0x06EA, 0x06EE),
    0x0670,
    0x0640,
)
_APOSTROPHES = "'\u2018\u2019\u02bc\uff07"
_PRESENTATION = ((0xFB50, 0xFE00), (0xFE70, 0xFF00), (0xFF01, 0xFFF0))
_UNSPACED = (  # first and last: Thai, Lao, Tibetan, Myanmar; Hangul jamo; Khmer; kana, Hangul, Han
    *((0x0E00, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x318F)),
    *((0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF)),
    *((0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
)


@cache
def _folding() -> Codes:
    """Code point -> folded code point, ``_DROPPED`` or ``_SEPARATING``; one for one, so that offsets stay."""
    table = np.arange(BARRIER + 1, dtype=np.uint32)
    presentation = {code for first, end in _PRESENTATION for code in range(first, end)}
    for code, assigned in enumerate(categories()):
        char, category = chr(code), assigned
        if code in presentation and len(plain := unicodedata.normalize("NFKC", char)) == 1:
            char, category = plain, unicodedata.category(plain)
        if category[0] in "PZS" or category == "Cc":
            table[code] = _SEPARATING
        elif category == "Cf":
            table[code] = _DROPPED
        elif category == "Nd":
            table[code] = ord(str(unicodedata.decimal(char)))
        else:
            table[code] = ord(char.casefold()[0])  # the first of several: Turkish dotted I -> i
    table[list(_VOWEL_MARKS)] = _DROPPED
    table[[ord(sign) for sign in _APOSTROPHES]] = _DROPPED
    table[0xE0000:0xE0200] = _DROPPED  # tags and variation selectors
    return table


@cache
def _unspaced() -> npt.NDArray[np.bool_]:
    table = np.zeros(BARRIER + 1, dtype=np.bool_)
    for first, last in _UNSPACED:
        table[first : last + 1] = True
    return table


@dataclass(frozen=True, slots=True)
class _Letters:
    """Joined texts reduced to letters.

    ``codes`` (bit 31: begins a word), their ``offsets`` in their own NFC text, and where each text starts and
    ends among the codes (``ends``: its barrier).
    """

    codes: Codes
    offsets: Index
    starts: Index
    ends: Index


def _reduce(texts: Sequence[str], barrier: np.uint32) -> _Letters:
    raw = codes_of(joined_nfc(texts))
    folded = _folding()[raw]
    kept = np.flatnonzero(folded > _SEPARATING)
    codes = folded[kept]
    ends = np.flatnonzero(codes == BARRIER)
    starts = np.concatenate(([0], ends + 1))[:-1]
    # A word begins after a separator; a barrier begins one too, so that the last word ends there.
    breaks = np.cumsum((folded == _SEPARATING) | (raw == BARRIER), dtype=np.int32)[kept]
    begins = np.empty(len(codes), dtype=np.bool_)
    begins[1:] = breaks[1:] != breaks[:-1]
    begins[starts] = True
    codes[ends] = barrier
    codes[begins] |= _WORD_START
    first = np.concatenate(([0], kept[ends] + 1))[:-1]  # where each text begins in the joined text
    offsets = kept - np.repeat(first, np.diff(ends, prepend=-1))
    return _Letters(codes, offsets, starts, ends)


def _window_hashes(codes: Codes) -> Hashes:
    """A hash of the ``SEED`` letters from every place on, ``[len(codes) - SEED + 1]``."""
    hashes = (codes & _LETTER_BITS).astype(np.uint64)
    hashes *= np.uint64(_MULTIPLIER)
    hashes ^= hashes >> np.uint64(32)
    width, base = 1, _MULTIPLIER
    while width < SEED:
        left = hashes[:-width] * np.uint64(base)
        left += hashes[width:]
        hashes, width, base = left, 2 * width, base * base & _MASK
    hashes *= np.uint64(_MULTIPLIER)  # the sieve reads the top bits
    return hashes


def _common(first: Codes, second: Codes) -> int:
    """How many letters two runs have in common from their beginning on."""
    done, step, size = 0, 64, min(len(first), len(second))
    while done < size:
        stop = min(done + step, size)
        different = np.flatnonzero((first[done:stop] ^ second[done:stop]) & _LETTER_BITS)
        if len(different):
            return done + int(different[0])
        done, step = stop, step * 4
    return size


def _words(codes: Codes, start: int, end: int) -> int:
    """Whole words within ``codes[start:end]``; there is a barrier behind every text."""
    return max(0, int(np.count_nonzero(codes[start : end + 1] & _WORD_START)) - 1)


class EvalIndex:
    """Every evaluation text, ready to be looked for. Immutable; can be sent to other processes.

    Memory: about 7 bytes per letter of evaluation text. Made by ``build``.

    Attributes:
        names: the evaluation sets, in the order of their first text.
        texts: texts per evaluation set.
        too_short: texts per evaluation set that are too short to be looked for.
    """

    def __init__(self, owners: Sequence[tuple[str, int]], letters: _Letters):
        self.names = tuple(dict.fromkeys(name for name, _ in owners))
        self.texts = dict(Counter(name for name, _ in owners))
        self._owners = owners
        self._codes, self._starts, self._ends = letters.codes, letters.starts, letters.ends
        self._hashes, self._places = _sampled_windows(letters)
        bits = max(16, (16 * len(self._hashes)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._sieve = np.zeros(1 << bits, dtype=np.bool_)
        self._sieve[self._hashes >> self._shift] = True
        short = _short_texts(letters) if owners else []
        self.too_short = dict(Counter(owners[text][0] for text in short))

    @classmethod
    def build(cls, texts_by_name: Iterable[tuple[str, str]]) -> EvalIndex:
        """Index ``(name, text)`` pairs.

        Args:
            texts_by_name: read once, may be lazy; the name is the evaluation set. The text is
                all of one item that would betray it: passage, question, answers.
        """
        owners: list[tuple[str, int]] = []
        counts: Counter[str] = Counter()
        parts: list[_Letters] = []
        pending: list[str] = []
        for name, text in texts_by_name:
            owners.append((name, counts[name]))
            counts[name] += 1
            pending.append(text)
            if len(pending) == 1024:
                parts.append(_reduce(pending, _EVAL_BARRIER))
                pending = []
        parts.append(_reduce(pending, _EVAL_BARRIER))
        return cls(owners, _concatenate(parts))

    def hits(self, text: str) -> list[Hit]:
        """The runs a text shares with evaluation texts: the longest per evaluation text, longest first."""
        return self.scan([text])[0]

    def scan(self, texts: Sequence[str]) -> list[list[Hit]]:
        """``hits`` of many texts, several times as fast as one by one."""
        return [hits for batch in batches(texts) for hits in self._scan_batch(batch)]

    def _scan_batch(self, texts: Sequence[str]) -> list[list[Hit]]:
        letters = _reduce(texts, np.uint32(BARRIER))
        best: list[dict[int, Hit]] = [{} for _ in texts]
        covered: dict[int, int] = {}  # by distance between both places: how far the run found there goes
        for place, other in self._seeds(letters.codes):
            if place < covered.get(place - other, 0):
                continue
            back = _common(letters.codes[:place][::-1], self._codes[:other][::-1])
            ahead = _common(letters.codes[place:], self._codes[other:])
            covered[place - other] = place + ahead
            kind = self._kind(letters.codes, place - back, other - back, back + ahead)
            if kind is None:
                continue
            start, end = letters.offsets[[place - back, place + ahead - 1]].tolist()
            number = int(np.searchsorted(letters.ends, place))
            text = int(np.searchsorted(self._ends, other))
            hit = Hit(*self._owners[text], start, end + 1, back + ahead, kind)
            if text not in best[number] or hit.matched > best[number][text].matched:
                best[number][text] = hit
        return [sorted(found.values(), key=lambda hit: (-hit.matched, hit.name, hit.item)) for found in best]

    def _seeds(self, codes: Codes) -> Iterator[tuple[int, int]]:
        """Places in ``codes`` and in the evaluation texts whose windows have the same hash."""
        if len(codes) < SEED or not len(self._hashes):
            return
        hashes = _window_hashes(codes)
        likely = np.flatnonzero(self._sieve[hashes >> self._shift])
        first = np.searchsorted(self._hashes, hashes[likely], side="left")
        last = np.searchsorted(self._hashes, hashes[likely], side="right")
        found = last > first
        for place, start, end in zip(
            *(column[found].tolist() for column in (likely, first, last)), strict=True
        ):
            for other in self._places[start:end].tolist():
                yield place, other

    def _kind(self, codes: Codes, start: int, other: int, length: int) -> Literal["run", "whole"] | None:
        """Whether ``length`` letters shared, from ``start`` and ``other`` (in the index) on, are a hit."""
        run = self._codes[other : other + length] & _LETTER_BITS
        unspaced = 2 * np.count_nonzero(_unspaced()[run]) >= length
        # Spacing may differ: the side with more words counts.
        words = max(_words(codes, start, start + length), _words(self._codes, other, other + length))
        if length >= RUN and (unspaced or words >= RUN_WORDS):
            return "run"
        text = int(np.searchsorted(self._ends, other))
        whole = other == self._starts[text] and other + length == self._ends[text]
        return "whole" if whole and (unspaced or words >= WHOLE_WORDS) else None


def _concatenate(parts: Sequence[_Letters]) -> _Letters:
    shifts = np.cumsum([0, *(len(part.codes) for part in parts)]).tolist()
    return _Letters(
        np.concatenate([part.codes for part in parts]),
        np.empty(0, dtype=np.int64),  # where a run lies in the evaluation text is not reported
        np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=False)]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=False)]),
    )


def _sampled_windows(letters: _Letters) -> tuple[Hashes, Index]:
    """Hashes, sorted, and places of the windows kept.

    One at every ``STRIDE`` letters and, in a text shorter than ``RUN``, one at its end, so that the cap on
    places per window cannot hide a short text that begins like many others.
    """
    lengths = letters.ends - letters.starts
    counts = np.maximum((lengths - SEED) // STRIDE + 1, 0)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(letters.starts, counts) + STRIDE * within
    brief = (lengths > SEED) & (lengths < RUN)
    places = np.concatenate((places, letters.ends[brief] - SEED))
    if not len(places):
        return np.empty(0, dtype=np.uint64), places
    span = np.arange(SEED)
    parts = [places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK)]
    hashes = np.concatenate([_window_hashes(letters.codes[p[:, None] + span].ravel())[::SEED] for p in parts])
    order = np.argsort(hashes, kind="stable")
    hashes, places = hashes[order], places[order]
    begins = np.concatenate(([True], hashes[1:] != hashes[:-1]))
    rank = np.arange(len(hashes)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    return hashes[rank < MAX_PLACES], places[rank < MAX_PLACES]


def _short_texts(letters: _Letters) -> list[int]:
    """The texts that no run can hit: see ``WHOLE``."""
    lengths = letters.ends - letters.starts
    unspaced = np.add.reduceat(_unspaced()[letters.codes & _LETTER_BITS], letters.starts, dtype=np.int64)
    words = (
        np.add.reduceat(letters.codes >= _WORD_START, letters.starts, dtype=np.int64) - 1
    )  # less the barrier
    short = (lengths < WHOLE) | ((2 * unspaced < lengths) & (words < WHOLE_WORDS))
    found: list[int] = np.flatnonzero(short).tolist()
    return found
