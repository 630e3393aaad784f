"""Runs of tiny models by several processes, and what they must have in common with those of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from sovtune.errors import RunInterrupted
from sovtune.model import load_with_new_adapter
from sovtune.recipe_launch import Launch
from sovtune.train.engine import TrainJob, TrainOutcome, run
from sovtune.train.group import Group, joined
from tiny_runs import make_recipe, make_rows

ROWS_PER_STEP = 5  # an odd number: one process has more of each step than the other


def train_in(
    group: Group,
    base: Path,
    run_dir: Path,
    *,
    interrupt_at: int | None = None,
    strategy: str = "ddp",
    rows_per_step: int = ROWS_PER_STEP,
    **changes,
) -> TrainOutcome:
    """Six steps with what the run settings say; Ctrl-C reaches one process of two after a step."""
    recipe = make_recipe(**changes)
    if strategy != "ddp":
        recipe = recipe.model_copy(update={"launch": Launch(processes=2, strategy=strategy)})
    run_dir.mkdir(parents=True, exist_ok=True)

    def progress(metrics, of):
        if metrics.step == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    job = TrainJob(
        recipe=recipe, rows=make_rows(6 * rows_per_step), steps=6, rows_per_step=rows_per_step, tokenizer_folder=base,
        run_dir=run_dir, fingerprint="test", progress=progress, group=group,
    )  # fmt: skip
    return run(job, load_with_new_adapter(recipe, base), resume=True)


def as_worker(base: Path, run_dir: Path, **changes) -> list[tuple[float, ...]] | str:
    torch.set_num_threads(1)
    with joined(2) as group:
        try:
            outcome = train_in(group, base, run_dir, **changes)
        except RunInterrupted as error:
            return str(error)
        return [(m.loss, m.grad_norm, m.tokens, m.supervised_tokens) for m in outcome.history]


def adapter(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "adapter" / "adapter_model.safetensors")


def check_equal(run_dir: Path, other: Path) -> None:
    first, second = adapter(run_dir), adapter(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-5)
