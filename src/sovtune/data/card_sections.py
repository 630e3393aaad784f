"""Sections of a data card that tell where data is from: licence, rights, sources, personal data, quality."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from sovtune.licence_table import PERMISSION
from sovtune.licences import licence_keys, licence_link, parse_expression
from sovtune.section import Conflict, LanguageTag, LocalPath, Section, Sha256, Share, Text, Url, form

T = TypeVar("T")


def _yes_no(value: object) -> object:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _yes(value: object) -> object:
    return "yes" if value is True else value


def _day(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("expected a day, written YYYY-MM-DD")  # noqa: TRY004 - pydantic wants a ValueError
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"expected a day, written YYYY-MM-DD, found {value[:40]!r}") from None


def _some(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("needs at least one entry")
    return value


def _first_and_last(value: tuple[T, ...]) -> tuple[T, ...]:
    if len(value) != 2:
        raise ValueError("expected two days, the first and the last, in [ ]")
    return value


# Not Field(min_length=1): pydantic leaves wrong entries out before it counts, and calls the list short.
NotEmpty = Annotated[tuple[T, ...], AfterValidator(_some), Field(json_schema_extra={"minItems": 1})]
Answer = Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_yes_no)]
"""yes, no or unknown; true and false are accepted too, since YAML 1.1 tools write them for yes and no."""
Day = Annotated[dt.date, BeforeValidator(_day), Field(json_schema_extra=form("a day, written YYYY-MM-DD"))]
Count = Annotated[int, Field(ge=0)]


class Language(Section):
    """A language of the data and how much of it."""

    tag: LanguageTag
    """BCP-47 tag."""
    share: Share
    """Share of the characters; all shares add up to 1."""


class Licence(Section):
    """The licence the data came under, and where that can be seen."""

    expression: Annotated[Text, AfterValidator(parse_expression)]
    """SPDX expression; KOGL-1 to KOGL-4 and LicenseRef-NAME are known too."""
    evidence: LocalPath | None = None
    """Copy of the licence text, letter or page, relative to the card."""
    sha256: Sha256 | None = None
    """SHA-256 of the evidence."""
    link: Url | None = None
    """Where the licence was found."""
    verified_by: Text | None = None
    """Who read it: a team or role."""
    verified_on: Day | None = None
    """When."""

    def _hash_has_a_file(self) -> Conflict | None:
        if self.sha256 is not None and self.evidence is None:
            return Conflict("this is the hash of `evidence`, and there is none", ("sha256",))
        return None

    def _own_licence_can_be_read(self) -> Conflict | None:
        if self.evidence is not None or self.link is not None:
            return None
        for key in licence_keys(self.expression):
            if licence_link(key) is None and key != PERMISSION:
                message = f"nobody can look up {key}: name its text under `evidence` or `link`"
                return Conflict(message, ("expression",))
        return None

    rules = (_hash_has_a_file, _own_licence_can_be_read)


class Rights(Section):
    """What may be done with the data."""

    basis: Literal[
        "licence", "permission", "own-work", "public-domain", "tdm-exception", "government-work"
    ] = "licence"
    """On what the right to train rests."""
    training: Answer
    """May models be trained on it? Only yes lets sovtune train."""
    redistribution: Answer = "unknown"
    """May the data itself be passed on?"""
    commercial: Answer = "unknown"
    """May the result be used commercially?"""
    attribution: Text | None = None
    """The line that must name the source."""
    territory: tuple[Text, ...] = ()
    """Countries the right is limited to, as ISO 3166 codes; empty: no limit."""
    expires: Day | None = None
    """Last day of the right; afterwards sovtune does not train on it."""
    agreement: Text | None = None
    """Path (relative to the card) or number of the contract; for basis permission the file of the letter."""
    agreement_sha256: Sha256 | None = None
    """SHA-256 of that file."""

    def _permission_is_written(self) -> Conflict | None:
        if self.basis == "permission" and self.agreement is None:
            return Conflict("a permission needs `agreement`: the file of the letter", ("basis",))
        if self.agreement_sha256 is not None and self.agreement is None:
            return Conflict("this is the hash of `agreement`, and there is none", ("agreement_sha256",))
        return None

    rules = (_permission_is_written,)


class Generator(Section):
    """The model that wrote synthetic data."""

    model: Text
    """Name or Hub id of the model."""
    revision: Text | None = None
    """Its version."""
    terms: Text
    """What its terms say about training on its output: a sentence, or the licence of a model such as llama3.1."""
    training: Answer | None = None
    """Do its terms allow training other models on its output? Without it the sentence under `terms` must say so."""


class Source(Section):
    """Where (a part of) the data came from."""

    kind: Literal["public-dataset", "licensed", "crawl", "user", "synthetic", "government", "own"]
    """What kind of source it is; own is written for this data set, user comes from the users of a service."""
    name: Text
    """What a person would look for."""
    url: Url | None = None
    """Where it is."""
    collected: Annotated[tuple[Day, ...], AfterValidator(_first_and_last)] | None = None
    """First and last day of collection."""
    crawler: Text | None = None
    """For crawl: program and version."""
    robots_respected: Annotated[Literal["yes", "no"], BeforeValidator(_yes_no)] | None = None
    """For crawl: were robots.txt and opt-outs kept?"""
    domains_top: LocalPath | None = None
    """For crawl: file with the most frequent domains, relative to the card."""
    generator: Generator | None = None
    """For synthetic: the model that wrote it; required there."""

    def _period_runs_forward(self) -> Conflict | None:
        if self.collected is not None and self.collected[0] > self.collected[-1]:
            return Conflict("the first day is after the last", ("collected",))
        return None

    def _fields_fit_the_kind(self) -> Conflict | None:
        if self.kind == "synthetic" and self.generator is None:
            return Conflict("synthetic data needs `generator`: model and terms", ("kind",))
        if self.kind != "synthetic" and self.generator is not None:
            return Conflict(f"`generator` is for kind synthetic, this is {self.kind}", ("generator",))
        for name in ("crawler", "robots_respected", "domains_top"):
            if self.kind != "crawl" and getattr(self, name) is not None:
                return Conflict(f"`{name}` is for kind crawl, this is {self.kind}", (name,))
        return None

    rules = (_period_runs_forward, _fields_fit_the_kind)


class Scan(Section):
    """A search for personal data."""

    tool: Text
    """Program."""
    version: Text | None = None
    """Its version."""
    date: Day
    """When."""
    findings: Count
    """Hits that were left."""


class PersonalData(Section):
    """Personal data in the files."""

    contains: Annotated[Literal["none", "possible", "yes", "special-category"], BeforeValidator(_yes)]
    """Is there any in the data; special-category is health, belief, origin and the like (GDPR art. 9)."""
    lawful_basis: Text | None = None
    """Why it may be processed; required for yes and special-category."""
    scan: Scan | None = None
    """The last search."""
    action: Literal["none", "masked", "removed", "pseudonymised"] = "none"
    """What was done about it."""
    residual_risk: Text | None = None
    """What may be left, in a sentence."""

    def _processing_has_a_basis(self) -> Conflict | None:
        if self.contains in ("yes", "special-category") and self.lawful_basis is None:
            return Conflict(f"with {self.contains}, `lawful_basis` must say why", ("contains",))
        return None

    def _none_means_none(self) -> Conflict | None:
        if self.contains == "none" and self.scan is not None and self.scan.findings:
            message = f"none, but the scan left {self.scan.findings} findings: write possible or yes"
            return Conflict(message, ("contains",))
        return None

    rules = (_processing_has_a_basis, _none_means_none)


class Residency(Section):
    """Where the data may be."""

    allowed_regions: tuple[Text, ...] = ()
    """Countries or regions; empty: no limit."""
    export: bool = False
    """May it leave them?"""


class Annotation(Section):
    """How the texts, labels or answers were made."""

    by: Text
    """Who made it, for example staff, volunteers, native-speaking editors, a model."""
    guideline: Text | None = None
    """What they were told, or where it stands."""
    pay: Text | None = None
    """How they were paid."""
    agreement: Text | None = None
    """How often two of them agreed, and how that was measured."""


class Dedup(Section):
    """Removal of duplicates before the files were made."""

    method: Text
    """exact, MinHash over 5-grams, ..."""
    removed: Count
    """Rows removed."""


class EvalOverlap(Section):
    """Search for evaluation data in this data."""

    against: NotEmpty[Text]
    """Evaluation sets."""
    method: Text
    """How a hit is found."""
    hits: Count
    """Rows that are left with a hit."""


class Quality(Section):
    """What was done for quality before the files were made."""

    dedup: Dedup | None = None
    """Duplicates."""
    filters: tuple[Text, ...] = ()
    """Filters, one line each."""
    eval_overlap: EvalOverlap | None = None
    """Overlap with evaluation sets."""
