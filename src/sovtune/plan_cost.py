"""Time and energy of a run: counted operations over a speed that was measured, or that a data sheet promises."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sovtune.adapter_shapes import trained
from sovtune.architecture import BaseFacts
from sovtune.errors import UsageError
from sovtune.machine import Machine
from sovtune.recipe import Recipe
from sovtune.records import TrainReport, read_record

EXTRA_FORWARD = {"dpo": 1, "kto": 3}
"""Forward passes besides training: the reference; for kto also mismatched answers, under reference and model."""
JOULES_PER_KWH = 3.6e6


class Speed(NamedTuple):
    """Training speed that was measured, and where (or why there is none); ``watts`` drawn meanwhile, if known."""

    tokens_per_second: float | None
    note: str
    watts: float | None = None


class Cost(NamedTuple):
    """Seconds and kilowatt-hours of training, None where unknown, and how they were found."""

    seconds: float | None
    energy_kwh: float | None
    notes: tuple[str, ...]


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
    return Speed(
        None,
        f"time is not estimated: no earlier run of this base in {runs_dir.name}{passed}; "
        "`sovtune plan RECIPE --probe` measures it",
    )


def cost(
    recipe: Recipe, facts: BaseFacts, tokens: int, *, supervised: float, place: Machine, speed: Speed | None
) -> Cost:
    """Time and energy of training.

    Args:
        recipe: what is to be run.
        facts: shapes of the base.
        tokens: training tokens.
        supervised: share of them that has a loss.
        place: the machine; its ``flops`` are used where no speed was measured.
        speed: measured on this machine.
    """
    if speed is not None and speed.tokens_per_second:
        seconds = tokens / speed.tokens_per_second
        notes, watts = [speed.note], speed.watts
    elif place.flops is not None:
        flop = work_flop(recipe, facts, tokens, supervised=supervised)
        seconds, watts = flop / place.flops, place.watts
        notes = [place.speed_note or f"time from {flop:.3g} FLOP at {place.flops:.3g} FLOP/s"]
    else:
        return Cost(
            None, None, (speed.note if speed is not None else "time is not estimated: nothing was measured",)
        )
    if watts is None:
        reason = "no data sheet tells its power" if place.device == "cuda" else "nothing here measures power"
        return Cost(seconds, None, (*notes, f"energy is not estimated: {reason}"))
    notes.append(f"energy at {watts:.0f} W, without cooling and the rest of the building")
    return Cost(seconds, seconds * watts / JOULES_PER_KWH, tuple(notes))


def work_flop(recipe: Recipe, facts: BaseFacts, tokens: int, *, supervised: float) -> float:
    """Floating-point operations of matrix products in a run.

    A frozen weight costs 2 in the forward pass and 2 for the gradient of its input; its own gradient is not made.
    Trained weights cost 6. Attention looks at half the row on average: 2 products forward, 4 back. Checkpointing
    repeats the forward pass. The output layer works for supervised tokens only.

    Args:
        recipe: method, adapter, lengths and checkpointing.
        facts: shapes of the base.
        tokens: training tokens.
        supervised: share of them that has a loss.
    """
    again = 1 if recipe.train.run.gradient_checkpointing else 0
    extra = EXTRA_FORWARD.get(recipe.method, 0)
    full = recipe.adapter.kind == "full"
    frozen = 0 if full else facts.linear
    learnt = facts.linear if full else trained(facts, recipe.adapter).parameters
    attention = facts.layers * facts.heads * facts.head_size * recipe.train.rows.max_length
    head = facts.vocabulary * facts.hidden * supervised
    forwards = 2 * (1 + again + extra)
    per_token = (
        (forwards + 2) * frozen
        + (forwards + 4) * learnt
        + (forwards + 4) * attention
        + (2 * (1 + extra) + (4 if recipe.adapter.trains_output else 2)) * head
    )
    return tokens * per_token
