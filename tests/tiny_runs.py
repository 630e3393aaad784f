"""Recipes, rows and runs for tests on tiny models."""

from __future__ import annotations

import random
from pathlib import Path

from datasets import Dataset

from sovtune.model import load_with_new_adapter
from sovtune.recipe import Card, DataSource, Recipe
from sovtune.recipe_adapter import Adapter
from sovtune.recipe_base import Base, Quantisation
from sovtune.recipe_train import Rows, Run, Train
from sovtune.train.engine import TrainJob, TrainOutcome, run
from sovtune.train.group import ALONE, Group
from sovtune.train.taught import TaughtStore


def make_recipe(*, quantised: bool = False, compute: str = "float32", **run_settings) -> Recipe:
    """A recipe for a tiny base; ``run_settings`` go into train.run."""
    return Recipe(
        name="tiny",
        language="ko",
        seed=3,
        method="sft",
        base=Base(
            model="test/tiny", revision="main", licence="Apache-2.0",
            quantisation=Quantisation(kind="nf4" if quantised else "none", compute=compute),
        ),
        adapter=Adapter(kind="qlora" if quantised else "lora", rank=4, alpha=8),
        data=(DataSource(card="x.yaml"),),
        train=Train(
            steps=6, batch_tokens=128, learning_rate=5e-3, rows=Rows(max_length=64),
            run=Run(checkpoint_steps=2, **run_settings),
        ),
        card=Card(licence="apache-2.0"),
    )  # fmt: skip


def make_rows(num_rows: int, *, seed: int = 0, vocabulary: int = 300) -> Dataset:
    """Rows of one to three documents with masked prompts; ids are random but learnable (they count upwards)."""
    generator = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        ids, labels, lengths = [], [], []
        for _ in range(generator.randint(1, 3)):
            length, prompt = generator.randint(6, 20), generator.randint(1, 4)
            start = generator.randint(3, 250)
            document = [start + index % 40 for index in range(length)]
            ids += document
            labels += [-100] * prompt + document[prompt:]
            lengths.append(length)
        rows.append({"input_ids": ids, "labels": labels, "lengths": lengths})
    return Dataset.from_list(rows)


def train(
    recipe: Recipe,
    base: Path,
    run_dir: Path,
    rows: Dataset,
    *,
    steps: int = 6,
    rows_per_step: int = 2,
    resume: bool = False,
    progress=lambda metrics, of: None,
    group: Group = ALONE,
    taught: TaughtStore | None = None,
) -> TrainOutcome:
    """Run the engine on prepared rows."""
    run_dir.mkdir(parents=True, exist_ok=True)
    job = TrainJob(
        recipe=recipe, rows=rows, steps=steps, rows_per_step=rows_per_step, tokenizer_folder=base,
        run_dir=run_dir, fingerprint="test", progress=progress, group=group, taught=taught,
    )  # fmt: skip
    return run(job, load_with_new_adapter(recipe, base), resume=resume)


def losses(outcome: TrainOutcome) -> list[float]:
    """The loss of every step."""
    return [metrics.loss for metrics in outcome.history]


def golden_environment() -> dict[str, str]:
    """What the recorded numbers depend on besides our code."""
    import platform
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft")} | {
        "machine": platform.machine()
    }


def golden_cases(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Loss and gradient norm of eight steps, for three architectures, tied and untied, fp32."""
    import torch

    from tiny_models import make_base

    torch.set_num_threads(1)
    cases = {}
    for kind in ("llama", "qwen2", "qwen3"):
        for tied in (True, False):
            name = f"{kind}-{'tied' if tied else 'untied'}"
            base = make_base(folder / name, kind, tied=tied)
            outcome = train(make_recipe(), base, folder / f"run-{name}", make_rows(16, seed=9), steps=8)
            cases[name] = [{"loss": m.loss, "grad_norm": m.grad_norm} for m in outcome.history]
    return cases
