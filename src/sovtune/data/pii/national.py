"""Finders of national identifiers and payment cards: pattern, check rule, and the evidence asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sovtune.data.pii import checks
from sovtune.data.pii.boundaries import (
    ALONE_LEFT,
    ALONE_RIGHT,
    FOUR_DIGITS,
    LEFT,
    LONGEST_LETTERED,
    RIGHT,
    windows,
)
from sovtune.data.pii.context import Context
from sovtune.data.pii.finding import Confidence, Finding

Need = Literal["nothing", "home", "home and certain", "label"]
"""What must speak for a value that passes its check when no label stands near: nothing more; a corpus in a
language of the country; that and ``certain``; or it is not believed at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one identifier is written and when it is believed.

    ``grouped`` is what the form with separators needs, ``bare`` the form without. ``certain`` raises the
    confidence to high where it holds. ``deniable``: a label such as "order number" overrules the shape.
    """

    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    languages: frozenset[str]
    grouped: Need
    bare: Need
    certain: Callable[[str], bool] = lambda _value: False
    deniable: bool = True


def _digits(groups: str, separators: str) -> re.Pattern[str]:
    """Digits in groups such as ``4-4-4``, all joined by one same separator or by none."""
    first, *rest = [rf"[0-9]{{{size}}}" for size in groups.split("-")]
    alone_left, alone_right = (ALONE_LEFT, ALONE_RIGHT) if " " in separators else ("", "")
    tail = rest[0] + "".join(rf"(?P=join){group}" for group in rest[1:])
    grouped = rf"{alone_left}{first}(?P<join>[{separators}]){tail}{alone_right}"
    bare = rf"[0-9]{{{sum(map(int, groups.split('-')))}}}"
    return re.compile(rf"{LEFT}(?:{grouped}|{bare}){RIGHT}")


_INDIAN = frozenset({"hi", "bn", "gu", "kn", "ml", "mr", "or", "pa", "ta", "te", "as", "ur", "sa"})
_KOREAN_ID = re.compile(rf"{LEFT}[0-9]{{6}}(?: ?- ?| )?[1-8][0-9]{{6}}{RIGHT}")

NUMERIC_RULES: tuple[Rule, ...] = (
    Rule(
        kind="kr_rrn", pattern=_KOREAN_ID, check=lambda v: v[6] in "1234" and checks.kr_birth(v),
        languages=frozenset({"ko"}), grouped="home", bare="home and certain", certain=checks.kr_check_digit,
    ),
    Rule(
        kind="kr_frn", pattern=_KOREAN_ID, check=lambda v: v[6] in "5678" and checks.kr_birth(v),
        languages=frozenset({"ko"}), grouped="home", bare="home and certain", certain=checks.kr_check_digit,
    ),
    Rule(
        kind="kr_brn", pattern=_digits("3-2-5", "-"), check=checks.kr_brn,
        languages=frozenset({"ko"}), grouped="home", bare="label",
    ),
    Rule(
        kind="jp_my_number", pattern=_digits("4-4-4", " -"), check=checks.jp_my_number,
        languages=frozenset({"ja"}), grouped="home", bare="label",
    ),
    Rule(
        kind="sa_id", pattern=_digits("1-3-3-3", " -"), check=checks.sa_id,
        languages=frozenset({"ar"}), grouped="label", bare="label",
    ),
    Rule(
        kind="ae_id", pattern=_digits("3-4-7-1", " -"), check=checks.ae_id,
        languages=frozenset({"ar"}), grouped="nothing", bare="home", certain=checks.ae_id, deniable=False,
    ),
    Rule(
        kind="in_aadhaar", pattern=_digits("4-4-4", " -"), check=checks.in_aadhaar,
        languages=_INDIAN, grouped="home", bare="label",
    ),
    Rule(
        kind="tr_tckn", pattern=_digits("3-3-3-2", " "), check=checks.tr_tckn,
        languages=frozenset({"tr"}), grouped="home", bare="home",
    ),
    Rule(
        kind="id_nik", pattern=_digits("6-6-4", " .-"), check=checks.id_nik,
        languages=frozenset({"id"}), grouped="home", bare="home",
    ),
    Rule(
        kind="vn_cccd", pattern=_digits("3-3-3-3", " ."), check=checks.vn_cccd,
        languages=frozenset({"vi"}), grouped="label", bare="label",
    ),
    Rule(
        kind="payment_card",
        pattern=re.compile(
            rf"{LEFT}(?:{ALONE_LEFT}[0-9]{{4}}(?P<join>[ -])"
            rf"(?:[0-9]{{4}}(?P=join)[0-9]{{4}}(?P=join)[0-9]{{4}}(?:(?P=join)[0-9]{{3}})?|[0-9]{{6}}(?P=join)[0-9]{{4,5}}){ALONE_RIGHT}|[0-9]{{13,19}}){RIGHT}"
        ),
        check=checks.payment_card,
        languages=frozenset(), grouped="nothing", bare="label", certain=lambda _value: True,
    ),
)  # fmt: skip
"""Looked for inside runs of digits."""

LETTERED_RULES: tuple[Rule, ...] = (
    Rule(
        kind="cn_rid",
        pattern=re.compile(
            rf"{LEFT}[1-8][0-9]{{5}}(?P<join>[ -]?)[12][0-9]{{7}}(?P=join)[0-9]{{3}}[0-9Xx]{RIGHT}"
        ),
        check=checks.cn_rid, languages=frozenset({"zh"}), grouped="nothing", bare="nothing",
        certain=checks.cn_rid, deniable=False,
    ),
    Rule(
        kind="cn_uscc",
        pattern=re.compile(rf"{LEFT}[1-9ANY][1-59][0-9]{{6}}[0-9A-HJ-NPQRTUWXY]{{10}}{RIGHT}"),
        check=checks.cn_uscc, languages=frozenset({"zh"}), grouped="home", bare="home",
    ),
    Rule(
        kind="in_pan", pattern=re.compile(rf"{LEFT}[A-Z]{{5}}[0-9]{{4}}[A-Z]{RIGHT}"),
        check=checks.in_pan, languages=_INDIAN, grouped="home", bare="home",
    ),
)  # fmt: skip
"""Hold letters: looked for near four digits in a row."""

_RIGHT = re.compile(RIGHT)
_SEPARATORS = str.maketrans("", "", " -.")


def _believed(rule: Rule, value: str, grouped: bool, home: bool, context: Context) -> Confidence | None:
    """How sure a value is that passed its check; None when the evidence is too thin."""
    if context.supports(rule.kind):
        return "high"
    if rule.deniable and context.denies():
        return None
    need = rule.grouped if grouped else rule.bare
    certain = rule.certain(value)
    if need == "nothing" or (home and (need == "home" or (need == "home and certain" and certain))):
        return "high" if certain and grouped else "medium"
    return None


def _apply(
    rule: Rule, original: str, folded: str, span: tuple[int, int], languages: frozenset[str]
) -> Iterator[Finding]:
    """Findings of one rule within a span."""
    for match in rule.pattern.finditer(folded, *span):
        value = match.group().translate(_SEPARATORS).upper()
        start, end = match.span()
        # The span may have cut the text short: the boundary counts in the whole.
        if not _RIGHT.match(folded, end) or not rule.check(value):
            continue
        home = not rule.languages.isdisjoint(languages)
        confidence = _believed(rule, value, len(value) < end - start, home, Context(original, start, end))
        if confidence:
            yield Finding(rule.kind, start, end, confidence)


def find_identifiers(
    original: str, folded: str, runs: Iterable[tuple[int, int]], languages: frozenset[str]
) -> Iterator[Finding]:
    """National identifiers and payment cards made of digits.

    Args:
        original: the text, for labels near a value.
        folded: the same text from `fold`.
        runs: start and end of the digit runs of ``folded``.
        languages: primary subtags of the corpus.
    """
    for start, end in runs:
        span = (max(0, start - 2), min(len(folded), end + 2))  # two characters more for the boundaries
        for rule in NUMERIC_RULES:
            yield from _apply(rule, original, folded, span, languages)


def find_lettered(original: str, folded: str, languages: frozenset[str]) -> Iterator[Finding]:
    """National identifiers that hold letters, near four digits in a row; see `find_identifiers`."""
    for span in windows(FOUR_DIGITS, folded, LONGEST_LETTERED):
        for rule in LETTERED_RULES:
            yield from _apply(rule, original, folded, span, languages)
