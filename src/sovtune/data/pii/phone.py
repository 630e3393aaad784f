"""Finder of telephone numbers: cheap shapes first, then the numbering plans of the `phonenumbers` library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

from sovtune.data.pii.boundaries import ALONE_LEFT, ALONE_RIGHT, LEFT, RIGHT
from sovtune.data.pii.context import Context
from sovtune.data.pii.finding import Confidence, Finding

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

_REGIONS: dict[str, str] = {
    "ko": "KR", "zh": "CN HK TW", "yue": "HK", "ja": "JP", "tr": "TR", "id": "ID", "ms": "MY SG",
    "vi": "VN", "ar": "SA AE EG QA KW BH OM JO LB IQ SY YE PS LY TN DZ MA SD MR", "fa": "IR AF",
    "ur": "PK IN", "he": "IL", "hi": "IN", "bn": "BD IN", "gu": "IN", "kn": "IN", "ml": "IN", "mr": "IN",
    "or": "IN", "pa": "IN PK", "ta": "IN LK", "te": "IN", "ne": "NP", "si": "LK", "th": "TH", "lo": "LA",
    "km": "KH", "my": "MM", "mn": "MN", "kk": "KZ", "ky": "KG", "uz": "UZ", "az": "AZ", "ka": "GE",
    "hy": "AM", "tl": "PH", "fil": "PH", "sw": "KE TZ", "am": "ET", "en": "US GB", "fr": "FR BE CH",
    "de": "DE AT CH", "es": "ES MX", "pt": "BR PT", "it": "IT", "nl": "NL BE", "pl": "PL", "ru": "RU",
    "uk": "UA", "cs": "CZ", "sk": "SK", "hu": "HU", "ro": "RO", "bg": "BG", "el": "GR", "sv": "SE",
    "da": "DK", "no": "NO", "nb": "NO", "fi": "FI", "et": "EE", "lv": "LV", "lt": "LT", "sr": "RS",
    "hr": "HR", "sl": "SI", "is": "IS", "ga": "IE",
}  # fmt: skip
"""Language -> the numbering plans its texts use; other languages get international numbers only."""

_PART = re.compile(r"[^ ]+")
_HALF = re.compile(r"\(?[^ (]+")
_LONGEST = 20
"""Characters of the longest number without spaces: 15 digits (E.164) and five separators."""
_DATE = re.compile(
    r"\(?(?:19|20)[0-9]{2}[-.](?:0?[1-9]|1[0-2])[-.](?:0?[1-9]|[12][0-9]|3[01])\)?$"
    r"|\(?(?:0?[1-9]|[12][0-9]|3[01])[-.](?:0?[1-9]|[12][0-9]|3[01])[-.](?:19|20)[0-9]{2}\)?$"
)
_BARE_DATE = re.compile(
    r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{2}|[0-9]{4}|[0-9]{6})?$"
)
_YEARS = re.compile(r"\(?(?:1[5-9]|20)[0-9]{2}\)? ?[-. ] ?\(?(?:1[5-9]|20)[0-9]{2}\)?$")
_US_POSTCODE = re.compile(r"[0-9]{5}-[0-9]{4}$")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+$")
_FILLER = re.compile(r"0?(?:123456789|987654321)0?$|([0-9])\1+$")
_LEFT = re.compile(LEFT)
_RIGHT = re.compile(RIGHT)
_ALONE_LEFT = re.compile(ALONE_LEFT)
_ALONE_RIGHT = re.compile(ALONE_RIGHT)
_MOST_PARTS = 6
"""A phone number is written in no more parts than this: +33 1 23 45 67 89 has six."""
_CHINESE_MOBILE = re.compile(r"1[3-9][0-9]{9}$")


def regions_of(languages: Sequence[str]) -> tuple[str, ...]:
    """ISO 3166 regions whose national numbers are read, in order; a region in the tag (ar-EG) comes alone."""
    regions: list[str] = []
    for tag in languages:
        primary, *rest = tag.split("-")
        named = [part.upper() for part in rest if len(part) == 2 and part.isalpha()]
        regions += named[:1] or _REGIONS.get(primary.lower(), "").split()
    return tuple(dict.fromkeys(regions))


@cache
def _personal_types() -> frozenset[int]:
    """Types that reach a person or an office; hotlines, toll-free, premium and short numbers name nobody."""
    from phonenumbers import PhoneNumberType as Type

    kept = (
        Type.MOBILE,
        Type.FIXED_LINE,
        Type.FIXED_LINE_OR_MOBILE,
        Type.VOIP,
        Type.PERSONAL_NUMBER,
        Type.PAGER,
    )
    return frozenset(kept)


@cache
def _plan(region: str) -> re.Pattern[str] | None:
    """Everything a region's plan can match, prefix included; None where prefixes are rewritten (e.g. Mexico).

    A parse costs 20 microseconds, and Arabic has 19 regions: this is the cheap look before it.
    """
    from phonenumbers import PhoneMetadata

    plan = PhoneMetadata.metadata_for_region(region)
    if plan is None or plan.general_desc is None or plan.national_prefix_transform_rule:
        return None
    prefix = plan.national_prefix_for_parsing or plan.national_prefix or ""
    return re.compile(rf"(?:{prefix})?(?:{plan.general_desc.national_number_pattern})$")


def _national(digits: str, regions: Sequence[str]) -> Iterator[tuple[str, PhoneNumber]]:
    """The regions in which the digits are a valid number."""
    for region in regions:
        plan = _plan(region)
        if plan is None or plan.match(digits):
            number = _parse(digits, region)
            if number is not None:
                yield region, number


def _parse(number: str, region: str | None) -> PhoneNumber | None:
    """The number when it is valid in its numbering plan and of a personal type."""
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed) or phonenumbers.number_type(parsed) not in _personal_types():
        return None
    return parsed


def _library_groups(number: PhoneNumber) -> list[str]:
    import phonenumbers

    return re.findall(r"[0-9]+", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL))


def _region_of(number: PhoneNumber) -> str | None:
    import phonenumbers

    return phonenumbers.region_code_for_number(number)


def _is_mobile(number: PhoneNumber) -> bool:
    import phonenumbers

    return phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE


class _Candidate:
    """One stretch of a digit run that may be a telephone number; context is read only when a rule asks."""

    def __init__(self, original: str, folded: str, start: int, end: int):
        self._original = original
        self.start, self.end = start, end
        self.written = folded[start:end]
        self.groups = re.findall(r"[0-9]+", self.written)
        self.digits = "".join(self.groups)
        self.alone = bool(_ALONE_LEFT.match(folded, start) and _ALONE_RIGHT.match(folded, end))

    @cached_property
    def _context(self) -> Context:
        return Context(self._original, self.start, self.end)

    @cached_property
    def labelled(self) -> bool:
        """A word for telephone stands near."""
        return self._context.supports("phone")

    @cached_property
    def denied(self) -> bool:
        """The nearest label says that it is something else."""
        return not self.labelled and self._context.denies()

    @property
    def quoted(self) -> bool:
        """Between back-quotes: code, such as an abbreviated commit hash without letters."""
        return self._original[self.start - 1 : self.start] == "`"

    def finding(self, confidence: Confidence) -> Finding:
        """The finding at this place; a label makes it sure."""
        return Finding("phone", self.start, self.end, "high" if self.labelled else confidence)


def _international(candidate: _Candidate) -> Finding | None:
    """Written with + or, where a label stands near, with 00 and the country code."""
    if candidate.written.lstrip("(").startswith("+"):
        number = candidate.written
    elif candidate.labelled and candidate.digits[2] != "0":
        number = "+" + candidate.digits[2:]
    else:
        return None
    return candidate.finding("high") if _parse(number, None) else None


def _with_trunk_zero(candidate: _Candidate, regions: Sequence[str]) -> Finding | None:
    """A national number that begins with the trunk prefix 0: 010-1234-5678, 050 123 4567."""
    groups = candidate.groups
    # Eight digits after a zero are file names and article numbers before they are a number of a small
    # country.
    doubtful = len(candidate.digits) < 9 or (len(groups) == 1 and candidate.quoted)
    if doubtful and not (candidate.labelled and candidate.alone):
        return None
    if not candidate.alone and max(map(len, groups)) <= 2:
        return None  # a stretch of 00 01 02 03 ...
    for _, number in _national(candidate.digits, regions):
        if len(groups) == 1:
            usual = _is_mobile(number)
        else:
            # 010-1234-5678 and 010-12345678 are usual everywhere; other groupings as the plan has them.
            usual = (len(groups[-1]) in (4, 7, 8) and len(groups) <= 4) or groups == _library_groups(number)
        if (usual and not candidate.denied) or candidate.labelled:
            return candidate.finding("medium")
    return None


def _without_trunk(candidate: _Candidate, regions: Sequence[str]) -> Finding | None:
    """A number without prefix: needs a label or its plan's exact grouping, unless Chinese mobile."""
    digits, groups, written = candidate.digits, candidate.groups, candidate.written
    if not candidate.alone or _BARE_DATE.match(digits):
        return None
    chinese = "CN" in regions and _CHINESE_MOBILE.match(digits) is not None
    if not chinese and (len(groups) == 1 or len(digits) < 9) and not candidate.labelled:
        return None
    for region, number in _national(digits, regions):
        usual = (region == "CN" and chinese) or (
            len(digits) >= 9 and _grouped_as_planned(groups, number, written)
        )
        if (usual and not candidate.denied) or candidate.labelled:
            return candidate.finding("medium")
    if candidate.labelled:  # the country code without its + : 966501234567
        abroad = _parse("+" + digits, None)
        if abroad is not None and _region_of(abroad) in regions:
            return candidate.finding("high")
    return None


