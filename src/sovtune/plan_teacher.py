"""What a teacher costs before training begins: bytes while it reads the rows, and operations."""

from __future__ import annotations

from dataclasses import replace

from sovtune.architecture import BaseFacts
from sovtune.memory import (
    FP32,
    LOSS_AT_ONCE,
    RUNTIME,
    RUNTIME_GPU,
    Need,
    Workload,
    chunk_bytes,
    filled_up,
    quantising_bytes,
    scratch_bytes,
    stored_weights,
)
from sovtune.plan_cost import Cost, work_flop
from sovtune.recipe import Recipe
from sovtune.recipe_distil import Distil

PHASE = "teacher"
READ_AT_ONCE = {"cpu": 1024, "cuda": 4096}
"""Tokens that a teacher reads at once: nothing is learnt, so that more would save little and take memory."""
HELD = 0.6
"""Freed memory that is held between rows, as a share of what reading makes: within -3 and +5 % of the peaks that
scripts/bench_teacher.py measures (SmolLM2-135M and Qwen2.5-Coder-1.5B, in bf16 and in NF4)."""
BYTES = 4
"""Of an id and of a log-probability, as train.taught writes them."""
COPIES = 4
"""Log-probabilities, those without the kept tokens, what sums them up, and in bf16 a copy of the logits, in fp32."""


def with_teacher(found: Need, teacher: BaseFacts, section: Distil, load: Workload) -> Need:
    """The need of a run with that of its teacher, who reads the rows before the base is loaded.

    Args:
        found: of the run without a teacher.
        teacher: shapes of the teacher.
        section: how it is stored.
        load: the rows it reads at once, by which engine.
    """
    phases = {**found.phases, PHASE: reading_bytes(teacher, section, load)}
    parts = {**found.parts, "beyond_training": max(phases.values()) - phases["training"]}
    return replace(found, parts=parts, phases=phases)


def reading_bytes(teacher: BaseFacts, section: Distil, load: Workload) -> int:
    """Peak of a process in which the teacher is loaded and reads; nothing is kept for a backward pass."""
    load = replace(load, tokens=filled_up(load.tokens) if load.fast else load.tokens)
    quantisation, width = section.teacher.quantisation, load.number_bytes
    # The plain engine needs all logits where a base does something to them; it is counted as if all of them did.
    logits = chunk_bytes(teacher, load) if load.fast else 2 * load.tokens * teacher.vocabulary * width
    at_once = max(LOSS_AT_ONCE, teacher.vocabulary)
    reading = scratch_bytes(teacher, quantisation, load) + logits + COPIES * at_once * FP32
    reading += 4 * load.tokens * teacher.hidden * FP32  # the hidden state, its norm, and a layer's output
    weights = sum(stored_weights(teacher, quantisation, load).values())
    runtime = RUNTIME_GPU if load.gpu else RUNTIME
    return runtime + weights + max(quantising_bytes(teacher, quantisation), round((1 + HELD) * reading))


def cost_with_teacher(
    spent: Cost,
    recipe: Recipe,
    facts: BaseFacts,
    teacher: BaseFacts,
    tokens: tuple[int, int],
    supervised: float,
) -> Cost:
    """Time and energy with the teacher's reading, at the speed in operations that training has.

    Args:
        spent: of training.
        recipe: what is to be run.
        facts: shapes of the base.
        teacher: shapes of the teacher.
        tokens: of training, and of the rows that are read, each once.
        supervised: share of them that has a loss.
    """
    trained, read = tokens
    attention = teacher.layers * teacher.heads * teacher.head_size * recipe.train.rows.max_length
    head = teacher.vocabulary * teacher.hidden * supervised
    share = read * 2 * (teacher.linear + attention + head)
    share /= work_flop(recipe, facts, trained, supervised=supervised)
    written = read * supervised * (2 * recipe.distil.top + 1) * BYTES if recipe.distil is not None else 0
    note = (
        f"the teacher's reading is {share:.0%} of the training and takes {written / 1e9:.1f} GB of the cache; "
        "rows that it has read before cost nothing"
    )
    return Cost(
        seconds=None if spent.seconds is None else spent.seconds * (1 + share),
        energy_kwh=None if spent.energy_kwh is None else spent.energy_kwh * (1 + share),
        notes=(*spent.notes, note),
    )
