"""The plan of a run: steps, tokens, memory by part, time. Arithmetic only, without torch, before any step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

from sovtune.architecture import BaseFacts, LinearShape, read_base_facts
from sovtune.errors import DataRefused, EnvironmentFault, UsageError
from sovtune.fastpath import select
from sovtune.machine import Machine, this_machine
from sovtune.memory import GB, Workload, adapted_linears, adapter_parameters, parts
from sovtune.recipe import Recipe
from sovtune.recipe_train import Train
from sovtune.records import Plan, TrainReport, read_record

__all__ = ["BaseFacts", "DataSize", "Machine", "Speed", "estimate_data", "make_plan", "previous_speed"]
__all__ += ["read_base_facts", "steps_for", "this_machine", "work_flop"]

BYTES_PER_TOKEN = 3.0
"""For data that was not tokenised yet. Measured range: 1.3 (SmolLM2 on Korean) to 4.5 (Qwen3 on English)."""
NUMBER_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """How much data there is; ``longest`` document in tokens; ``estimated`` says how the rest was guessed."""

    tokens: int
    supervised_tokens: int
    rows: int
    documents: int
    longest: int | None = None
    estimated: str = ""


class Speed(NamedTuple):
    """Training speed of an earlier run, and which run that was (or why there is none)."""

    tokens_per_second: float | None
    note: str


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


def previous_speed(runs_dir: Path, facts: BaseFacts) -> Speed:
    """Speed of the newest finished run of this base in a runs folder; its parameter count tells the base."""
    unreadable = []
    for path in sorted(runs_dir.glob("*/train.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            report = read_record(TrainReport, path)
        except UsageError:  # an old version wrote it: no reason to refuse a plan, but worth a word
            unreadable.append(path.parent.name)
            continue
        if report.total_parameters - report.trainable_parameters == facts.parameters:
            speed = report.tokens_per_second
            return Speed(speed, f"time from run {path.parent.name}: {speed:.0f} tokens/s on {report.device}")
    passed = f" ({', '.join(unreadable)}: train.json cannot be read)" if unreadable else ""
    return Speed(None, f"time is not estimated: no earlier run of this base in {runs_dir.name}{passed}")


def make_plan(
    recipe: Recipe,
    facts: BaseFacts,
    data: DataSize,
    *,
    machine: Machine | None = None,
    speed: Speed | None = None,
) -> Plan:
    """Count steps, tokens and bytes before anything is loaded.

    Args:
        recipe: what is to be run.
        facts: shapes of the base, from ``read_base_facts``.
        data: size of the prepared data, or an estimate of it.
        machine: where; default this machine as it is now.
        speed: of an earlier run (``previous_speed``); without it and ``machine.flops`` time is unknown.

    Raises:
        DataRefused: there is nothing to train on.
        EnvironmentFault: the model type has no known targets, no layer matches, or the memory of a CUDA
            device is unknown.
    """
    train = recipe.train
    steps, rows_per_step, wanted_rows = steps_for(train, data.rows, data.tokens)
    tokens = max(1, round(Fraction(data.tokens * wanted_rows, data.rows)))
    place = machine or this_machine(train.run.device)
    linears = _targets(recipe, facts)
    reasons = _plain_reasons(recipe, facts, place.device)
    load = _workload(recipe, data, fast=not reasons)
    memory = _memory(recipe, facts, linears, load, place.device)
    fits = required_bytes(memory) <= place.memory_available_bytes
    notes = ["memory is an estimate from shapes; measured peaks lay between 0.8 and 1.25 times of it"]
    notes += [data.estimated] if data.estimated else []
    notes += [f"plain engine: {reason}" for reason in reasons]
    notes += _notes_on_shape(facts, train, rows_per_step, wanted_rows)
    if not fits:
        notes += _changes(recipe, facts, linears, load, place)
    seconds, how = _seconds(tokens, recipe, facts, data, place, speed)
    notes.append(how)
    return Plan(
        steps=steps,
        rows_per_step=rows_per_step,
        tokens=tokens,
        epochs=wanted_rows / data.rows,
        seconds=seconds,
        memory_bytes=memory,
        memory_available_bytes=place.memory_available_bytes,
        fits=fits,
        notes=tuple(notes),
    )


def _targets(recipe: Recipe, facts: BaseFacts) -> tuple[LinearShape, ...]:
    linears = adapted_linears(facts, recipe.adapter)
    if linears:
        return linears
    names = sorted({shape.name.rsplit(".", 1)[-1] for shape in facts.linears})
    raise EnvironmentFault(
        "the adapter's targets match no layer of the base",
        where="adapter.targets",
        fix=f"name some of: {', '.join(names)}",
    )


def required_bytes(memory: dict[str, int]) -> int:
    """The part of the peak that must be there; the system may take back pages of the mapped base file."""
    return sum(memory.values()) - memory["base_file"]


def _plain_reasons(recipe: Recipe, facts: BaseFacts, device: str) -> list[str]:
    """Why the fast path is not taken, as the model stage will decide it; empty when it is."""
    if recipe.train.run.engine == "plain":
        return ["asked for by train.run.engine"]
    reasons = list(facts.config_blockers)
    if device != "cpu":
        reasons.append(f"the device is {device}")
    if recipe.adapter.dropout > 0:
        reasons.append("adapter.dropout is above 0")
    return reasons


def _workload(recipe: Recipe, data: DataSize, *, fast: bool) -> Workload:
    """The largest micro-batch: full rows. The plain path lays a row's documents below each other, padded."""
    train = recipe.train
    length = train.rows.max_length
    document = min(length, data.longest or length)
    if not train.rows.packing:
        length = document
    tokens = (train.run.micro_rows or 1) * length
    if not fast:
        documents = ceil(Fraction(data.documents, data.rows)) * (train.run.micro_rows or 1)
        tokens = max(tokens, documents * document)
    return Workload(
        tokens=tokens,
        document=document,
        fast=fast,
        checkpointing=train.run.gradient_checkpointing,
        rank=recipe.adapter.rank,
        dropout=recipe.adapter.dropout > 0,
        number_bytes=NUMBER_BYTES[recipe.base.quantisation.compute],
    )


