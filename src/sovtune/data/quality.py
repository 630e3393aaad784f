"""Quality of a text without words of any language: ratios, repetition, compression; fixed or measured limits."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sovtune.data.matching import batches
from sovtune.data.scripts import (
    BAD,
    CLASSES,
    DIGIT,
    FIRST_SCRIPT,
    SCRIPT_CLASS,
    SPACE,
    SYMBOL,
    Classes,
    Codes,
    class_table,
    codes_of,
    scripts_of,
)
from sovtune.errors import UsageError

_UNSPACED = frozenset({"Han", "Hiragana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese", "Yi"})
"""First script of languages that put no blank between words."""
_WORDS, _CHARACTERS = range(2, 5), range(5, 11)
"""Lengths of repeated sequences: 2 to 4 words, or 5 to 10 characters where words have no blanks."""
_LEAST_REPEATS = 3
"""A sequence must come so often before it counts as repeated at all."""

_TERMINAL = re.compile(r"[.。．｡！!？?؟۔።।॥…‥:：;；؛~ㅋㅎㅠㅜ][)\]\"'”’»」』）】*_\s]*(?:\n|\Z)")
# Begins with a set of characters, which the search skips to.
_SENTENCE_END = re.compile(r"[.!?。！？؟۔।](?:(?<=[.!?])\s+|(?<=[。！？؟۔।])\s*)")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What can be counted in any script; shares are 0 to 1, ``compression_ratio`` is bytes per zlib byte.

    ``target_script_ratio`` is over letters, ``bad_character_ratio`` (U+FFFD, private use, unassigned) and
    ``symbol_digit_ratio`` over characters without blanks, the duplicate shares over characters (a line
    counts sentence by sentence), ``top_ngram_share`` (2 to 4 words, 5 to 10 characters) and
    ``duplicate_window_share`` (8 words, 20 characters) over words or characters,
    ``terminal_punctuation_share`` over lines with text.
    """

    characters: int
    target_script_ratio: float
    bad_character_ratio: float
    duplicate_line_share: float
    duplicate_paragraph_share: float
    top_ngram_share: float
    duplicate_window_share: float
    compression_ratio: float
    terminal_punctuation_share: float
    mean_line_length: float
    symbol_digit_ratio: float


def _duplicate_share(parts: Sequence[str]) -> float:
    """Characters in parts that came before, as a share of all."""
    seen = set(parts)
    if len(seen) == len(parts):
        return 0.0
    total = sum(map(len, parts))
    return 1 - sum(map(len, seen)) / total if total else 0.0


_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd constant of the golden ratio: a product spreads every bit
_SHIFT = np.uint64(29)


def _repeats(keys: npt.NDArray[np.uint64]) -> tuple[int, int]:
    """(how often the commonest key occurs, how many keys came before)."""
    ordered = np.sort(keys)
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    edges = np.concatenate(([-1], ends, [len(ordered) - 1]))
    return int((edges[1:] - edges[:-1]).max()), len(ordered) - len(ends) - 1


def _repetition(units: npt.NDArray[np.uint64], lengths: range) -> tuple[float, float]:
    """(share of the commonest sequence of any length, share of windows of twice the longest that came before)."""
    top, size = 0.0, len(units)
    keys = units * _MIX
    for length in range(2, lengths.stop):
        if size < length * _LEAST_REPEATS:
            return top, 0.0
        keys = (keys[:-1] ^ (keys[:-1] >> _SHIFT)) * _MIX + units[length - 1 :]
        if length in lengths:
            count, _ = _repeats(keys)
            if count >= _LEAST_REPEATS:
                top = max(top, min(1.0, count * length / size))
    longest = lengths[-1]
    windows = (keys[:-longest] ^ (keys[:-longest] >> _SHIFT)) * _MIX + keys[longest:]
    return top, _repeats(windows)[1] / len(windows)


def _surely_varied(units: npt.NDArray[np.uint64], lengths: range, limits: Thresholds) -> bool:
    """Whether ``_repetition`` is within the limits, told from parts of its sequences: True proves it, False nothing.

    A sequence is no commoner than a part of it, and windows are no fewer than the parts they begin with.
    """
    most_top, most_windows = limits.max_top_ngram, limits.max_duplicate_windows
    size, longest = len(units), lengths[-1]
    windows = size - 2 * longest + 1
    if windows < 1:
        return False
    keys, done = units, 1
    for length in (lengths.start // 2, lengths.start):
        for place in range(done, length):
            keys = (keys[:-1] ^ (keys[:-1] >> _SHIFT)) * _MIX + units[place:]
        done = length
        count, before = _repeats(keys)
        beginnings = len(keys) - before - (len(keys) - windows)
        few = most_top is None or count < _LEAST_REPEATS or count * longest / size <= most_top
        if few and (most_windows is None or (windows - beginnings) / windows <= most_windows):
            return True
    return False


def _units(text: str, codes: Codes, classes: Classes, spaced: bool) -> tuple[npt.NDArray[np.uint64], range]:
    """What repeats are looked for in, and of which lengths: words, or characters where words have no blanks."""
    if not spaced:
        return codes[classes != SPACE].astype(np.uint64), _CHARACTERS
    words = text.split()
    return np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64), _WORDS


