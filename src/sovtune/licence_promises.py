"""Where the licence or name of a result promises more than its base and data allow; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sovtune.licence_table import Terms
from sovtune.licences import Constraint, licence_keys, terms_of

_EU = "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE"
_REGIONS = {
    "KR": "South Korea",
    "GB": "United Kingdom",
    "UK": "United Kingdom",
    **dict.fromkeys(_EU.split(), "European Union"),
}
_SPOKEN = {"ko": "South Korea"}
"""Languages without a region in their tag that nearly always mean one place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceProblem:
    """The result's licence promises more than its sources allow.

    ``settled`` is False where the law or a text leaves room (share-alike of training data, for instance): a
    warning for a person to weigh, where True is a reason to refuse.
    """

    constraint: Constraint
    message: str
    fix: str
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One licence of one source, as ``problems`` looks at it."""

    label: str
    key: str
    terms: Terms | None
    is_base: bool


def _commercial(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    if source.terms is None or source.terms.commercial:
        return None
    promised = [terms_of(key) for key in result]
    if any(terms is not None and not terms.commercial for terms in promised):
        return None
    unknown = None in promised
    return LicenceProblem(
        constraint="commercial",
        message=f"{source.label} ({source.key}) is for non-commercial use, the result's licence "
        + ("is not known to forbid commercial use" if unknown else "allows commercial use"),
        fix="choose a non-commercial licence such as CC-BY-NC-4.0, or other data or another base",
        settled=not unknown,
    )


def _derivatives(source: _Source, _result: tuple[str, ...]) -> LicenceProblem | None:
    if source.terms is None or source.terms.derivatives:
        return None
    return LicenceProblem(
        constraint="derivatives",
        message=f"{source.label} ({source.key}) allows no derived works, which an adapter from it would be",
        fix="leave this source out, or ask its owner for permission and name that in its licence",
    )


def _share_alike(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    accepted = source.terms.share_alike if source.terms is not None else ()
    if not accepted or set(result) & set(accepted):
        return None
    return LicenceProblem(
        constraint="share_alike",
        message=f"{source.label} ({source.key}) asks that derived works keep its licence, the result does not"
        + (
            ""
            if source.is_base
            else " (whether weights are a derived work of training data is not settled law)"
        ),
        fix=f"the careful choice is card.licence {accepted[0]}",
        settled=source.is_base,
    )


def _carried(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    if source.key in result or (source.terms is not None and not source.terms.carry):
        return None
    if source.terms is None:
        why = "has terms that nobody reviewed, so nothing can be promised in its place"
    else:
        why = "goes along with every derived model"
    return LicenceProblem(
        constraint="unreviewed" if source.terms is None else "use_restrictions",
        message=f"{source.label}: {source.key} {why}, and the result's licence leaves it out",
        fix=f"write card.licence: {source.key}, or add `AND {source.key}`",
        settled=source.is_base,
    )


def _credit(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    promised = [terms_of(key) for key in result]
    free = all(terms is not None and not (terms.attribution or terms.notice) for terms in promised)
    if not free or source.terms is None or not (source.terms.attribution or source.terms.notice):
        return None
    return LicenceProblem(
        constraint="attribution",
        message=f"{source.label} ({source.key}) asks for credit or notices, the result's licence for none",
        fix="choose a licence that keeps notices, such as Apache-2.0 or CC-BY-4.0",
        settled=False,
    )


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def _name(source: _Source, name: str) -> LicenceProblem | None:
    prefix = source.terms.name_prefix if source.terms is not None and source.is_base else None
    if prefix is None or _plain(name).startswith(_plain(prefix)):
        return None
    return LicenceProblem(
        constraint="naming",
        message=f"{source.label} ({source.key}) asks that the name begins with `{prefix}`; this is `{name}`",
        fix=f"call it `{prefix.replace(' ', '-')}-{name}`",
    )


def _territory(source: _Source, language: str) -> LicenceProblem | None:
    excluded = source.terms.territory_excluded if source.terms is not None else ()
    region = next((part.upper() for part in language.split("-")[1:] if len(part) == 2), None)
    place = _REGIONS.get(region or "")
    spoken = _SPOKEN.get(language.split("-", maxsplit=1)[0])
    hit = next((name for name in (place, None if region else spoken) if name in excluded), None)
    if hit is None:
        return None
    return LicenceProblem(
        constraint="territory",
        message=f"{source.label} ({source.key}) is not licensed in {hit}; the language is {language}",
        fix="choose another base; this licence gives no right to use it there",
        settled=place is not None,
    )


def problems(
    result_licence: str, *, base_licence: str, data_licences: Mapping[str, str], name: str, language: str
) -> tuple[LicenceProblem, ...]:
    """Where the result's licence or name promises more than base and data allow.

    Args:
        result_licence: SPDX expression of the adapter (``card.licence``).
        base_licence: SPDX expression of the base model.
        data_licences: data card id -> SPDX expression.
        name: name the adapter is passed on under.
        language: BCP-47 tag of the target language; its region is where the adapter will be used.

    Raises:
        ValueError: an expression cannot be read.
    """
    result = licence_keys(result_licence)
    sources = [
        _Source(label="the base model", key=key, terms=terms_of(key), is_base=True)
        for key in licence_keys(base_licence)
    ]
    for card, text in data_licences.items():
        sources += [
            _Source(label=f"data {card}", key=key, terms=terms_of(key), is_base=False)
            for key in licence_keys(text)
        ]
    found: list[LicenceProblem | None] = []
    for source in sources:
        found += [
            check(source, result) for check in (_commercial, _derivatives, _share_alike, _carried, _credit)
        ]
        found += [_name(source, name), _territory(source, language)]
    return tuple(problem for problem in found if problem is not None)
