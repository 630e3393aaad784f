"""May this recipe train on these cards and publish where it says? Every refusal with its id, judged by its policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovtune.audience import Audience, Statement, audience_problems
from sovtune.data.card import LoadedCard
from sovtune.data.card_rights import bound_outputs, generator_problems, rights_problems
from sovtune.data.card_schema import DataCard
from sovtune.errors import CardError, LicenceRefused, Problem, RecipeError
from sovtune.explain import place_of
from sovtune.licence_policy import Policy, Verdicts, judge, override_lines
from sovtune.licence_promises import (
    BASE,
    LicenceProblem,
    allows_commerce,
    begins_with,
    problems,
    proposed_licence,
)
from sovtune.licence_table import PERMISSION
from sovtune.licence_teacher import TEACHER, teacher_problems
from sovtune.licences import licence_keys, terms_of
from sovtune.recipe import Recipe
from sovtune.recipe_file import LoadedRecipe
from sovtune.records import Decision
from sovtune.yaml_file import KeyPath, Place, dotted

PlaceOf = Callable[[KeyPath], Place]
"""Where a value of the recipe stands; a file without a line when that is not known."""
_MODELS = {BASE: "the base model", TEACHER: "the teacher"}
_OF_LICENCES = frozenset({"commercial", "share_alike", "use_restrictions", "unreviewed", "attribution"})
"""Kinds of problem that another ``card.licence`` can solve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What the policy made of everything found.

    ``places`` has a place for each problem, in the recipe or a card; ``target`` is where the adapter goes, ``proposed``
    a licence that would do.
    """

    verdicts: Verdicts
    policy: Policy
    places: dict[LicenceProblem, Place]
    target: Audience | None
    proposed: str | None

    def as_problems(self) -> list[Problem]:
        """What is refused, a problem of the file each."""
        return [self._problem(problem) for problem in self.verdicts.refused]

    def _problem(self, problem: LicenceProblem) -> Problem:
        place = self.places[problem]
        return Problem(
            file=place.file,
            line=place.line,
            column=place.column,
            path=dotted(problem.at),
            message=f"{problem.message}; {problem.fix} [{problem.id}]",
        )

    def questions(self) -> tuple[str, ...]:
        """What the policy advisory let pass, a sentence each."""
        return tuple(f"{self._recorded(one)}; {one.fix} [{one.id}]" for one in self.verdicts.open_questions)

    def _recorded(self, problem: LicenceProblem) -> str:
        """Its message as it may stand in what is published."""
        if self.target is None or problem.constraint != "audience":
            return problem.message
        return self.target.recorded(problem.message)

    def decisions(self) -> tuple[Decision, ...]:
        """What people answer for."""
        return tuple(
            Decision(refusal=problem.id, question=self._recorded(problem), name=made.name, reason=made.reason)
            for problem, made in self.verdicts.overruled
        )

    def overruled(self) -> frozenset[str]:
        """Ids of the refusals that people answer for."""
        return frozenset(problem.id for problem, _ in self.verdicts.overruled)

    def ways_out(self) -> str:
        """What to do about the refusals as a whole, the YAML of an override included."""
        refused = self.verdicts.refused
        parts = ["correct the recipe or the card as said"]
        if any(problem.constraint in _OF_LICENCES for problem in refused):
            parts.append(
                f"card.licence: {self.proposed} keeps what base and data ask"
                if self.proposed
                else "no one licence keeps what base and data ask: leave a source out"
            )
        if all(not problem.settled for problem in refused):
            parts.append("card.licence_policy: advisory lets open questions pass with a warning")
        lines = override_lines(refused)
        if not lines:
            return "; ".join(parts)
        parts.append("or let a person answer for it in the recipe, where the model card will show it:")
        return "; ".join(parts) + "".join(f"\n    {line}" for line in lines)


def place_in(loaded: LoadedRecipe) -> PlaceOf:
    """Where values of a recipe file stand; the file alone for what it leaves to a default."""

    def place(path: KeyPath) -> Place:
        origin = loaded.origins.get(path)
        return (
            origin.place if origin is not None and origin.place is not None else Place(str(loaded.path), 0, 0)
        )

    return place


def examine(
    recipe: Recipe, cards: Sequence[LoadedCard], place_in_recipe: PlaceOf | None = None
) -> Permission:
    """Look at rights, licences, terms of generators, and at who may read the result; apply the recipe's policy.

    Args:
        recipe: the recipe.
        cards: its cards to train on.
        place_in_recipe: where a value of the recipe stands; without it errors give its path alone.

    Raises:
        CardError: two cards have one id.
        RecipeError: an override matches no refusal, names nobody, or overrules what nobody can.
        ValueError: a licence of the recipe cannot be read.
    """
    distinct = _by_id(cards)
    target = _target(recipe)
    found = list(_promises(recipe, distinct))
    if recipe.distil is not None:
        terms = recipe.distil.teacher.licence
        found += teacher_problems(recipe.card.licence, terms, published_name(recipe))
    for loaded in distinct.values():
        found += rights_problems(loaded.card)
        found += generator_problems(loaded.card)
        found += _beyond_the_licence(recipe, loaded.card)
        found += audience_problems(statement_of(loaded.card), target) if target else ()
    verdicts = judge(found, recipe.card.licence_policy, recipe.card.overrides)
    where = place_in_recipe or (lambda _: Place("recipe", 0, 0))
    if verdicts.mistakes:
        raise RecipeError(
            [
                _override_mistake(
                    where, ("card", "overrides", one.index, one.key), one.message, one.suggestion
                )
                for one in verdicts.mistakes
            ]
        )
    every = [*verdicts.refused, *verdicts.open_questions]
    places = {
        problem: where(problem.at)
        if problem.source in _MODELS
        else _in_card(distinct[problem.source], problem.at)
        for problem in every
    }
    return Permission(
        verdicts=verdicts,
        policy=recipe.card.licence_policy,
        places=places,
        target=target,
        proposed=_proposed(recipe, distinct, verdicts),
    )


def enforce(
    recipe: Recipe, cards: Sequence[LoadedCard], place_in_recipe: PlaceOf | None = None
) -> Permission:
    """``examine``, and stop at what is refused.

    Raises:
        LicenceRefused: all refusals at once, each with its place and id, and the lines of an override.
        CardError, RecipeError: see ``examine``.
    """
    permission = examine(recipe, cards, place_in_recipe)
    refused = permission.as_problems()
    if not refused:
        return permission
    lines = [str(problem) for problem in refused]
    raise LicenceRefused(
        lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} things are not allowed:", *lines]),
        why="licences, rights and what the cards state decide before anything is trained "
        f"(card.licence_policy: {recipe.card.licence_policy})",
        fix=permission.ways_out(),
    )


def published_name(recipe: Recipe) -> str:
    """The name others will see: the repository's for a Hub target, else the run's."""
    target = recipe.publish.to if recipe.publish else ""
    return target.rpartition("/")[2] if target.startswith("hub:") else recipe.name


def _by_id(cards: Sequence[LoadedCard]) -> dict[str, LoadedCard]:
    """The cards by id, each once: a card may be named for several splits.

    Raises:
        CardError: two cards have one id, or one is called as the base model or a teacher is.
    """
    found: dict[str, LoadedCard] = {}
    for loaded in cards:
        known = found.setdefault(loaded.card.id, loaded)
        taken = loaded.card.id in _MODELS
        if taken or Path(known.path).resolve() != Path(loaded.path).resolve():
            other = _MODELS[loaded.card.id] if taken else str(known.path)
            place = _in_card(loaded, ("id",))
            raise CardError(
                [
                    Problem(
                        file=place.file,
                        line=place.line,
                        column=place.column,
                        path="id",
                        message=f"`{loaded.card.id}` is also the id of {other}; reports could not tell them apart",
                    )
                ]
            )
    return found


def _promises(recipe: Recipe, cards: dict[str, LoadedCard]) -> tuple[LicenceProblem, ...]:
    return problems(
        recipe.card.licence,
        base_licence=recipe.base.licence,
        data_licences={name: loaded.card.licence.expression for name, loaded in cards.items()},
        name=published_name(recipe),
        language=recipe.language,
    )


def _beyond_the_licence(recipe: Recipe, card: DataCard) -> list[LicenceProblem]:
    """Promises that break what the card's rights, or the terms of the model that wrote the data, ask for."""
    found = []
    promised = allows_commerce(licence_keys(recipe.card.licence))
    letter = PERMISSION in licence_keys(card.licence.expression)

    def note(word: str, message: str, at: KeyPath, fix: str, *, settled: bool = True) -> None:
        found.append(
            LicenceProblem(
                source=card.id,
                word=word,
                constraint="naming" if word == "generator-name" else "commercial",
                message=f"data {card.id} {message}",
                fix=fix,
                at=at,
                settled=settled,
            )
        )

    commerce = "the result's licence " + ("allows it" if promised else "is not known to forbid it")
    choose = "choose a non-commercial licence such as CC-BY-NC-4.0 under card.licence"
    if promised is not False and card.rights.commercial == "no":
        message = f"says that the result may not be used commercially, {commerce}"
        note("non-commercial", message, ("rights", "commercial"), choose, settled=promised is not None)
    elif promised is not False and letter and card.rights.commercial == "unknown":
        message = f"is used by letter and does not say whether commercial use is allowed, {commerce}"
        fix = "ask the rights holder and write rights.commercial: yes or no"
        note("commercial-unknown", message, ("rights", "commercial"), fix, settled=False)
    for key in bound_outputs(card):
        terms = terms_of(key)
        if terms is None:
            continue
        at: KeyPath = ("sources",)
        if not terms.commercial and promised is not False:
            message = (
                f"was written by a model under {key}, whose outputs are for non-commercial use, {commerce}"
            )
            note("generator-non-commercial", message, at, choose, settled=promised is not None)
        name, prefix = published_name(recipe), terms.name_prefix
        if prefix is not None and not begins_with(name, prefix):
            message = f"was written by a model under {key}: models trained on it are named `{prefix}...`, not `{name}`"
            note("generator-name", message, at, f"call it `{prefix.replace(' ', '-')}-{name}`")
    return found


