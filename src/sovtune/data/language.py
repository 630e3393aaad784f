"""Which language a text is in: scripts decide where they can, py3langid among candidates where they cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sovtune.data.code_lines import fenced, is_code
from sovtune.data.han import USED_IN_JAPANESE_ONLY, han_variant
from sovtune.data.matching import batches
from sovtune.data.scripts import (
    FIRST_SCRIPT,
    SCRIPT_CLASS,
    SCRIPTS,
    class_counts,
    class_counts_by_line,
    primary,
    script_shares,
    scripts_of,
)

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

__all__ = [
    "UNDECIDED",
    "DocumentLanguage",
    "Identified",
    "can_be_told",
    "han_variant",
    "identify",
    "identify_document",
    "identify_documents",
    "script_shares",
]

UNDECIDED = "und"
"""BCP-47 for: cannot be said."""

_LETTER_WEIGHT = {"Han": 3.5, "Hangul": 2.5, "Hiragana": 1.5, "Katakana": 1.5, "Yi": 3.5}
"""How many Latin letters say as much as one character.

Letters of the parallel UDHR: English 12,461, Korean 4,826, Chinese 3,334, Japanese 2,876 kana and 2,541 Han.
"""
_WEIGHTS = np.array([_LETTER_WEIGHT.get(name, 1.0) for name in SCRIPTS])

_OWN_SHARE = 0.25
"""A paragraph belongs to a non-Latin script from this weighted share on: terms and code come in Latin."""
_KANA_SHARE = 0.08
"""Han with at least this share of kana is Japanese; running Japanese has 0.33 to 1 (measured), Chinese none."""
_LEAST_LETTERS = 12
"""Below so many letters Latin text is a name, an acronym or a command, and says nothing of the document."""
_SURE_LETTERS = 30
"""From so many letters on a language outside the candidates is believed."""
_SURE_IN = {"Devanagari": 50}
"""The same where vowel signs count as letters too; Hindi headings of 33 to 39 were taken for Nepali."""
_LEAD = 5.0
"""How many times likelier than the likeliest candidate another language must be to be believed.

Measured on UDHR and manuals in 10 languages: a wrong language leads by 2.7 at most (Nepali before Hindi), the true
one by more than 5 in 99 % of the paragraphs but for Hindi and Russian.
"""
_LONGEST = 240
"""Characters of a paragraph that py3langid reads; on 197 longer paragraphs in 9 languages more changed nothing."""

_SOLE = {
    "Hangul": "ko",
    "Hiragana": "ja",
    "Katakana": "ja",
    "Han": "zh",
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Tibetan": "bo",
    "Georgian": "ka",
    "Armenian": "hy",
    "Greek": "el",
    "Hebrew": "he",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Ethiopic": "am",
    "Bengali": "bn",
    "Thaana": "dv",
    "Mongolian": "mn",
    "Syriac": "syr",
    "Nko": "nqo",
    "Tifinagh": "zgh",
    "Javanese": "jv",
    "Yi": "ii",
}
"""The language to name when a script appears that no candidate is written in."""

_RIVALS = {
    "Latin": "de en es fr id it nl pl pt sv sw tr vi",
    "Arabic": "ar fa ur",
    "Cyrillic": "bg ru uk",
    "Devanagari": "hi mr ne",
}
"""Languages that share a script and are common enough on the web to be met in a corpus of another."""
_TWINS = {
    "ms": {"id"},
    "jv": {"id"},
    "su": {"id"},
    "mk": {"bg"},
    "be": {"ru", "uk"},
    "gl": {"es", "pt"},
    "ca": {"es"},
    "da": {"sv"},
    "no": {"sv"},
    "nb": {"sv"},
    "af": {"nl"},
    "mai": {"hi"},
    "bho": {"hi"},
    "ckb": {"fa"},
    "ps": {"fa", "ur"},
}
"""Rivals too close to a candidate for py3langid to be trusted between them."""

_SPOKEN_ARABIC = frozenset({"arz", "ary", "apc"})
"""Written much like the standard language; short texts can be either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """A language tag, how sure it is (0 to 1), and the script shares it rests on."""

    tag: str
    confidence: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLanguage:
    """The main language of a document and its shares by weighted letters; code and markup are left out.

    ``foreign_paragraphs`` are the indexes (from 0) of the lines in another language than ``tag``;
    ``letters`` is the weight of all lines that were counted, in Latin letters.
    """

    tag: str
    shares: Mapping[str, float] = field(default_factory=dict)
    foreign_paragraphs: tuple[int, ...] = ()
    letters: float = 0.0

    def share_of(self, tag: str) -> float:
        """Share of a language; a plain tag such as ``zh`` includes ``zh-Hans`` and ``zh-Hant``."""
        own = [share for name, share in self.shares.items() if name == tag or name.startswith(f"{tag}-")]
        return sum(own)

    def passes(self, tag: str, threshold: float = 0.5) -> bool:
        """Whether enough of the document is in ``tag``; one with too few letters to say is let through."""
        if self.tag == UNDECIDED:
            return self.letters < _SURE_LETTERS
        return self.share_of(tag) >= threshold


