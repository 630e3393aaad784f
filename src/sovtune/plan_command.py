"""`sovtune plan`: what a run will cost, from shapes and counts; with a probe, from a real step as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sovtune.architecture import BaseFacts
from sovtune.base import ResolvedBase, cache_home, resolve
from sovtune.base_place import BasePlace, locate
from sovtune.errors import UsageError
from sovtune.figures import duration, size
from sovtune.machine import Machine, named_machine, this_machine
from sovtune.plan import (
    DataSize,
    Speed,
    estimate_data,
    fitting_recipe,
    make_plan,
    previous_speed,
    read_base_facts,
)
from sovtune.plan_changes import with_values
from sovtune.probe import Probe, heaviest, run_probe
from sovtune.recipe import Recipe
from sovtune.recipe_file import EXTENDS, LoadedRecipe, load_recipe
from sovtune.records import DataReport, Plan, PlanChange
from sovtune.runs import write_result
from sovtune.teach_command import at_the_teacher
from sovtune.yaml_write import yaml_lines

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """How a plan was asked for: a named GPU instead of this machine, a probe, a file for a recipe that fits."""

    runs_dir: Path
    gpu: str | None = None
    probe: bool = False
    apply: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A plan, and the recipe that was written, if one was."""

    plan: Plan
    applied: Path | None = None

    @property
    def total_bytes(self) -> int:
        """The peak."""
        return sum(self.plan.memory_bytes.values())

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (docs/plan.md)."""
        values = asdict(self.plan)
        values["memory_bytes"] = {**self.plan.memory_bytes, "total": self.total_bytes}
        if self.applied is not None:
            values["applied"] = str(self.applied)
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


def plan_recipe(loaded: LoadedRecipe, options: PlanOptions, say: Say = lambda line: None) -> PlanResult:
    """Plan a recipe; prepared data is used when it is in the cache, else its size is estimated from the cards.

    Args:
        loaded: the recipe.
        options: where, and whether to probe and to write.
        say: told what takes time.

    Raises:
        BaseUnavailable: the base is not on disk yet.
        DataRefused: a data card does not fit its files.
        UsageError: an unknown GPU, a probe for another machine than this, a file that is in the way.
        EnvironmentFault: see ``plan.make_plan``; with ``apply`` also that no change is enough.
        RunFailed: the probe failed for another reason than memory.
    """
    if options.probe and options.gpu is not None:
        raise UsageError(
            "a probe is a step on this machine", where="--probe", fix="leave out --probe or --gpu"
        )
    if options.apply is not None:
        _check_target(options.apply)
    recipe = loaded.resolved()
    base = locate(recipe.base, loaded.root)
    facts = read_base_facts(base.folder)
    place = named_machine(options.gpu) if options.gpu else this_machine(recipe.train.run.device)
    teacher = None
    if recipe.distil is not None:
        with at_the_teacher():
            teacher = read_base_facts(locate(recipe.distil.teacher, loaded.root).folder)
    speed = None if options.gpu else previous_speed(options.runs_dir, facts)
    if options.probe:
        whole = resolve(recipe.base, root=loaded.root, offline=True)
        data, plan, correction = _probed(recipe, whole, (facts, teacher), place, say)
    else:
        data, correction = _data(recipe, base), 0
        plan = make_plan(recipe, facts, data, machine=place, speed=speed, teacher=teacher)
    if options.apply is None:
        return PlanResult(plan=plan)
    if plan.fits:
        say("it fits as it is: no recipe was written")
        return PlanResult(plan=plan)
    _, changes = fitting_recipe(recipe, facts, data, _room(place, plan), correction, teacher)
    write_changed(loaded, changes, options.apply, plan.machine)
    return PlanResult(plan=plan, applied=options.apply)


def _data(recipe: Recipe, base: BasePlace) -> DataSize:
    """The size of the data: of rows that were made for this base, else a guess from the cards."""
    from sovtune.data.prepare import find_prepared

    prepared, sources = find_prepared(recipe, base_hash=base.content_sha256 or "", cache=cache_home())
    if prepared is not None:
        return data_size(prepared.report)
    rows = sum(entry.rows for source in sources for entry in source.loaded.card.files)
    return estimate_data(sum(file.bytes for source in sources for file in source.files), rows, recipe.train)


def _probed(
    recipe: Recipe, base: ResolvedBase, models: tuple[BaseFacts, BaseFacts | None], place: Machine, say: Say
) -> tuple[DataSize, Plan, int]:
    """Prepare the data, do a step, and plan with what it needed: data, plan, bytes beyond the estimate.

    ``models`` are base and teacher; the step is one without the teacher, whose probabilities take little.
    """
    from sovtune.data.arrow_rows import load_rows
    from sovtune.data.prepare import prepare

    say("preparing the data, as training would")
    prepared = prepare(
        recipe, base_folder=base.folder, base_hash=base.record.content_sha256, cache=cache_home()
    )
    data = data_size(prepared.report)
    facts, teacher = models
    guess = make_plan(recipe, facts, data, machine=place)
    say("two steps at the longest batch; the second one counts")
    rows = heaviest(load_rows(prepared.rows_file), guess.micro_rows)
    chosen = with_values(recipe, {"train.run.micro_rows": guess.micro_rows})
    found = run_probe(chosen, base.folder, rows)
    if found.peak_bytes is None:  # it needs more than there is, nobody knows how much more
        correction = max(0, place.memory_available_bytes + 1 - sum(guess.memory_bytes.values()))
        plan = make_plan(chosen, facts, data, machine=place, correction=correction, teacher=teacher)
        return data, _noted(plan, f"the probe did not fit: {found.out_of_memory}"), correction
    alike = make_plan(chosen, facts, replace(data, alike=True), machine=place)
    planned = sum(alike.memory_bytes.values())
    correction = found.peak_bytes - planned
    plan = make_plan(
        chosen, facts, data, machine=place, speed=_speed(found), correction=correction, teacher=teacher
    )
    off = planned / found.peak_bytes - 1
    words = f"probe: {size(found.peak_bytes)} measured, {size(planned)} estimated ({off:+.0%})"
    return data, _noted(plan, words), correction


def _speed(found: Probe) -> Speed:
    watts = None if found.joules is None else found.joules / found.seconds
    return Speed(found.tokens / found.seconds, f"time from a step of {found.tokens:,} tokens", watts)


def _noted(plan: Plan, note: str) -> Plan:
    return replace(plan, notes=(note, *plan.notes))


def _room(place: Machine, plan: Plan) -> Machine:
    """The machine as the plan saw it: what is free may have changed since."""
    return replace(place, memory_available_bytes=plan.memory_available_bytes)


def write_changed(
    loaded: LoadedRecipe, changes: tuple[PlanChange, ...], target: Path, machine: str
) -> LoadedRecipe:
    """Write a recipe that extends another one with changes (and with what `--set` said), and check it.

    Args:
        loaded: the recipe as it is.
        changes: what the plan found.
        target: the file to write.
        machine: where it fits then, for the comment.

    Raises:
        RecipeError: the file cannot be read back as a recipe.
        EnvironmentFault: it cannot be written.
    """
    folder = target.absolute().parent
    values: dict[str, Any] = {EXTENDS: os.path.relpath(loaded.path.absolute(), folder)}
    resolved = loaded.resolved().model_dump(mode="json")
    for path, origin in loaded.origins.items():
        if origin.kind == "--set":
            keys = [key for key in path if isinstance(key, str)][: _first_number(path)]
            _put(values, keys, _at(resolved, keys))
    for change in changes:
        for key, value in change.values.items():
            _put(values, key.split("."), value)
    comment = [
        f"# Written by `sovtune plan {loaded.path.name} --apply`: with these changes it fits {machine}."
    ]
    comment += [
        f"#   saves {size(change.saves_bytes)}, {', '.join(change.values)}: {change.cost}"
        for change in changes
    ]
    lines = [line for line, _ in yaml_lines(values)]
    write_result(target, "\n".join([*comment, *lines]) + "\n", what="the recipe")
    return load_recipe(target)


def _check_target(target: Path) -> None:
    """Before anything is computed."""
    if target.exists():
        raise UsageError("this file is there already", where=str(target), fix="name another file")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), fix=f"mkdir -p {folder}")


def _first_number(path: tuple[str | int, ...]) -> int:
    return next((at for at, key in enumerate(path) if isinstance(key, int)), len(path))


def _at(values: Mapping[str, Any], keys: list[str]) -> Any:
    found: Any = values
    for key in keys:
        found = found[key]
    return found


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    *above, last = keys
    for key in above:
        values = values.setdefault(key, {})
    values[last] = value


def plan_table(result: PlanResult) -> str:
    """The plan for a terminal."""
    plan = result.plan
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    energy = "not estimated" if plan.energy_kwh is None else f"{plan.energy_kwh:.2f} kWh"
    at_once = f", {plan.micro_rows} at once" if plan.rows_per_step > 1 else ""
    lines = [
        f"steps     {plan.steps} of {plan.rows_per_step} rows{at_once}, {plan.tokens:,} tokens, "
        f"{plan.epochs:.2f} passes",
        f"time      {duration(plan.seconds) if plan.seconds is not None else 'not estimated'}",
        f"energy    {energy}",
        f"memory    {size(result.total_bytes)} of {size(plan.memory_available_bytes)} on {plan.machine}: {verdict}",
    ]
    parts = sorted(plan.memory_bytes.items(), key=lambda part: -part[1])
    lines += [f"  {name.replace('_', ' '):<26} {size(amount):>9}" for name, amount in parts if amount]
    for change in plan.changes:
        keys = ", ".join(f"{key}: {value}" for key, value in change.values.items())
        lines.append(f"change    {keys}: {size(change.total_bytes)} then; costs {change.cost}")
    lines += [f"note      {note}" for note in plan.notes]
    if result.applied is not None:
        lines.append(f"written   {result.applied}")
    return "\n".join(lines)
