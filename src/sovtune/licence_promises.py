"""Where the licence or name of a result promises more than its base and data allow; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sovtune.licence_table import Terms
from sovtune.licences import Constraint, licence_keys, parse_expression, terms_of

BASE = "base"
"""What the base model is called where data sets are called by the id of their card."""
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
    """Something that a licence, a right or a card's statement forbids or leaves open.

    ``source`` is ``base`` or the id of a data card, ``word`` names the kind of problem, ``at`` is where it is
    stated: a path into the recipe for the base, into the card for data. ``settled`` is False where the law or a text
    leaves room (share-alike of training data, for instance): a question for a person to weigh, where True is a
    prohibition. What is not ``overridable`` nobody can answer for.
    """

    source: str
    word: str
    constraint: Constraint
    message: str
    fix: str
    at: tuple[str | int, ...]
    settled: bool = True
    overridable: bool = True

    @property
    def id(self) -> str:
        """``SOURCE.WORD``, stable: what an override names."""
        return f"{self.source}.{self.word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One licence of one source, as ``problems`` looks at it."""

    name: str
    key: str
    terms: Terms | None

    @property
    def is_base(self) -> bool:
        return self.name == BASE

    @property
    def label(self) -> str:
        return f"{'the base model' if self.is_base else f'data {self.name}'} ({self.key})"

    def problem(
        self, word: str, constraint: Constraint, message: str, fix: str, *, settled: bool = True
    ) -> LicenceProblem:
        return LicenceProblem(
            source=self.name,
            word=word,
            constraint=constraint,
            message=f"{self.label} {message}",
            fix=fix,
            at=("base", "licence") if self.is_base else ("licence", "expression"),
            settled=settled,
        )


def _commercial(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    if source.terms is None or source.terms.commercial:
        return None
    promised = allows_commerce(result)
    if promised is False:
        return None
    return source.problem(
        "non-commercial",
        "commercial",
        "is for non-commercial use, the result's licence "
        + ("allows commercial use" if promised else "is not known to forbid commercial use"),
        "choose a non-commercial licence such as CC-BY-NC-4.0, or other data or another base",
        settled=promised is not None,
    )


def allows_commerce(result: tuple[str, ...]) -> bool | None:
    """Whether a result under these licences may be used commercially; None when one of them is not known."""
    promised = [terms_of(key) for key in result]
    if any(terms is not None and not terms.commercial for terms in promised):
        return False
    return None if None in promised else True


def _derivatives(source: _Source, _result: tuple[str, ...]) -> LicenceProblem | None:
    if source.terms is None or source.terms.derivatives:
        return None
    return source.problem(
        "no-derivatives",
        "derivatives",
        "allows no derived works, which an adapter from it would be",
        "leave this source out, or ask its owner for permission and name that in its licence",
    )


def _share_alike(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    accepted = source.terms.share_alike if source.terms is not None else ()
    if not accepted or set(result) & set(accepted):
        return None
    unsettled = (
        "" if source.is_base else " (whether weights are a derived work of training data is not settled law)"
    )
    return source.problem(
        "share-alike",
        "share_alike",
        f"asks that derived works keep its licence, the result does not{unsettled}",
        f"the careful choice is card.licence {accepted[0]}",
        settled=source.is_base,
    )


def _carried(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    if source.key in result or (source.terms is not None and not source.terms.carry):
        return None
    fix = f"write card.licence: {source.key}, or add `AND {source.key}`"
    if source.terms is None:
        why = "has terms that nobody reviewed, so nothing can be promised in its place"
        return source.problem(
            "unknown-licence",
            "unreviewed",
            f"{why}, and the result's licence leaves it out",
            fix,
            settled=False,
        )
    message = "goes along with every derived work, and the result's licence leaves it out"
    return source.problem("licence-left-out", "use_restrictions", message, fix, settled=source.is_base)


def _credit(source: _Source, result: tuple[str, ...]) -> LicenceProblem | None:
    promised = [terms_of(key) for key in result]
    free = all(terms is not None and not (terms.attribution or terms.notice) for terms in promised)
    if not free or source.terms is None or not (source.terms.attribution or source.terms.notice):
        return None
    return source.problem(
        "attribution",
        "attribution",
        "asks for credit or notices, the result's licence for none",
        "choose a licence that keeps notices, such as Apache-2.0 or CC-BY-4.0",
        settled=False,
    )


_PROMISES: tuple[Callable[[_Source, tuple[str, ...]], LicenceProblem | None], ...] = (
    _commercial,
    _derivatives,
    _share_alike,
    _carried,
    _credit,
)


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def begins_with(name: str, prefix: str) -> bool:
    """Whether a name begins as a licence asks, hyphens, spaces and case aside."""
    return _plain(name).startswith(_plain(prefix))


def _name(source: _Source, name: str) -> LicenceProblem | None:
    prefix = source.terms.name_prefix if source.terms is not None and source.is_base else None
    if prefix is None or begins_with(name, prefix):
        return None
    return source.problem(
        "name",
        "naming",
        f"asks that the name begins with `{prefix}`; this is `{name}`",
        f"call it `{prefix.replace(' ', '-')}-{name}`",
    )


def _territory(source: _Source, language: str) -> LicenceProblem | None:
    excluded = source.terms.territory_excluded if source.terms is not None else ()
    region = next((part.upper() for part in language.split("-")[1:] if len(part) == 2), None)
    place = _REGIONS.get(region or "")
    spoken = _SPOKEN.get(language.split("-", maxsplit=1)[0])
    hit = next((name for name in (place, None if region else spoken) if name in excluded), None)
    if hit is None:
        return None
    return source.problem(
        "territory",
        "territory",
        f"is not licensed in {hit}; the language is {language}",
        "choose another base; this licence gives no right to use it there",
        settled=place is not None,
    )


def _sources(base_licence: str, data_licences: Mapping[str, str]) -> list[_Source]:
    named = {BASE: base_licence, **data_licences}
    return [
        _Source(name=name, key=key, terms=terms_of(key))
        for name, text in named.items()
        for key in licence_keys(text)
    ]


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
    found: list[LicenceProblem | None] = []
    for source in _sources(base_licence, data_licences):
        found += [check(source, result) for check in _PROMISES]
        found += [_name(source, name), _territory(source, language)]
    return tuple(problem for problem in found if problem is not None)


def proposed_licence(
    base_licence: str, data_licences: Mapping[str, str], *, non_commercial: bool = False
) -> str | None:
    """The least binding licence that keeps every promise base and data ask for; None when none does.

    Args:
        base_licence: SPDX expression of the base model.
        data_licences: data card id -> SPDX expression.
        non_commercial: a right outside the licences (a letter, say) forbids commercial use.

    Raises:
        ValueError: an expression cannot be read.
    """
    sources = _sources(base_licence, data_licences)
    carried = [source.key for source in sources if source.terms is None or source.terms.carry]
    shared = [key for source in sources if source.terms is not None for key in source.terms.share_alike]
    heads: list[tuple[str, ...]] = [
        licence_keys(base_licence),
        ("Apache-2.0",),
        ("CC-BY-4.0",),
        ("CC-BY-NC-4.0",),
    ]
    heads += [(), *((key,) for key in dict.fromkeys(shared))]
    for head in heads:
        keys = tuple(dict.fromkeys((*head, *carried)))
        kept = all(check(source, keys) is None for source in sources for check in _PROMISES)
        if keys and kept and not (non_commercial and allows_commerce(keys) is not False):
            return parse_expression(" AND ".join(keys))
    return None
