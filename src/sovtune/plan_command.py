"""`sovtune plan`: what a run will cost, from shapes and counts, without loading a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sovtune.base import cache_home, resolve
from sovtune.data.prepare import find_prepared
from sovtune.plan import DataSize, estimate_data, make_plan, previous_speed, read_base_facts, required_bytes
from sovtune.progress import duration, size
from sovtune.recipe_file import LoadedRecipe
from sovtune.records import DataReport, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A plan with the sum of its parts."""

    plan: Plan
    total_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        values = asdict(self.plan)
        values["memory_bytes"] = {**self.plan.memory_bytes, "total": self.total_bytes}
        return values


def data_size(report: DataReport) -> DataSize:
    """The size of prepared data."""
    return DataSize(
        tokens=report.tokens,
        supervised_tokens=report.supervised_tokens,
        rows=report.rows,
        documents=report.documents,
        longest=report.longest_document,
    )


def plan_recipe(loaded: LoadedRecipe, runs_dir: Path) -> PlanResult:
    """Plan a recipe; prepared data is used when it is in the cache, else its size is estimated from the cards.

    Raises:
        BaseUnavailable: the base is not on disk yet.
        DataRefused: a data card does not fit its files.
    """
    recipe = loaded.resolved()
    base = resolve(recipe.base, root=loaded.root, offline=True)
    facts = read_base_facts(base.folder)
    prepared, sources = find_prepared(recipe, base_hash=base.record.content_sha256, cache=cache_home())
    if prepared is not None:
        data = data_size(prepared.report)
    else:
        rows = sum(entry.rows for source in sources for entry in source.loaded.card.files)
        data = estimate_data(
            sum(file.bytes for source in sources for file in source.files), rows, recipe.train
        )
    plan = make_plan(recipe, facts, data, speed=previous_speed(runs_dir, facts))
    return PlanResult(plan=plan, total_bytes=required_bytes(plan.memory_bytes))


def plan_table(result: PlanResult) -> str:
    """The plan for a terminal."""
    plan = result.plan
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines = [
        f"steps     {plan.steps} of {plan.rows_per_step} rows, {plan.tokens:,} tokens, {plan.epochs:.2f} passes",
        f"time      {duration(plan.seconds) if plan.seconds is not None else 'not estimated'}",
        f"memory    {size(result.total_bytes)} of {size(plan.memory_available_bytes)}: {verdict}",
    ]
    parts = sorted(plan.memory_bytes.items(), key=lambda part: -part[1])
    lines += [f"  {name.replace('_', ' '):<26} {size(amount):>9}" for name, amount in parts if amount]
    lines += [f"note      {note}" for note in plan.notes]
    return "\n".join(lines)