def _grouped_as_planned(groups: Sequence[str], number: PhoneNumber, written: str) -> bool:
    """Whether the groups are those of the plan without its trunk prefix, and no range such as 60000-64999."""
    if len(groups) == 1:
        return False
    first, second = groups[0], groups[1]
    rising = len(groups) == 2 and len(first) == len(second) and first < second
    library = _library_groups(number)
    return list(groups) == [library[0].removeprefix("0"), *library[1:]] and not ("-" in written and rising)


def _is_table(candidate: _Candidate) -> bool:
    """Coordinates, code points and the like: dots mixed with other separators, all groups begin with 0."""
    written, groups = candidate.written, candidate.groups
    mixed = "." in written and ("-" in written or " " in written)
    zeros = len(groups) > 1 and all(group[0] == "0" for group in groups)
    return mixed or zeros or _US_POSTCODE.match(written) is not None


def _check(candidate: _Candidate, regions: Sequence[str]) -> Finding | None:
    digits, written = candidate.digits, candidate.written
    if _FILLER.match(digits) or _DECIMAL.match(written) or _DATE.match(written):
        return None
    if _YEARS.match(written) or "  " in written:
        return None
    if written.count("(") != written.count(")") and not re.match(r"0[0-9]{1,3}\)", written):
        return None
    if _is_table(candidate) and not candidate.labelled:
        return None
    if "+" in written or digits.startswith("00"):
        return _international(candidate)
    if digits[0] == "0":
        return _with_trunk_zero(candidate, regions)
    return _without_trunk(candidate, regions)


