"""Licences as sets of constraints: read SPDX expressions and unite what base and data ask of the result.

Pure functions over ``licence_table``. This is documentation help, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from sovtune.licence_table import HUB_LICENCES, TERMS, Terms

if TYPE_CHECKING:
    from license_expression import LicenseExpression, Licensing

Constraint = Literal[
    "commercial",
    "derivatives",
    "share_alike",
    "attribution",
    "use_restrictions",
    "naming",
    "notice",
    "territory",
    "unreviewed",
    "training",
    "audience",
]

_LICENSE_REF = re.compile(r"\bLicenseRef-[A-Za-z0-9.-]+", re.IGNORECASE)
_CREATIVE_COMMONS = re.compile(
    r"^CC-BY(?P<nc>-NC)?(?P<rest>-SA|-ND)?-(?P<version>\d\.\d)(?P<port>-[A-Z]{2,3})?$"
)
_CC_VERSIONS = ("1.0", "2.0", "2.5", "3.0", "4.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """One thing that whoever uses or passes on the result must do, and which sources ask for it."""

    constraint: Constraint
    text: str
    because: tuple[str, ...]

    def __str__(self) -> str:
        """``text (because of source: licence; ...)``."""
        return f"{self.text} (because of {'; '.join(self.because)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligations:
    """The union of what base and data ask for, in a fixed order."""

    items: tuple[Obligation, ...]

    def of(self, constraint: Constraint) -> tuple[Obligation, ...]:
        """The obligations of one kind."""
        return tuple(item for item in self.items if item.constraint == constraint)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLicence:
    """The header's licence: an id of the Hub's list, or ``other`` with name and link."""

    id: str
    name: str | None = None
    link: str | None = None


@lru_cache(maxsize=16)
def _licensing(own: tuple[str, ...] = ()) -> Licensing:
    """The SPDX symbols, those of our table, and the LicenseRef names that only one text uses."""
    from license_expression import LicenseSymbol, Licensing, get_spdx_licensing

    known = dict(get_spdx_licensing().known_symbols)
    for key, terms in TERMS.items():
        aliases = tuple(known[key].aliases) if key in known else ()
        known[key] = LicenseSymbol(key, aliases=(*aliases, *terms.names))
    return Licensing([*known.values(), *(LicenseSymbol(name) for name in own)])


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    """Every spelling that is known, lower-cased, with its canonical key."""
    found: dict[str, str] = {}
    for key, symbol in _licensing().known_symbols.items():
        found[key.lower()] = key
        found.update({alias.lower(): key for alias in symbol.aliases})
    return found


def _nearest(word: str) -> str:
    """`` (did you mean ...?)`` or nothing; scancode's own names are noise here."""
    spellings = {low: key for low, key in _spellings().items() if "scancode" not in low}
    names = dict.fromkeys(
        spellings[hit] for hit in get_close_matches(word.lower(), spellings, n=3, cutoff=0.6)
    )
    return f" (did you mean {' or '.join(f'`{name}`' for name in names)}?)" if names else ""


@lru_cache(maxsize=1)
def _reviewed() -> dict[str, str]:
    """Keys and short names of our own table, lower-cased, with the key: no need of all SPDX symbols (0.1 s)."""
    return {name.lower(): key for key, terms in TERMS.items() for name in (*terms.names, key)}


def reviewed_key(text: str) -> str | None:
    """The canonical key when a text is one name of a licence in our own table, else None."""
    return _reviewed().get(text.strip().lower())


def _parse(text: str) -> LicenseExpression:
    """The expression's tree.

    Raises:
        ValueError: see ``parse_expression``.
    """
    from license_expression import ExpressionError

    if not text.strip():
        raise ValueError("the licence expression is empty")
    known = _spellings()
    own = {name.lower(): name for name in _LICENSE_REF.findall(text) if name.lower() not in known}
    licensing = _licensing(tuple(sorted(own.values())))
    try:
        tree = licensing.parse(text, strict=True)
    except ExpressionError as error:
        raise ValueError(f"`{text}` is not an SPDX licence expression: {error}") from error
    unknown = licensing.unknown_license_keys(tree)
    if unknown:
        told = "; ".join(f"unknown licence `{key}`{_nearest(key)}" for key in unknown)
        raise ValueError(f"{told}; a licence of its own is written LicenseRef-NAME")
    return tree


