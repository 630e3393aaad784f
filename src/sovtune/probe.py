"""One real step at the longest batch, in a process of its own: what it needs and how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovtune.errors import EnvironmentFault, RunFailed
from sovtune.machine import rapl_joules
from sovtune.memory import RUNTIME_GPU
from sovtune.plan_changes import with_values
from sovtune.recipe import Recipe
from sovtune.stack import import_stack

if TYPE_CHECKING:
    from sovtune.train.watch import StepMetrics

STEPS = 2
"""The optimizer makes its state at the end of the first step: only the second needs all there is. It also knows every
shape already, so that its time is that of the steps to come."""
KILLED = -9


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the steps needed: bytes at the peak, seconds and tokens of the last, joules where they can be read.

    ``out_of_memory`` tells why there is no peak: the step did not fit.
    """

    peak_bytes: int | None
    tokens: int
    seconds: float
    joules: float | None = None
    out_of_memory: str | None = None


def heaviest(rows: Any, count: int) -> list[dict[str, Any]]:
    """The rows with the most tokens, among equals those with the longest documents: the longest batch there can be.

    Args:
        rows: prepared rows with ``input_ids``, ``labels`` and ``lengths``.
        count: rows of a micro-batch.
    """
    lengths = rows["lengths"]
    order = sorted(range(len(lengths)), key=lambda at: (-sum(lengths[at]), -max(lengths[at]), at))
    return [dict(rows[at]) for at in order[:count]]


def run_probe(
    recipe: Recipe, base: Path, rows: list[dict[str, Any]], *, rows_per_step: int | None = None
) -> Probe:
    """Do the steps in a child process and wait for it.

    Args:
        recipe: with paths resolved; ``micro_rows`` says how many of the rows go through at once.
        base: the base's folder.
        rows: a micro-batch (see ``heaviest``).
        rows_per_step: go through the rows once, so many in a step; without it both steps take all of them.

    Raises:
        RunFailed: the child failed for another reason than memory.
    """
    with tempfile.TemporaryDirectory(prefix="sovtune-probe-") as folder:
        job = Path(folder) / "job.json"
        values = {
            "recipe": recipe.model_dump(mode="json"),
            "base": str(base),
            "rows": rows if rows_per_step else rows * STEPS,
            "rows_per_step": rows_per_step or len(rows),
        }
        job.write_text(json.dumps(values), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "sovtune.probe", str(job)], capture_output=True, text=True, check=False
        )
    if done.returncode == KILLED:
        return Probe(peak_bytes=None, tokens=0, seconds=0.0, out_of_memory="the system killed the probe")
    if done.returncode:
        raise RunFailed(
            "the probe's step failed",
            why=(done.stderr.strip().splitlines() or ["it said nothing"])[-1],
            fix="`sovtune train RECIPE` shows the whole error; `sovtune plan RECIPE` plans without a probe",
        )
    return Probe(**json.loads(done.stdout.splitlines()[-1]))


def _child(job: Path) -> Probe:
    """Load the base, train on the rows, say what that took."""
    values = json.loads(job.read_text(encoding="utf-8"))
    _quiet()
    import_stack()
    from datasets import Dataset

    from sovtune.model import load_with_new_adapter
    from sovtune.train import engine

    rows, rows_per_step = values["rows"], values["rows_per_step"]
    steps = len(rows) // rows_per_step
    recipe = with_values(
        Recipe.model_validate(values["recipe"]),
        {"train.run.out_of_memory": "stop", "train.run.trackers": [], "train.run.checkpoint_steps": steps},
    )
    base = Path(values["base"])
    ends: list[float] = []
    joules: list[float | None] = []

    def note(metrics: StepMetrics, of: int) -> None:
        ends.append(time.perf_counter())
        joules.append(rapl_joules())

    try:
        loaded = load_with_new_adapter(recipe, base)
        run = engine.TrainJob(
            recipe=recipe,
            rows=Dataset.from_list(rows),
            steps=steps,
            rows_per_step=rows_per_step,
            tokenizer_folder=base,
            run_dir=job.parent,
            fingerprint="probe",
            progress=note,
        )
        outcome = engine.run(run, loaded, resume=False)
    except EnvironmentFault as error:
        if "out of memory" not in error.what:
            raise
        return Probe(peak_bytes=None, tokens=0, seconds=0.0, out_of_memory=error.why)
    used = joules[-1] - joules[-2] if joules[-1] is not None and joules[-2] is not None else None
    return Probe(
        peak_bytes=_peak(loaded.device, outcome.peak_rss_bytes),
        tokens=outcome.history[-1].tokens - outcome.history[-2].tokens,
        seconds=ends[-1] - ends[-2],
        joules=used,
    )


def _quiet() -> None:
    """No network for the child, and no talk of libraries."""
    import logging
    import os
    import warnings

    from sovtune.network import air_gap_environment, allowed_hosts, guard_egress

    air_gap_environment(offline=True)
    guard_egress(allowed_hosts([]))
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _peak(device: str, resident: int) -> int:
    if device == "cpu":
        return resident
    import torch

    return torch.cuda.max_memory_reserved() + RUNTIME_GPU


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_child(Path(sys.argv[1])))) + "\n")
