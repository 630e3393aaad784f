"""What to change when a run does not fit: ordered by what it costs, each with what it saves; pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sovtune.architecture import BaseFacts
from sovtune.recipe import Recipe
from sovtune.records import PlanChange

WORTH = 0.01
"""A change that saves less than this share of the need is not worth a line."""
SHORTEST, LOWEST_RANK = 128, 4
"""Rows and ranks are not halved below these: less would hardly learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What changes depend on besides the recipe."""

    facts: BaseFacts
    device: str
    longest: int | None
    """Tokens of the longest document, when it is known."""


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values: dotted key -> value, checked like any recipe."""
    changed: dict[str, Any] = recipe.model_dump(mode="json")
    for key, value in values.items():
        *above, last = key.split(".")
        holder = changed
        for part in above:
            holder = holder[part]
        holder[last] = value
    return Recipe.model_validate(changed)


def changes_until(
    recipe: Recipe, situation: Situation, needs: Callable[[Recipe], int], room: int
) -> tuple[Recipe, tuple[PlanChange, ...]]:
    """Changes one on top of the other until the run fits, or until nothing is left to change.

    Args:
        recipe: what does not fit.
        situation: base, device and data.
        needs: recipe -> bytes.
        room: bytes there are.

    Returns:
        The recipe with all of them, and each with the bytes it saves on top of those before it.
    """
    made: list[PlanChange] = []
    need = needs(recipe)
    tries = list(_ladder())
    while need > room and tries:
        step = tries.pop(0)
        found = step(recipe, situation)
        if found is None:
            continue
        values, cost = found
        changed = with_values(recipe, values)
        less = needs(changed)
        if less > (1 - WORTH) * need:
            continue
        made.append(PlanChange(values=values, saves_bytes=need - less, total_bytes=less, cost=cost))
        recipe, need = changed, less
        if step in (_shorter_rows, _lower_rank):
            tries.insert(0, step)  # halved again before something dearer is tried
    return recipe, tuple(made)


Change = tuple[dict[str, Any], str]


def _ladder() -> Iterator[Callable[[Recipe, Situation], Change | None]]:
    """From what costs nothing to what changes the result."""
    yield from (
        _lean_loss,
        _one_row,
        _checkpointing,
        _small_optimizer,
        _double,
        _four_bits,
        _shorter_rows,
        _lower_rank,
    )


def _lean_loss(recipe: Recipe, situation: Situation) -> Change | None:
    blocked = situation.facts.config_blockers or recipe.launch.blockers
    if situation.device != "cpu" or recipe.train.run.engine != "plain" or blocked:
        return None
    return {"train.run.engine": "auto"}, "nothing: the loss is made in chunks, and the step is faster"


def _one_row(recipe: Recipe, situation: Situation) -> Change | None:
    if (recipe.train.run.micro_rows or 1) == 1:
        return None
    return {"train.run.micro_rows": 1}, "hardly any: rows go through one by one, the batch stays as it is"


def _checkpointing(recipe: Recipe, situation: Situation) -> Change | None:
    if recipe.train.run.gradient_checkpointing:
        return None
    return {"train.run.gradient_checkpointing": True}, "about 0.7x the speed, same losses"


def _small_optimizer(recipe: Recipe, situation: Situation) -> Change | None:
    if situation.device != "cuda" or recipe.train.finer.optimizer == "adamw8bit":
        return None
    return {"train.finer.optimizer": "adamw8bit"}, "moments of AdamW rounded to 8 bits"


def _double(recipe: Recipe, situation: Situation) -> Change | None:
    storage = recipe.base.quantisation
    if storage.kind not in ("nf4", "fp4") or storage.double:
        return None
    return {"base.quantisation.double": True}, "constants of the 4-bit weights rounded to 8 bits"


def _four_bits(recipe: Recipe, situation: Situation) -> Change | None:
    kind = recipe.base.quantisation.kind
    if kind in ("nf4", "fp4") or recipe.adapter.kind == "full":
        return None
    if recipe.adapter.dora and recipe.launch.strategy == "zero3":  # they do not go together, see recipe.py
        return None
    values: dict[str, Any] = {"base.quantisation.kind": "nf4"}
    if recipe.adapter.kind == "lora":
        values["adapter.kind"] = "qlora"
    return values, "the frozen base rounded to 4 bits, a few percent of the speed"


def _shorter_rows(recipe: Recipe, situation: Situation) -> Change | None:
    rows = recipe.train.rows
    half = rows.max_length // 2
    if half < SHORTEST:
        return None
    values: dict[str, Any] = {"train.rows.max_length": half}
    if situation.longest is not None and situation.longest <= half:
        return values, "none for this data: its longest document still fits into a row"
    if rows.overlong == "error":
        values["train.rows.overlong"] = "split" if recipe.method == "cpt" else "drop"
    lost = "split" if values.get("train.rows.overlong", rows.overlong) == "split" else "dropped"
    longest = "" if situation.longest is None else f" (the longest has {situation.longest:,})"
    return values, f"documents of more than {half:,} tokens are {lost}{longest}"


def _lower_rank(recipe: Recipe, situation: Situation) -> Change | None:
    half = recipe.adapter.rank // 2
    if recipe.adapter.kind == "full" or recipe.adapter.continue_from is not None or half < LOWEST_RANK:
        return None
    return {"adapter.rank": half, "adapter.alpha": recipe.adapter.alpha / 2}, "an adapter that can learn less"
