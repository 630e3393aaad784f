"""What `sovtune check` looks at: the recipe, the data cards it names, their files, and the licences together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sovtune.data.card import check_loaded, load_card, verify_files
from sovtune.data.permission import Permission, examine, place_in
from sovtune.errors import CardError, DataRefused, Problem, RecipeError
from sovtune.mixture_view import replay_note
from sovtune.recipe_file import LoadedRecipe, explain_origins, load_recipe
from sovtune.records import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Every problem found; ``exit_code`` is 2 for mistakes in files, 4 when only data or licences are refused.

    ``warnings`` are open questions that the policy advisory let pass, ``decisions`` refusals that people answer for,
    ``refusals`` the ids of those that stand, ``ways_out`` what to do about them as a whole, ``notes`` advice.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    exit_code: int
    loaded: LoadedRecipe | None
    refusals: tuple[str, ...] = ()
    ways_out: str | None = None
    decisions: tuple[Decision, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        problems = [asdict(problem) for problem in self.problems]
        return {
            "ok": not problems,
            "problems": problems,
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
            "decisions": [asdict(decision) for decision in self.decisions],
            "notes": list(self.notes),
        }

    def remarks(self) -> list[str]:
        """Lines for a terminal: what is left open, who answers for what, and advice."""
        return [
            *(f"warning: {warning}" for warning in self.warnings),
            *(f"overruled: {made.refusal} by {made.name}: {made.reason}" for made in self.decisions),
            *(f"note: {note}" for note in self.notes),
        ]

    def explained(self) -> list[str]:
        """The effective recipe, each value with its origin."""
        return explain_origins(self.loaded) if self.loaded else []


def check_all(path: Path, overrides: Sequence[str]) -> CheckResult:
    """Check everything that can be checked without a model; a person's mistake never raises."""
    try:
        loaded = load_recipe(path, overrides)
    except RecipeError as error:
        return CheckResult(problems=tuple(error.problems), warnings=(), exit_code=2, loaded=None)
    mistakes: list[Problem] = []
    refused: list[Problem] = []
    recipe = loaded.resolved()
    found = _permission(loaded, mistakes)
    wanted = [(source.card, source.split) for source in recipe.data]
    wanted += [(held_out.card, None) for held_out in recipe.evaluate.held_out]
    for card_path, split in wanted:
        _check_one(Path(card_path), split, mistakes, refused)
    refused += found.as_problems() if found else []
    problems = tuple(dict.fromkeys([*mistakes, *refused]))
    return CheckResult(
        problems=problems,
        warnings=found.questions() if found else (),
        exit_code=2 if mistakes else 4 if refused else 0,
        loaded=loaded,
        refusals=tuple(dict.fromkeys(one.id for one in found.verdicts.refused)) if found else (),
        ways_out=found.ways_out() if found and found.verdicts.refused else None,
        decisions=found.decisions() if found else (),
        notes=() if mistakes else _notes(loaded),
    )


def _notes(loaded: LoadedRecipe) -> tuple[str, ...]:
    note = replay_note(loaded.recipe, loaded.resolved())
    return (note,) if note else ()


def _permission(loaded: LoadedRecipe, mistakes: list[Problem]) -> Permission | None:
    """The verdicts of licences and rights, those of the data stage; None when a card cannot be read."""
    try:
        cards = [load_card(Path(source.card)) for source in loaded.resolved().data]
        return examine(loaded.resolved(), cards, place_in(loaded))
    except (CardError, RecipeError) as error:
        mistakes += error.problems
    return None


def _check_one(path: Path, split: str | None, mistakes: list[Problem], refused: list[Problem]) -> None:
    """A card's files and documents; its rights are for ``_permission``."""
    try:
        card = load_card(path)
    except CardError as error:
        mistakes += error.problems
        return
    quick = check_loaded(card, for_training=False)
    if quick:  # hashing would only repeat it
        refused += quick
        return
    try:
        verify_files(card, split, for_training=False)
    except DataRefused as error:
        refused.append(_problem(error, path))


def _problem(error: DataRefused, path: Path) -> Problem:
    """An error about data as a problem of the card; its place is written ``file:line:column``."""
    file, line, column = str(path), 0, 0
    parts = (error.where or "").rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        file, line, column = parts[0], int(parts[1]), int(parts[2])
    return Problem(file=file, line=line, column=column, path="", message=error.what)