def statement_of(card: DataCard) -> Statement:
    """What the card states about who may have the data, and where."""
    return Statement(
        card=card.id,
        sensitivity=card.sensitivity,
        allowed_regions=card.residency.allowed_regions,
        export=card.residency.export,
    )


def _target(recipe: Recipe) -> Audience | None:
    target = recipe.publish
    return Audience(to=target.to, endpoint=target.endpoint, private=target.private) if target else None


def _proposed(recipe: Recipe, cards: dict[str, LoadedCard], verdicts: Verdicts) -> str | None:
    """The licence that would do; only looked for when a licence is refused, for it reads the list of all licences."""
    if not any(problem.constraint in _OF_LICENCES for problem in verdicts.refused):
        return None
    return proposed_licence(
        recipe.base.licence,
        {name: loaded.card.licence.expression for name, loaded in cards.items()},
        non_commercial=any(problem.constraint == "commercial" for problem in verdicts.refused),
    )


def _in_card(loaded: LoadedCard, path: KeyPath) -> Place:
    return place_of(loaded.yaml.marks, path)


def _override_mistake(where: PlaceOf, path: KeyPath, message: str, suggestion: str | None) -> Problem:
    place = where(path)
    return Problem(
        file=place.file,
        line=place.line,
        column=place.column,
        path=dotted(path),
        message=message,
        suggestion=suggestion,
    )