@cache
def _model() -> LanguageIdentifier:
    """py3langid with all its languages and its scores as probabilities; half a second to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _restricted(languages: frozenset[str]) -> LanguageIdentifier:
    """py3langid restricted to those of some languages that it knows; the weights are shared."""
    model = copy(_model())
    model.set_languages(sorted(languages & set(model.labels)))
    return model


def can_be_told(tag: str, among: Iterable[str]) -> bool:
    """Whether texts in a language can be told from texts in others of the same script.

    Args:
        tag: the language.
        among: tags of all languages that a corpus is said to hold.
    """
    script, language = scripts_of(tag)[0], primary(tag)
    same = {primary(other) for other in among if scripts_of(other)[0] == script} - {language}
    if script not in _RIVALS:
        return not same
    if language in _SPOKEN_ARABIC or same & _TWINS.get(language, set()):
        return False
    return language in _RIVALS[script].split() or language in _model().labels


def _among(text: str, candidates: Sequence[str], script: str, letters: float) -> tuple[str, float]:
    """(tag, confidence) of a text in a script that several languages share."""
    own = {primary(tag): tag for tag in reversed(candidates)}
    twins: set[str] = set().union(*(_TWINS.get(language, set()) for language in own))
    rivals = set(_RIVALS[script].split()) - twins
    scores = dict(_restricted(frozenset(own) | rivals).rank(text[:_LONGEST]))
    known = [language for language in map(primary, candidates) if language in scores]
    if own and not known:
        return candidates[0], 0.5  # py3langid does not know the language: the script is all there is
    pool = known if known and letters < _SURE_IN.get(script, _SURE_LETTERS) else list(scores)
    best = max(pool, key=scores.__getitem__)
    if known and scores[best] < _LEAD * scores[known[0]]:
        best = known[0]
    return own.get(best, best), float(scores[best])


def _chinese(text: str, candidates: Sequence[str]) -> str:
    """The tag for Chinese text: a candidate's, or the variant when candidates ask for the other one."""
    tags = [tag for tag in candidates if scripts_of(tag)[0] == "Han"]
    variant = han_variant(text)
    if variant is None:
        return tags[0] if tags else "zh"
    marked = {part: tag for tag in tags for part in tag.split("-")[1:] if part in ("Hans", "Hant")}
    plain = next((tag for tag in tags if not {"Hans", "Hant"} & set(tag.split("-"))), None)
    if variant in marked:
        return marked[variant]
    if plain is None and marked:
        return f"zh-{variant}"
    return plain or "zh"


def _east_asian(text: str, counts: Mapping[str, int], candidates: Sequence[str]) -> str:
    """Japanese or Chinese: kana decides; without kana, kanji that Chinese has not, then candidates."""
    languages = {primary(tag) for tag in candidates}
    kana = counts.get("Hiragana", 0) + counts.get("Katakana", 0)
    han = counts.get("Han", 0)
    if kana > _KANA_SHARE * (kana + han):
        return next((tag for tag in candidates if primary(tag) == "ja"), "ja")
    chinese = any(scripts_of(tag)[0] == "Han" for tag in candidates)
    heading = not chinese and han < _LEAST_LETTERS  # longer Japanese has kana
    if "ja" in languages and (heading or USED_IN_JAPANESE_ONLY.search(text)):
        return next(tag for tag in candidates if primary(tag) == "ja")
    if "ko" in languages and not chinese and "ja" not in languages and han < _LEAST_LETTERS:
        return next(tag for tag in candidates if primary(tag) == "ko")
    return _chinese(text, candidates)


def _decide(text: str, counts: Mapping[str, int], candidates: Sequence[str]) -> tuple[str, float]:
    """(tag, confidence) of one paragraph from its letters by script."""
    weights = {name: count * _LETTER_WEIGHT.get(name, 1.0) for name, count in counts.items()}
    total = sum(weights.values())
    others = {name: weight for name, weight in weights.items() if name != "Latin"}
    east_asian = sum(others.pop(name, 0.0) for name in ("Han", "Hiragana", "Katakana", "Bopomofo"))
    if east_asian:
        others["Han"] = east_asian
    script = max(others, key=others.__getitem__, default="Latin")
    if others and others[script] >= _OWN_SHARE * total:
        confidence = min(1.0, others[script] / total)
    else:
        script, confidence = "Latin", weights.get("Latin", 0.0) / total if total else 0.0
    if script == "Han":
        return _east_asian(text, counts, candidates), confidence
    own = [tag for tag in candidates if script in scripts_of(tag) and scripts_of(tag)[0] == script]
    if script in _RIVALS:
        if script == "Latin" and total < _LEAST_LETTERS:
            return UNDECIDED, 0.0
        tag, among = _among(text, own, script, total)
        return tag, confidence * among
    return (own[0] if own else _SOLE.get(script, UNDECIDED)), confidence


