"""What `sovtune check` looks at: the recipe, the data cards it names, their files, and the licences together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sovtune.data.card import LoadedCard, check_loaded, load_card, verify_files
from sovtune.errors import CardError, DataRefused, Problem, RecipeError
from sovtune.licence_promises import problems as promise_problems
from sovtune.recipe_file import LoadedRecipe, explain_origins, load_recipe
from sovtune.yaml_file import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Every problem found; ``exit_code`` is 2 for mistakes in files, 4 when only data or licences are refused."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    exit_code: int
    loaded: LoadedRecipe | None

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        problems = [asdict(problem) for problem in self.problems]
        return {"ok": not problems, "problems": problems, "warnings": list(self.warnings)}

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
    cards: dict[str, LoadedCard] = {}
    recipe = loaded.resolved()
    wanted = [(source.card, source.split, True) for source in recipe.data]
    wanted += [(held_out.card, None, False) for held_out in recipe.evaluate.texts]
    for card_path, split, for_training in wanted:
        found = _check_one(Path(card_path), split, for_training, mistakes, refused)
        if found is not None and for_training:
            cards[found.card.id] = found
    warnings = _check_licences(loaded, cards, refused)
    problems = tuple(dict.fromkeys([*mistakes, *refused]))
    exit_code = 2 if mistakes else 4 if refused else 0
    return CheckResult(problems=problems, warnings=tuple(warnings), exit_code=exit_code, loaded=loaded)


def _check_one(
    path: Path, split: str | None, for_training: bool, mistakes: list[Problem], refused: list[Problem]
) -> LoadedCard | None:
    try:
        card = load_card(path)
    except CardError as error:
        mistakes += error.problems
        return None
    quick = check_loaded(card, for_training=for_training)
    if quick:  # hashing would only repeat it
        refused += quick
        return card
    try:
        verify_files(card, split, for_training=for_training)
    except DataRefused as error:
        refused.append(_problem(error, path))
    return card


def _problem(error: DataRefused, path: Path) -> Problem:
    """An error about data as a problem of the card; its place is written ``file:line:column``."""
    file, line, column = str(path), 0, 0
    parts = (error.where or "").rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        file, line, column = parts[0], int(parts[1]), int(parts[2])
    return Problem(file=file, line=line, column=column, path="", message=error.what)


def _check_licences(loaded: LoadedRecipe, cards: dict[str, LoadedCard], refused: list[Problem]) -> list[str]:
    """Licences of base and data against the one the recipe promises; returns what a person should weigh."""
    recipe = loaded.recipe
    found = promise_problems(
        recipe.card.licence,
        base_licence=recipe.base.licence,
        data_licences={name: card.card.licence.expression for name, card in cards.items()},
        name=_published_name(recipe.name, recipe.publish.to if recipe.publish else None),
        language=recipe.language,
    )
    settled = [problem for problem in found if problem.settled]
    if settled:
        mark = read_yaml(loaded.path).marks.get(("card", "licence"))
        line, column = (mark.value.line, mark.value.column) if mark else (0, 0)
        refused += [
            Problem(
                file=str(loaded.path),
                line=line,
                column=column,
                path="card.licence",
                message=f"{problem.message}; {problem.fix}",
            )
            for problem in settled
        ]
    return [f"{problem.message}; {problem.fix}" for problem in found if not problem.settled]


def _published_name(name: str, target: str | None) -> str:
    """The name others will see: the repository's for a Hub target, else the run's."""
    return target.rpartition("/")[2] if target and target.startswith("hub:") else name