def parse_expression(text: str) -> str:
    """Check an SPDX licence expression and give it its usual spelling.

    Any ``LicenseRef-NAME`` is allowed; KOGL types and model licences are also known by their short names.

    Args:
        text: for example ``cc-by-4.0 AND mit``, ``KOGL-1``, ``LicenseRef-Acme``.

    Returns:
        The expression with canonical keys, ``CC-BY-4.0 AND MIT``.

    Raises:
        ValueError: no expression, or a licence that is not known; the message has the nearest names.
    """
    return reviewed_key(text) or str(_parse(text))


def terms_of(key: str) -> Terms | None:
    """What one canonical key asks for; None when nobody has reviewed that licence."""
    found = TERMS.get(key)
    match = _CREATIVE_COMMONS.match(key)
    if found is not None or match is None:
        return found
    elements = f"BY{match['nc'] or ''}{match['rest'] or ''}"
    later = _CC_VERSIONS[_CC_VERSIONS.index(match["version"]) :] if match["version"] in _CC_VERSIONS else ()
    same = (key, *(f"CC-{elements}-{version}" for version in later))
    hub = key.lower()
    return Terms(
        title=f"Creative Commons {elements} {match['version']}{match['port'] or ''}",
        hub=hub if hub in HUB_LICENCES else None,
        commercial=match["nc"] is None,
        derivatives=match["rest"] != "-ND",
        share_alike=tuple(dict.fromkeys(same)) if match["rest"] == "-SA" else (),
        attribution=True,
        notice="name the licence with its link and say what was changed",
    )


def _weight(keys: Iterable[str]) -> tuple[bool, ...]:
    """How much a choice of licences binds, the heaviest kind first."""
    terms = [terms_of(key) for key in keys]
    known = [term for term in terms if term is not None]
    return (
        None in terms,
        any(not term.derivatives for term in known),
        any(not term.commercial for term in known),
        any(term.share_alike or term.carry for term in known),
        any(term.notice for term in known),
    )


def licence_keys(text: str) -> tuple[str, ...]:
    """The licences that bind: all parts of an AND, of an OR the alternative that binds least.

    An exception (``WITH``) only relaxes its licence; the licence itself is what counts here.

    Raises:
        ValueError: see ``parse_expression``.
    """

    def choose(node: LicenseExpression) -> tuple[str, ...]:
        if hasattr(node, "license_symbol"):
            return (str(node.license_symbol.key),)
        if hasattr(node, "key"):
            return (str(node.key),)
        parts = [choose(part) for part in node.args]
        if node.operator.strip() == "OR":
            return min(parts, key=_weight)
        return tuple(dict.fromkeys(key for part in parts for key in part))

    single = reviewed_key(text)
    return (single,) if single else choose(_parse(text))


