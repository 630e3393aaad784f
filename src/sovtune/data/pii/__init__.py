"""Personal data in running text: where it stands, of which kind, and typed placeholders in its stead.

Pure functions of their arguments. A finding says kind and place; the value itself is never kept, logged or
cached. Left out on purpose: names and street addresses (they need a model), numbers already masked,
spelt-out addresses such as "name at host", private and documentation IP ranges, hotlines and toll-free
numbers.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from sovtune.data.pii.addresses import find_emails, find_ibans, find_ips
from sovtune.data.pii.boundaries import NUMBER, url_spans
from sovtune.data.pii.finding import Confidence, Finding
from sovtune.data.pii.fold import fold
from sovtune.data.pii.national import find_identifiers, find_lettered
from sovtune.data.pii.phone import find_phones, regions_of
from sovtune.data.pii.placeholders import HIDDEN, KINDS, placeholder

__all__ = ["KINDS", "Confidence", "Finding", "count", "find_personal_data", "mask", "may_hold", "placeholder"]

# The least any kind shows: an @, five digits with separators between them (a comma makes thousands), four and a
# letter, a dotted number, or the head of an IPv6 address. One set for the first character makes the search fast.
_MAY_HOLD = re.compile(
    r"[@＠\d](?:(?<=[@＠])|(?:[^\w\n,，]{0,3}\d){4}|\d{3}[A-ZＡ-Ｚ]|[.．]\d{1,3}[.．]\d|(?<=[23])[0-9A-Fa-f]{3}:)"
)

_RANK = {"high": 0, "medium": 1, "low": 2}
# The more digits a rule checks, the earlier it stands; a telephone number is the least specific shape.
_SPECIFIC = (
    "iban", "cn_rid", "ae_id", "cn_uscc", "kr_rrn", "kr_frn", "tr_tckn", "in_aadhaar", "jp_my_number",
    "id_nik", "payment_card", "sa_id", "kr_brn", "vn_cccd", "in_pan", "email", "ip", "phone",
)  # fmt: skip
_ORDER = {kind: place for place, kind in enumerate(_SPECIFIC)}


def may_hold(text: str) -> bool:
    """A cheap look: False says that ``find_personal_data`` finds nothing."""
    return _MAY_HOLD.search(text) is not None


def find_personal_data(text: str, languages: Sequence[str]) -> list[Finding]:
    """Finds telephone numbers, e-mail and IP addresses, account, card and national identity numbers.

    All kinds are looked for in every text; ``languages`` say which shapes are at home, so that they are
    believed without a label near them, and which national telephone plans apply. Digits of all scripts and
    full-width forms are read. Inside a web address only e-mail addresses are found: its numbers are ids and
    hosts. Masking what is found and searching again finds nothing.

    Args:
        text: any text, best after NFC normalisation; offsets count its characters (code points).
        languages: BCP-47 tags of the corpus, e.g. ``["ko", "en"]``; a region (``ar-EG``) narrows the plans.

    Returns:
        Findings that do not overlap, in order of place.
    """
    if not may_hold(text):
        return []
    primary, regions = _scope(tuple(languages))
    known = new = _search(text, primary, regions)
    while new:
        # What stands beside a value that is now hidden may become readable: search until nothing is left.
        hidden, breaks, shifts = _hide(text, known)
        new = [
            Finding(item.kind, item.start + shift, item.end + shift, item.confidence)
            for item in _search(hidden, primary, regions)
            for shift in (shifts[bisect_right(breaks, item.start) - 1],)
        ]
        known = sorted([*known, *new], key=lambda item: item.start)
    return known


@lru_cache(maxsize=64)
def _scope(languages: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Primary language subtags, and the telephone regions."""
    return frozenset(tag.split("-", maxsplit=1)[0].lower() for tag in languages), regions_of(languages)


def _hide(text: str, findings: Iterable[Finding]) -> tuple[str, list[int], list[int]]:
    """The text with placeholders, and for each stretch of it where it begins and what to add to get back."""
    parts: list[str] = []
    breaks, shifts = [0], [0]
    done = length = 0
    for item in findings:
        parts += [text[done : item.start], HIDDEN]
        length += item.start - done + len(HIDDEN)
        done = item.end
        breaks.append(length)
        shifts.append(done - length)
    return "".join([*parts, text[done:]]), breaks, shifts


def _search(text: str, primary: frozenset[str], regions: Sequence[str]) -> list[Finding]:
    """One pass over the text: each finder only where its cheap sign is seen, then overlaps resolved."""
    folded = fold(text)
    runs = [match.span() for match in NUMBER.finditer(folded)]
    numbers = [*find_ips(text, folded), *find_ibans(folded), *find_lettered(text, folded, primary)]
    if runs:
        numbers += find_identifiers(text, folded, runs, primary)
        numbers += find_phones(text, folded, runs, regions)
    found = list(find_emails(folded))  # an address in a link is somebody's all the same
    return _resolve([*found, *_outside(url_spans(folded), numbers)]) if found or numbers else []


def _outside(spans: Sequence[tuple[int, int]], findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings that touch none of the spans, which are in order and apart."""
    for item in findings:
        before = bisect_right(spans, item.end - 1, key=lambda span: span[0])
        if before == 0 or spans[before - 1][1] <= item.start:
            yield item


def _resolve(found: Iterable[Finding]) -> list[Finding]:
    """Of findings that overlap, the surest, then the most specific, then the longest."""
    best_first = sorted(
        found, key=lambda item: (_RANK[item.confidence], _ORDER[item.kind], item.start - item.end, item.start)
    )
    kept: list[Finding] = []  # always in order of place, so that two neighbours tell whether there is room
    for item in best_first:
        place = bisect_right(kept, item.start, key=lambda other: other.start)
        free_before = place == 0 or kept[place - 1].end <= item.start
        if free_before and (place == len(kept) or item.end <= kept[place].start):
            kept.insert(place, item)
    return kept


def mask(text: str, findings: Iterable[Finding], language: str) -> str:
    """The text with every finding replaced by its typed placeholder.

    Args:
        text: the text the findings were made on.
        findings: in any order; of findings that overlap the first by place is taken.
        language: BCP-47 tag of the corpus; chooses the words of the placeholders.

    Raises:
        ValueError: a finding lies outside the text, or its kind has no placeholder.
    """
    parts: list[str] = []
    done = 0
    for item in sorted(findings, key=lambda item: (item.start, -item.end)):
        if not 0 <= item.start < item.end <= len(text):
            raise ValueError(f"finding {item} lies outside a text of {len(text)} characters")
        if item.start < done:
            continue
        parts += [text[done : item.start], placeholder(item.kind, language)]
        done = item.end
    return "".join([*parts, text[done:]])


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings of each kind, kinds in alphabetical order."""
    return dict(sorted(Counter(item.kind for item in findings).items()))