def _sentences(text: str) -> list[str]:
    r"""The text cut at line breaks, with the blanks around and a full stop before them, and behind sentences.

    It is ``re.split(r"[.!?]?\s*\n\s*|[.!?]\s+|[。！？؟۔।]\s*", text)`` without empty parts, in a quarter of the time.
    """
    *lines, last = text.split("\n")
    first = lines[:1]
    parts: list[str] = []
    for line in [*(line.rstrip() for line in first), *(line.strip() for line in lines[1:])]:
        parts += _SENTENCE_END.split(line[:-1] if line.endswith((".", "!", "?")) else line)
    parts += _SENTENCE_END.split(last.lstrip() if first else last)
    return [part for part in parts if part]


def _window(size: int) -> int:
    """Bits of zlib's window: the smallest that holds a text; setting up a large one costs more than using it."""
    return max(9, min(15, (size - 1).bit_length()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits on ``Measures``; None is no limit. The defaults drop what no corpus should hold.

    ``min_length`` is the number of characters from which on the ratios that need length are looked at:
    everything but bad characters and emptiness. Shorter texts (a sentence, a turn of a chat) cannot fail
    them.
    """

    min_characters: int = 1
    min_length: int = 200
    max_bad_characters: float | None = 0.01
    min_target_script: float | None = 0.1
    max_duplicate_lines: float | None = 0.5
    max_duplicate_paragraphs: float | None = 0.35
    max_top_ngram: float | None = 0.4
    max_duplicate_windows: float | None = 0.6
    max_compression: float | None = 12.0
    min_compression: float | None = 1.1
    min_terminal_punctuation: float | None = None
    min_line_length: float | None = None
    max_line_length: float | None = None
    max_symbols_and_digits: float | None = 0.5

    @property
    def ignore_lines(self) -> bool:
        """Whether there is no limit on the ends or lengths of lines."""
        limits = (self.min_terminal_punctuation, self.min_line_length, self.max_line_length)
        return limits == (None, None, None)


def measure(text: str, tag: str) -> Measures:
    r"""Measure a text against the scripts of a language.

    Args:
        text: normalised text (NFC, ``\n`` line ends).
        tag: BCP-47 tag of the language it should be in.
    """
    codes = codes_of(text)
    return _measure(text, tag, codes, class_table()[codes], None)


def _measure(text: str, tag: str, codes: Codes, classes: Classes, limits: Thresholds | None) -> Measures:
    """``measure``; with limits, what no limit needs, or surely keeps its limit, is not measured and reads 0."""
    counts = np.bincount(classes, minlength=CLASSES)
    visible = max(1, len(text) - int(counts[SPACE]))
    letters = int(counts[FIRST_SCRIPT:].sum())
    scripts = scripts_of(tag)
    own = sum(int(counts[SCRIPT_CLASS[name]]) for name in scripts)
    lines: list[str] = []
    if limits is None or not limits.ignore_lines:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
    raw = text.encode("utf-8", "surrogatepass")
    paragraphs = _PARAGRAPH.split(text) if "\n\n" in text or "\n " in text else [text]
    units, lengths = _units(text, codes, classes, scripts[0] not in _UNSPACED)
    top = windows = 0.0
    if limits is None or not _surely_varied(units, lengths, limits):
        top, windows = _repetition(units, lengths)
    return Measures(
        characters=len(text),
        target_script_ratio=own / letters if letters else 0.0,
        bad_character_ratio=int(counts[BAD]) / visible,
        duplicate_line_share=_duplicate_share(_sentences(text)),
        duplicate_paragraph_share=_duplicate_share(paragraphs),
        top_ngram_share=top,
        duplicate_window_share=windows,
        compression_ratio=len(raw) / len(zlib.compress(raw, 1, _window(len(raw)))) if raw else 0.0,
        terminal_punctuation_share=min(1.0, len(_TERMINAL.findall(text)) / len(lines)) if lines else 0.0,
        mean_line_length=sum(map(len, lines)) / len(lines) if lines else 0.0,
        symbol_digit_ratio=int(counts[[SYMBOL, DIGIT]].sum()) / visible,
    )


_SHORT = dict.fromkeys([entry.name for entry in fields(Measures) if entry.name != "characters"], 0.0)


def _classed(texts: Sequence[str]) -> Iterator[tuple[Codes, Classes, int]]:
    """Code points and classes of each text, and how many of its characters are bad; looked up for many at once."""
    for batch in batches(texts):
        codes = codes_of("".join(batch))
        classes = class_table()[codes]
        ends = np.cumsum([len(text) for text in batch])
        bad = np.searchsorted(ends, np.flatnonzero(classes == BAD), side="right")
        start = 0
        for end, count in zip(ends.tolist(), np.bincount(bad, minlength=len(batch)).tolist(), strict=True):
            yield codes[start:end], classes[start:end], count
            start = end


def measure_all(texts: Sequence[str], tags: Sequence[str]) -> list[Measures]:
    """``measure`` of many texts; of one too short for percentiles only its length and bad characters are right.

    Args:
        texts: see ``measure``.
        tags: of each text.
    """
    least = Thresholds().min_length
    return [
        Measures(characters=len(text), **_SHORT)
        if not bad and len(text) < least
        else _measure(text, tag, codes, classes, None)
        for text, tag, (codes, classes, bad) in zip(texts, tags, _classed(texts), strict=True)
    ]


_LIMITS: tuple[tuple[str, str, str], ...] = (
    ("wrong_script", "target_script_ratio", "min_target_script"),
    ("duplicate_lines", "duplicate_line_share", "max_duplicate_lines"),
    ("duplicate_paragraphs", "duplicate_paragraph_share", "max_duplicate_paragraphs"),
    ("repetition", "top_ngram_share", "max_top_ngram"),
    ("repetition", "duplicate_window_share", "max_duplicate_windows"),
    ("compresses_too_well", "compression_ratio", "max_compression"),
    ("noise", "compression_ratio", "min_compression"),
    ("few_sentence_ends", "terminal_punctuation_share", "min_terminal_punctuation"),
    ("short_lines", "mean_line_length", "min_line_length"),
    ("long_lines", "mean_line_length", "max_line_length"),
    ("symbols_and_digits", "symbol_digit_ratio", "max_symbols_and_digits"),
)
"""(reason, measure, limit) in the order in which they are judged, for texts of at least ``min_length``."""


def judge(measures: Measures, thresholds: Thresholds) -> str | None:
    """The name of the first limit a text breaks, None when it keeps all."""
    if measures.characters < thresholds.min_characters:
        return "too_short"
    most_bad = thresholds.max_bad_characters
    if most_bad is not None and measures.bad_character_ratio > most_bad:
        return "bad_characters"
    if measures.characters < thresholds.min_length:
        return None
    for reason, name, limit_name in _LIMITS:
        limit, value = getattr(thresholds, limit_name), getattr(measures, name)
        if limit is not None and (value < limit if limit_name.startswith("min_") else value > limit):
            return reason
    return None


def judge_all(texts: Sequence[str], tags: Sequence[str], thresholds: Thresholds) -> list[str | None]:
    """``judge`` of ``measure`` for many texts, several times as fast: only what limits need is measured.

    Args:
        texts: see ``measure``.
        tags: of each text.
        thresholds: the limits.
    """
    least, long = thresholds.min_characters, thresholds.min_length
    return [
        None  # nothing else is looked at in a short text
        if not bad and least <= len(text) < long
        else judge(_measure(text, tag, codes, classes, thresholds), thresholds)
        for text, tag, (codes, classes, bad) in zip(texts, tags, _classed(texts), strict=True)
    ]


def from_percentiles(measures: Sequence[Measures], low: float, high: float) -> Thresholds:
    """Limits that cut off the tails of a corpus: below its ``low`` and above its ``high`` percentile.

    Only texts of at least ``Thresholds.min_length`` are looked at, since only they are judged by these
    ratios. The limits on length and bad characters stay the defaults. Interpolated percentiles never cut
    more than the tail.

    Args:
        measures: one record per text.
        low: percentile of lower limits, 0 to 50.
        high: percentile of upper limits, 50 to 100.

    Raises:
        UsageError: percentiles out of order, or fewer than 100 texts that are long enough.
    """
    if not 0 <= low <= 50 <= high <= 100:
        raise UsageError(
            f"percentiles {low:g} and {high:g} do not make a range",
            why="the lower is between 0 and 50, the upper between 50 and 100",
            fix="0.1 and 99.9 cut off the outermost thousandth on each side",
        )
    default = Thresholds()
    long = [measured for measured in measures if measured.characters >= default.min_length]
    if len(long) < 100:
        raise UsageError(
            f"{len(long)} texts of at least {default.min_length} characters are too few for percentiles",
            why="the tail of fewer than 100 texts is one text",
            fix="use the default thresholds, or write them in the recipe",
        )
    limits: dict[str, Any] = {}
    for _, name, limit_name in _LIMITS:
        values = [getattr(measured, name) for measured in long]
        limits[limit_name] = float(np.percentile(values, low if limit_name.startswith("min_") else high))
    return replace(default, **limits)