def identify(text: str, candidates: Sequence[str]) -> Identified:
    """The language of one paragraph.

    Scripts decide first; languages that share a script are told apart by py3langid among the candidates and
    a few common rivals, so that German in a Turkish corpus is not called Turkish. A short text is never
    given to a rival.

    Args:
        text: normalised text (NFC); code in it is not looked for.
        candidates: tags the text may be in, likeliest first.
    """
    letters = class_counts(text)[FIRST_SCRIPT:]
    counts = {SCRIPTS[index]: int(letters[index]) for index in np.flatnonzero(letters)}
    if not counts:
        return Identified(tag=UNDECIDED, confidence=0.0, shares={})
    tag, confidence = _decide(text, counts, candidates)
    total = sum(counts.values())
    return Identified(tag=tag, confidence=confidence, shares={name: n / total for name, n in counts.items()})


_LATIN = SCRIPT_CLASS["Latin"] - FIRST_SCRIPT


@cache
def _by_script_alone(candidates: tuple[str, ...]) -> dict[int, str]:
    """Scripts that name one language whatever the words are, as column -> tag."""
    names = (set(_SOLE) - {"Han", "Hiragana", "Katakana"}) - set(_RIVALS)
    found = {}
    for name in names:
        own = [tag for tag in candidates if scripts_of(tag)[0] == name]
        found[SCRIPT_CLASS[name] - FIRST_SCRIPT] = own[0] if own else _SOLE[name]
    return found


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of several texts: themselves, letters by script, their weight, the tag where scripts alone tell it."""

    lines: list[str]
    counts: npt.NDArray[np.int64]
    weights: list[float]
    tags: list[str | None]


def _look_up(text: str, candidates: tuple[str, ...]) -> _Lines:
    lines = text.split("\n")
    counts = class_counts_by_line(text, len(lines))[:, FIRST_SCRIPT:]
    weighted = counts * _WEIGHTS
    totals = weighted.sum(axis=1)
    leading = weighted.argmax(axis=1)
    clear = weighted[np.arange(len(lines)), leading] >= 0.5 * totals
    sole = _by_script_alone(candidates)
    tags = [sole.get(column) for column in np.where(clear, leading, -1).tolist()]
    return _Lines(lines, counts, totals.tolist(), tags)


def _weigh(
    found: _Lines, first: int, end: int, code: set[int], candidates: Sequence[str]
) -> DocumentLanguage:
    """The languages of the document that is the lines from ``first`` to before ``end``, ``code`` among them."""
    weights: dict[str, float] = {}
    tags: dict[int, str] = {}
    undecided = 0.0
    for index, (weight, told) in enumerate(zip(found.weights[first:end], found.tags[first:end], strict=True)):
        if not weight:
            continue
        if index in code:
            undecided += weight
            continue
        tag = told
        if tag is None:
            row, line = found.counts[first + index], found.lines[first + index]
            if row[_LATIN] > 0.75 * weight and is_code(line):
                undecided += weight
                continue
            tag, _ = _decide(line, {SCRIPTS[i]: int(row[i]) for i in np.flatnonzero(row)}, candidates)
        if tag == UNDECIDED:
            undecided += weight
            continue
        tags[index] = tag
        weights[tag] = weights.get(tag, 0.0) + weight
    if not weights:
        return DocumentLanguage(tag=UNDECIDED, letters=undecided)
    total = math.fsum(weights.values())
    shares = {name: weight / total for name, weight in sorted(weights.items(), key=lambda item: -item[1])}
    main = next(iter(shares))
    foreign = tuple(index for index, tag in tags.items() if tag != main) if len(shares) > 1 else ()
    return DocumentLanguage(tag=main, shares=shares, foreign_paragraphs=foreign, letters=total)


def identify_documents(texts: Sequence[str], candidates: Sequence[str]) -> list[DocumentLanguage]:
    """``identify_document`` of many texts, many times as fast where scripts tell the language."""
    named = tuple(candidates)
    found: list[DocumentLanguage] = []
    for batch in batches(texts):
        looked_up = _look_up("\n".join(batch), named)
        first = 0
        for text in batch:
            end = first + text.count("\n") + 1
            code = fenced(looked_up.lines[first:end]) if "```" in text or "~~~" in text else set()
            weight, tag = looked_up.weights[first], looked_up.tags[first]
            if end == first + 1 and weight and tag is not None and not code:  # most short rows
                found.append(DocumentLanguage(tag=tag, shares={tag: 1.0}, letters=weight))
            else:
                found.append(_weigh(looked_up, first, end, code, candidates))
            first = end
    return found


def identify_document(text: str, candidates: Sequence[str]) -> DocumentLanguage:
    """The languages of a document, line by line, weighted by letters.

    Fenced and indented code, commands, addresses and lines of markup do not count; neither do a few Latin
    letters alone in a line. Lines whose script names the language cost next to nothing; only the others are
    looked at.

    Args:
        text: normalised text (NFC).
        candidates: tags the document may be in, likeliest first.
    """
    return identify_documents([text], candidates)[0]
