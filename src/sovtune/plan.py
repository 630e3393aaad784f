"""The plan of a run: steps, tokens, memory, time, energy. Arithmetic only, without torch, before any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from sovtune.adapter_shapes import Trained, trained
from sovtune.architecture import BaseFacts, read_base_facts
from sovtune.errors import DataRefused, EnvironmentFault
from sovtune.fastpath import select
from sovtune.machine import Machine, this_machine
from sovtune.memory import PROMPTS_AT_ONCE, Need, Workload, need
from sovtune.plan_changes import Situation, changes_until
from sovtune.plan_cost import Speed, cost, previous_speed, work_flop
from sovtune.plan_teacher import PHASE, READ_AT_ONCE, cost_with_teacher, with_teacher
from sovtune.recipe import Recipe
from sovtune.recipe_train import Train
from sovtune.records import Plan, PlanChange

__all__ = ["BaseFacts", "DataSize", "Machine", "Speed", "estimate_data", "fitting_recipe", "make_plan"]
__all__ += ["previous_speed", "read_base_facts", "steps_for", "this_machine", "work_flop"]

BYTES_PER_TOKEN = 3.0
"""For data that was not tokenised yet. Measured range: 1.3 (SmolLM2 on Korean) to 4.5 (Qwen3 on English)."""
NUMBER_BYTES = {"bfloat16": 2, "float32": 4}
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16_384}
"""Tokens that keep a device busy; more at once take memory and save little time. On a CPU a forward and backward pass
costs as much as 120 tokens beside its own (restoring 4-bit weights, calls): 512 tokens in one pass took 0.65 of the
time of 4 times 128, 1,024 took 0.9 of twice 512 (SmolLM2-135M, CPU time of one thread). On a GPU it is an assumption.
"""

_SHARDED = dict.fromkeys(("fsdp2", "zero3"), ", counted with the whole base though each holds a part of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """How much data there is; ``longest`` document in tokens; ``estimated`` says how the rest was guessed.

    ``alike``: every row has the same shape, as in a probe; those of a corpus have not.
    """

    tokens: int
    supervised_tokens: int
    rows: int
    documents: int
    longest: int | None = None
    estimated: str = ""
    alike: bool = False


class Steps(NamedTuple):
    """Optimizer steps, rows in a full step, rows in all; the last step takes what is left."""

    steps: int
    rows_per_step: int
    wanted_rows: int


def steps_for(train: Train, rows: int, tokens: int) -> Steps:
    """The one place that decides how many steps a run has and how many rows it reads.

    A step takes as many rows of ``rows.max_length`` as ``batch_tokens`` holds, rounded down to whole
    micro-batches so that every one of them is equally large. ``epochs`` reads exactly that share of the rows,
    and the last step may be smaller; ``steps`` and ``tokens`` fill every step.

    Args:
        train: the recipe's section.
        rows: packed rows of the training data.
        tokens: tokens in those rows.

    Raises:
        DataRefused: there are no rows or no tokens.
    """
    if rows < 1 or tokens < 1:
        raise DataRefused(f"nothing to train on: {rows} rows with {tokens} tokens")
    micro_rows = train.run.micro_rows or 1
    fitting = train.batch_tokens // train.rows.max_length
    rows_per_step = max(micro_rows, fitting - fitting % micro_rows)
    if train.steps is not None:
        return Steps(train.steps, rows_per_step, train.steps * rows_per_step)
    if train.tokens is not None:
        steps = ceil(Fraction(train.tokens * rows, tokens) / rows_per_step)
        return Steps(steps, rows_per_step, steps * rows_per_step)
    # The decimal that was written, not its binary neighbour: 0.1 of 30 rows is 3, not 3.0000000000000004.
    wanted = max(1, ceil(Fraction(repr(train.epochs)) * rows))
    return Steps(ceil(Fraction(wanted, rows_per_step)), rows_per_step, wanted)


def estimate_data(
    stored_bytes: int, documents: int, train: Train, *, bytes_per_token: float = BYTES_PER_TOKEN
) -> DataSize:
    """The size of data that was not prepared yet, from the bytes its cards state.

    Raises:
        DataRefused: no bytes or no documents.
    """
    if stored_bytes < 1 or documents < 1:
        raise DataRefused(f"nothing to train on: {documents} documents in {stored_bytes} bytes")
    tokens = ceil(stored_bytes / bytes_per_token)
    rows = ceil(tokens / train.rows.max_length) if train.rows.packing else documents
    return DataSize(
        tokens=tokens,
        supervised_tokens=tokens,
        rows=rows,
        documents=documents,
        estimated=f"tokens are a guess from {stored_bytes:,} bytes at {bytes_per_token:g} bytes a token",
    )


def make_plan(
    recipe: Recipe,
    facts: BaseFacts,
    data: DataSize,
    *,
    machine: Machine | None = None,
    speed: Speed | None = None,
    correction: int = 0,
    teacher: BaseFacts | None = None,
) -> Plan:
    """Count steps, tokens and bytes before anything is loaded.

    Args:
        recipe: what is to be run.
        facts: shapes of the base, from ``read_base_facts``.
        data: size of the prepared data, or an estimate of it.
        machine: where; default this machine as it is now.
        speed: of an earlier run (``previous_speed``); without it and ``machine.flops`` time is unknown.
        correction: bytes that a probe needed beyond the estimate (or less, below 0).
        teacher: shapes of the teacher, with ``recipe.distil``.

    Raises:
        DataRefused: there is nothing to train on.
        EnvironmentFault: the model type has no known targets, no layer matches, or the memory of a CUDA
            device is unknown.
    """
    place = _for_each_process(machine or this_machine(recipe.train.run.device), recipe)
    steps, rows_per_step, wanted_rows = steps_for(recipe.train, data.rows, data.tokens)
    tokens = max(1, round(Fraction(data.tokens * wanted_rows, data.rows)))
    needed = _need_of(facts, data, place, correction, teacher)
    micro_rows = _micro_rows(recipe, data, place, rows_per_step, lambda made: needed(made).total)
    found = needed(_at_once(recipe, micro_rows))
    fits = found.total <= place.memory_available_bytes
    notes = [data.estimated] if data.estimated else []
    notes += [f"plain engine: {reason}" for reason in _plain_reasons(recipe, facts, place.device)]
    notes += _notes_on_shape(facts, recipe.train, rows_per_step, wanted_rows)
    if recipe.launch.processes > 1:
        notes.append("memory is that of one process" + _SHARDED.get(recipe.launch.strategy, ""))
    changes: tuple[PlanChange, ...] = ()
    if not fits:
        changes = _changes(recipe, facts, data, place, correction, teacher)[1]
        if not changes or changes[-1].total_bytes > place.memory_available_bytes:
            notes.append("no change of the recipe makes it fit: take a smaller base or more memory")
        if found.phases.get(PHASE, 0) > place.memory_available_bytes:
            notes.append(
                f"the teacher alone needs {found.phases[PHASE] / 1e9:.1f} GB while it reads the rows"
            )
    supervised = data.supervised_tokens / data.tokens
    spent = cost(recipe, facts, tokens, supervised=supervised, place=place, speed=speed)
    if teacher is not None:
        once = min(tokens, data.tokens)
        spent = cost_with_teacher(spent, recipe, facts, teacher, (tokens, once), supervised)
    return Plan(
        steps=steps,
        rows_per_step=rows_per_step,
        tokens=tokens,
        epochs=wanted_rows / data.rows,
        seconds=spent.seconds,
        energy_kwh=spent.energy_kwh,
        memory_bytes=found.parts,
        memory_available_bytes=place.memory_available_bytes,
        fits=fits,
        notes=(*notes, *spent.notes),
        machine=place.name,
        micro_rows=micro_rows,
        phases=found.phases,
        others=found.others,
        changes=changes,
    )


def _for_each_process(place: Machine, recipe: Recipe) -> Machine:
    """What one process has: those on a machine share its main memory, but each has a GPU of its own."""
    if place.device != "cpu":
        return place
    return replace(place, memory_available_bytes=place.memory_available_bytes // recipe.launch.processes)


def fitting_recipe(
    recipe: Recipe,
    facts: BaseFacts,
    data: DataSize,
    place: Machine,
    correction: int = 0,
    teacher: BaseFacts | None = None,
) -> tuple[Recipe, tuple[PlanChange, ...]]:
    """The recipe with the changes that make it fit, and what they are; none when it fits already.

    Args:
        recipe: see ``make_plan``.
        facts: see ``make_plan``.
        data: see ``make_plan``.
        place: where it is to fit.
        correction: see ``make_plan``.
        teacher: see ``make_plan``.

    Raises:
        EnvironmentFault: no change is enough.
    """
    changed, changes = _changes(recipe, facts, data, place, correction, teacher)
    least = _need_of(facts, data, place, correction, teacher)(_at_once(changed, 1)).total
    if least > place.memory_available_bytes:
        raise EnvironmentFault(
            f"no change of the recipe makes it fit into {place.memory_available_bytes / 1e9:.2f} GB",
            where="train",
            why=f"with every change it still needs {least / 1e9:.2f} GB",
            fix="take a smaller base, or a machine with more memory",
        )
    return changed, changes


def _changes(
    recipe: Recipe,
    facts: BaseFacts,
    data: DataSize,
    place: Machine,
    correction: int,
    teacher: BaseFacts | None,
) -> tuple[Recipe, tuple[PlanChange, ...]]:
    needed = _need_of(facts, data, place, correction, teacher)
    situation = Situation(facts=facts, device=place.device, longest=data.longest)
    return changes_until(recipe, situation, lambda made: needed(made).total, place.memory_available_bytes)


def _need_of(
    facts: BaseFacts, data: DataSize, place: Machine, correction: int, teacher: BaseFacts | None
) -> Callable[[Recipe], Need]:
    """Recipe -> what it needs, its ``micro_rows`` (default 1) at once."""

    def needed(recipe: Recipe) -> Need:
        fast = not _plain_reasons(recipe, facts, place.device)
        load = _workload(recipe, data, fast=fast, gpu=place.device != "cpu")
        found = need(facts, recipe.base.quantisation, _targets(recipe, facts), load, correction=correction)
        if teacher is None or recipe.distil is None:
            return found
        reading = replace(
            load,
            tokens=max(READ_AT_ONCE[place.device], recipe.train.rows.max_length),
            fast=not (teacher.config_blockers or load.gpu or recipe.train.run.engine == "plain"),
            number_bytes=NUMBER_BYTES[recipe.distil.teacher.quantisation.compute],
            full=False,
            dora=False,
        )
        return with_teacher(found, teacher, recipe.distil, reading)

    return needed


def _at_once(recipe: Recipe, micro_rows: int) -> Recipe:
    run = recipe.train.run.model_copy(update={"micro_rows": micro_rows})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"run": run})})


def _micro_rows(
    recipe: Recipe, data: DataSize, place: Machine, rows_per_step: int, needs: Callable[[Recipe], int]
) -> int:
    """Rows at once: what the recipe says, else the most that helps, fits and divides a step evenly.

    Several processes each get the same number of these micro-batches.
    """
    if recipe.train.run.micro_rows is not None:
        return recipe.train.run.micro_rows
    world = recipe.launch.processes * recipe.launch.nodes
    a_row = max(1.0, data.tokens / data.rows)
    helpful = TOKENS_AT_ONCE[place.device]
    for count in range(rows_per_step, 1, -1):
        if rows_per_step % (count * world) or count * a_row > helpful:
            continue
        if needs(_at_once(recipe, count)) <= place.memory_available_bytes:
            return count
    return 1


def _targets(recipe: Recipe, facts: BaseFacts) -> Trained:
    found = trained(facts, recipe.adapter)
    if found.parameters:
        return found
    names = sorted({shape.name.rsplit(".", 1)[-1] for shape in facts.linears})
    raise EnvironmentFault(
        "the adapter's targets match no layer of the base",
        where="adapter.targets",
        fix=f"name some of: {', '.join(names)}",
    )


def _plain_reasons(recipe: Recipe, facts: BaseFacts, device: str) -> list[str]:
    """Why the fast path is not taken, as the model stage will decide it; empty when it is."""
    if recipe.train.run.engine == "plain":
        return ["asked for by train.run.engine"]
    reasons = list(facts.config_blockers)
    if device != "cpu":
        reasons.append(f"the device is {device}")
    if recipe.adapter.dropout > 0:
        reasons.append("adapter.dropout is above 0")
    if recipe.adapter.trains_output:
        reasons.append("the output layer is trained")
    return reasons + list(recipe.launch.blockers)


def _workload(recipe: Recipe, data: DataSize, *, fast: bool, gpu: bool) -> Workload:
    """The largest micro-batch: full rows. The plain path lays a row's documents below each other, padded.

    A comparison (dpo, orpo, simpo) is one document here: both its sides stand in the row and go through the model
    together.
    """
    train = recipe.train
    length = train.rows.max_length
    document = min(length, data.longest or length)
    if not train.rows.packing:
        length = document
    tokens = (train.run.micro_rows or 1) * length
    if not fast:
        documents = ceil(Fraction(data.documents, data.rows)) * (train.run.micro_rows or 1)
        tokens = max(tokens, documents * document)
    prompts = recipe.evaluate.prompts
    prompt = max((len(text.encode()) for text in prompts), default=0)
    answer = prompt + 64 + recipe.evaluate.max_new_tokens if prompt else 0
    return Workload(
        tokens=tokens,
        document=document,
        fast=fast,
        gpu=gpu,
        checkpointing=train.run.gradient_checkpointing,
        dropout=recipe.adapter.dropout > 0,
        dora=recipe.adapter.dora,
        full=recipe.adapter.kind == "full",
        number_bytes=NUMBER_BYTES[recipe.base.quantisation.compute],
        optimizer=train.finer.optimizer,
        # a byte of a prompt is a token at worst; the template's words come on top
        answer_tokens=answer * min(len(prompts), PROMPTS_AT_ONCE),
        alike=data.alike,
    )


def _notes_on_shape(facts: BaseFacts, train: Train, rows_per_step: int, wanted_rows: int) -> list[str]:
    notes = []
    if facts.model_type not in select.SUPPORTED_TYPES:
        notes.append(f"activations are counted as for llama; layers of {facts.model_type} differ")
    if facts.experts:
        notes.append("experts stay unquantised: only plain linear layers become 4-bit")
    if rows_per_step * train.rows.max_length < train.batch_tokens:
        notes.append(
            f"a step holds {rows_per_step * train.rows.max_length} of {train.batch_tokens} batch_tokens"
        )
    if left := wanted_rows % rows_per_step:
        notes.append(f"the last step has {left} of {rows_per_step} rows")
    return notes
