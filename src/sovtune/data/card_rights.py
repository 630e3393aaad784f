"""What a data card itself says against training: no right, a right that has ended, terms of a model that wrote it."""

from __future__ import annotations

import datetime as dt

from sovtune.data.card_schema import DataCard
from sovtune.data.card_sections import Generator
from sovtune.licence_promises import LicenceProblem
from sovtune.licences import Constraint, reviewed_key, terms_of

_ASK = "ask whoever holds the rights, and change the card only when they agree"
_NO_ANSWER = frozenset(
    {"unknown", "not known", "none", "no", "?", "-", "n/a", "tbd", "not declared", "unclear", "미상"}
)
"""Words under ``generator.terms`` that tell nothing; compared in lower case without a final dot."""


def rights_problems(card: DataCard) -> list[LicenceProblem]:
    """Why this data may not be trained on; ``rights.training: no`` is the one answer that nobody can overrule."""
    found = []
    rights = card.rights
    if rights.training != "yes":
        said = "no" if rights.training == "no" else "that nobody knows"
        message = f"may models be trained on this data? The card says {said}"
        found.append(
            _problem(card, "training", message, ("rights", "training"), final=rights.training == "no")
        )
    if rights.expires is not None and rights.expires < dt.datetime.now(tz=dt.UTC).date():
        message = f"the right to use this data ended on {rights.expires}"
        found.append(_problem(card, "expired", message, ("rights", "expires")))
    return found


def generator_problems(card: DataCard) -> list[LicenceProblem]:
    """Models that wrote (part of) the data and whose terms forbid training on it, or are not declared."""
    found = []
    for index, source in enumerate(card.sources):
        generator = source.generator
        if generator is None:
            continue
        at = ("sources", index, "generator", "training" if generator.training is not None else "terms")
        who = f"data {card.id}, source {source.name}: the terms of {generator.model}"
        fix = "read its terms, then write generator.training: yes; or leave this data out"
        verdict = _may_learn_from(generator)
        if verdict == "no":
            message = f"{who} forbid training other models on its output"
            found.append(_problem(card, "generator-terms", message, at, fix=fix))
        elif verdict == "unknown":
            message = f"{who} are not declared: may other models be trained on its output?"
            found.append(_problem(card, "generator-terms", message, at, fix=fix, settled=False))
    return found


def _may_learn_from(generator: Generator) -> str:
    if generator.training is not None:
        return generator.training
    terms = terms_of(generator_licence(generator) or "")
    if terms is not None:
        return "no" if terms.outputs == "forbidden" else "yes"
    return "unknown" if generator.terms.strip().casefold().rstrip(".") in _NO_ANSWER else "yes"


def generator_licence(generator: Generator) -> str | None:
    """The key of the licence that ``terms`` names, when it names one that is known."""
    return reviewed_key(generator.terms)


def bound_outputs(card: DataCard) -> tuple[str, ...]:
    """Licences of models that wrote the data and whose duties go along with what they wrote."""
    keys = (generator_licence(source.generator) for source in card.sources if source.generator is not None)
    bound = ((key, terms_of(key)) for key in keys if key is not None)
    return tuple(dict.fromkeys(key for key, terms in bound if terms is not None and terms.outputs == "bound"))


def _problem(
    card: DataCard,
    word: str,
    message: str,
    at: tuple[str | int, ...],
    *,
    fix: str = _ASK,
    settled: bool = True,
    final: bool = False,
) -> LicenceProblem:
    kind: Constraint = "training"
    return LicenceProblem(
        source=card.id,
        word=word,
        constraint=kind,
        message=message,
        fix=fix,
        at=at,
        settled=settled,
        overridable=not final,
    )