def _stretches(folded: str, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """For each part of a run, the stretches from it on that hold 7 to 15 digits, the longest first."""
    parts: list[tuple[int, int]] = []
    for match in _PART.finditer(folded, start, end):
        # Too long for one number: 02-555-1234(010-1234-5678) is two.
        whole = len(match.group()) <= _LONGEST
        parts += [match.span()] if whole else [part.span() for part in _HALF.finditer(folded, *match.span())]
    sizes = [sum(map(str.isdigit, folded[low:high])) for low, high in parts]
    for first, (low, _) in enumerate(parts):
        size, stretches = 0, []
        for last in range(first, min(first + _MOST_PARTS, len(parts))):
            size += sizes[last]
            if size > 15:
                break
            if size >= 7:
                stretches.append((low, parts[last][1]))
        yield stretches[::-1]


def _inside_bracket(folded: str, start: int, end: int) -> int:
    """Where a number begins when the bracket before it closes only after it: Hong (010-1234-5678)."""
    while folded[start] == "(" and folded.count("(", start, end) > folded.count(")", start, end):
        start += 1
    return start


def find_phones(
    original: str, folded: str, runs: Iterable[tuple[int, int]], regions: Sequence[str]
) -> Iterator[Finding]:
    """Telephone numbers inside runs of digits.

    Within a run, numbers begin and end at spaces; the longest stretch that is a valid number wins.

    Args:
        original: the text, for labels near a number.
        folded: the same text from `fold`.
        runs: start and end of the digit runs of ``folded``.
        regions: numbering plans of `regions_of`; numbers with + are read whatever the region.
    """
    for run_start, run_end in runs:
        done = run_start
        for stretches in _stretches(folded, run_start, run_end):
            for opening, end in stretches:
                start = _inside_bracket(folded, opening, end)
                if start < done or not _LEFT.match(folded, start) or not _RIGHT.match(folded, end):
                    continue
                found = _check(_Candidate(original, folded, start, end), regions)
                if found:
                    yield found
                    done = end
                    break