def _memory(
    recipe: Recipe, facts: BaseFacts, linears: tuple[LinearShape, ...], load: Workload, device: str
) -> dict[str, int]:
    memory = parts(facts, recipe.base.quantisation, linears, load)
    # A GPU's memory holds neither the mapped file nor Python; its own context takes the place of the process.
    return memory if device == "cpu" else {**memory, "base_file": 0, "loading": 0}


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


def _changes(
    recipe: Recipe, facts: BaseFacts, linears: tuple[LinearShape, ...], load: Workload, place: Machine
) -> list[str]:
    """Changes that save at least 1 %, cheapest first, each on its own, with what the run would then need."""
    rows = recipe.train.run.micro_rows or 1
    half = max(1, load.tokens // 2)
    tries = (
        ("train.run.micro_rows: 1", replace(load, tokens=load.tokens // rows)),
        ("train.run.gradient_checkpointing: true (about 0.7x the speed)", replace(load, checkpointing=True)),
        ("half of train.rows.max_length", replace(load, tokens=half, document=min(load.document, half))),
        ("half of adapter.rank", replace(load, rank=max(1, load.rank // 2))),
    )
    now = required_bytes(_memory(recipe, facts, linears, load, place.device))
    needs = [
        (words, required_bytes(_memory(recipe, facts, linears, less, place.device))) for words, less in tries
    ]
    return [f"with {words} it needs {need / GB:.2f} GB" for words, need in needs if need < 0.99 * now]


def _seconds(
    tokens: int, recipe: Recipe, facts: BaseFacts, data: DataSize, place: Machine, speed: Speed | None
) -> tuple[float | None, str]:
    if speed is not None and speed.tokens_per_second:
        return tokens / speed.tokens_per_second, speed.note
    if place.flops is not None:
        flop = work_flop(recipe, facts, tokens, supervised=data.supervised_tokens / data.tokens)
        return flop / place.flops, f"time from {flop:.3g} FLOP at {place.flops:.3g} FLOP/s"
    return None, speed.note if speed is not None else "time is not estimated: no earlier run was given"


def work_flop(recipe: Recipe, facts: BaseFacts, tokens: int, *, supervised: float) -> float:
    """Floating-point operations of matrix products in a run.

    A frozen weight costs 2 in the forward pass and 2 for the gradient of its input; its own gradient is not
    made. An adapter's weights cost 6. Attention looks at half the row on average: 2 products forward, 4 back.
    Checkpointing repeats the forward pass. The output layer works for supervised tokens only.

    Args:
        recipe: adapter, lengths and checkpointing.
        facts: shapes of the base.
        tokens: training tokens.
        supervised: share of them that has a loss.
    """
    again = 1 if recipe.train.run.gradient_checkpointing else 0
    adapter = adapter_parameters(adapted_linears(facts, recipe.adapter), recipe.adapter.rank)
    attention = facts.layers * facts.heads * facts.head_size * recipe.train.rows.max_length
    head = 4 * facts.vocabulary * facts.hidden * supervised
    per_token = (
        (4 + 2 * again) * facts.linear + (6 + 2 * again) * adapter + (6 + 2 * again) * attention + head
    )
    return tokens * per_token