def _asked(key: str) -> list[tuple[Constraint, str]]:
    """Each duty of one licence as a sentence."""
    terms = terms_of(key)
    if terms is None:
        return [("unreviewed", f"read {key}: its terms are not known to sovtune")]
    duties: list[tuple[Constraint, str | None]] = [
        ("commercial", None if terms.commercial else "non-commercial use only"),
        ("commercial", terms.commercial_limit),
        ("derivatives", None if terms.derivatives else "no derived works may be passed on"),
        (
            "share_alike",
            f"derived works are shared under {' or '.join(terms.share_alike)}" if terms.share_alike else None,
        ),
        ("attribution", "credit the source" if terms.attribution else None),
        ("use_restrictions", terms.use_restrictions),
        (
            "naming",
            f"the name of a derived model begins with `{terms.name_prefix}`" if terms.name_prefix else None,
        ),
        ("naming", f"show the words `{terms.display}`" if terms.display else None),
        ("notice", terms.notice),
        (
            "territory",
            f"not licensed in: {', '.join(terms.territory_excluded)}" if terms.territory_excluded else None,
        ),
    ]
    return [(kind, sentence) for kind, sentence in duties if sentence is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardAsks:
    """What a data card asks of the result beside its licence: the right's limits and the line that names the source.

    ``outputs_of`` is the licence of a model that wrote the data, when its duties go along with what it wrote.
    """

    attribution: str | None = None
    territory: tuple[str, ...] = ()
    commercial: bool = True
    outputs_of: tuple[str, ...] = ()

    def duties(self) -> list[tuple[Constraint, str, str]]:
        """Kind, sentence, and where in the card it comes from."""
        found: list[tuple[Constraint, str, str]] = []
        if not self.commercial:
            found.append(("commercial", "non-commercial use only", "rights.commercial"))
        if self.attribution is not None:
            found.append(("attribution", f"name the source: {self.attribution}", "rights.attribution"))
        if self.territory:
            text = f"use only in: {', '.join(self.territory)}"
            found.append(("territory", text, "rights.territory"))
        for key in self.outputs_of:
            bound = ("commercial", "use_restrictions", "naming")
            found += [
                (kind, text, f"written by a model under {key}") for kind, text in _asked(key) if kind in bound
            ]
        return found


def obligations(
    base_licence: str,
    data_licences: Mapping[str, str],
    asked: Mapping[str, CardAsks] | None = None,
    teacher: CardAsks | None = None,
) -> Obligations:
    """The union of what base and data ask of the result.

    Args:
        base_licence: SPDX expression of the base model.
        data_licences: data card id -> SPDX expression.
        asked: data card id -> what it asks beside its licence.
        teacher: what a model asks whose probabilities were learnt from.

    Raises:
        ValueError: an expression cannot be read.
    """
    found: dict[tuple[Constraint, str], list[str]] = {}
    sources = {"base model": base_licence, **{f"data {card}": text for card, text in data_licences.items()}}
    for source, text in sources.items():
        for key in licence_keys(text):
            for duty in _asked(key):
                found.setdefault(duty, []).append(f"{source}: {key}")
    asking = {f"data {card}": asks for card, asks in (asked or {}).items()}
    if teacher is not None:
        asking["teacher"] = teacher
    for source, asks in asking.items():
        for kind, text, place in asks.duties():
            found.setdefault((kind, text), []).append(f"{source}: {place}")
    order = get_args(Constraint)
    items = [
        Obligation(constraint=kind, text=text, because=tuple(who)) for (kind, text), who in found.items()
    ]
    return Obligations(items=tuple(sorted(items, key=lambda item: order.index(item.constraint))))


def licence_link(key: str) -> str | None:
    """Where one licence's text is; None for a LicenseRef that is not in the table or has no public page."""
    terms = terms_of(key)
    if terms is not None and terms.link is not None:
        return terms.link
    return None if key.startswith("LicenseRef-") else f"https://spdx.org/licenses/{key}.html"


def hub_licence(expression: str, *, link: str | None = None) -> HubLicence:
    """The licence as a Hub header writes it: an id of the Hub's list, or ``other`` with name and link.

    Args:
        expression: SPDX expression of the adapter.
        link: where the text is, when the recipe says so; otherwise the licence's public page.

    Raises:
        ValueError: the expression cannot be read, or no link is known for a licence outside the Hub's list.
    """
    text = parse_expression(expression)
    keys = licence_keys(text)
    terms = terms_of(text)
    if terms is not None and terms.hub is not None:
        return HubLicence(id=terms.hub)
    found = link or next((place for key in keys if (place := licence_link(key)) is not None), None)
    if found is None:
        raise ValueError(f"{text} is not on the Hub's list of licences, and there is no link to its text")
    name = re.sub(r"[^a-z0-9.]+", "-", text.removeprefix("LicenseRef-").lower()).strip("-")
    return HubLicence(id="other", name=name, link=found)
