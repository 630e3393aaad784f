"""DeepSpeed's ZeRO-3 in two processes, each of which holds half of everything, does what one process does."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from process_group import in_group
from sovtune.errors import RunFailed, SovtuneError, TrainingDiverged
from sovtune.recipe_launch import Launch
from sovtune.train.checkpoints import SEAL
from sovtune.train.group import ALONE, joined
from tiny_models import make_base
from tiny_processes import adapter, as_worker, check_equal, train_in
from tiny_runs import losses, make_recipe, make_rows
from tiny_runs import train as run_engine

TIMEOUT_S = 400
"""DeepSpeed compiles its exchange through shared memory when it is used on a machine for the first time."""
COMMON = {"rows_per_step": 4, "engine": "plain"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


def _with_zero3(base: Path, run_dir: Path, changes: dict) -> list[tuple[float, ...]] | str:
    try:
        return as_worker(base, run_dir, strategy="zero3", **COMMON, **changes)
    except SovtuneError as error:
        return f"{type(error).__name__}: {error}"


def in_two(base: Path, run_dir: Path, **changes) -> list[tuple[float, ...]] | str:
    """What the first of two processes knows; the other one must know the same."""
    first, second = in_group(2, _with_zero3, base, run_dir, changes, timeout_s=TIMEOUT_S)
    assert first == second
    return first


@pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
def test_halves_are_one_and_go_on(base, tmp_path, quantised) -> None:
    """Straight, and stopped by Ctrl-C and gone on, against one process."""
    straight = train_in(ALONE, base, tmp_path / "straight", quantised=quantised, **COMMON)
    wanted = [pytest.approx((m.loss, m.grad_norm), abs=1e-5) for m in straight.history]
    whole = in_two(base, tmp_path / "whole", quantised=quantised)
    assert [step[:2] for step in whole] == wanted
    check_equal(tmp_path / "straight", tmp_path / "whole")
    assert "after step 3 of 6" in in_two(base, tmp_path / "stopped", quantised=quantised, interrupt_at=2)
    resumed = in_two(base, tmp_path / "stopped", quantised=quantised)
    assert [step[:2] for step in resumed] == wanted
    check_equal(tmp_path / "straight", tmp_path / "stopped")


def test_bf16_learns_like_one_process(base, tmp_path) -> None:
    """The base in bf16, the adapter in fp32; matrices of other shapes are rounded in other places."""
    straight = train_in(ALONE, base, tmp_path / "straight", compute="bfloat16", **COMMON)
    whole = in_two(base, tmp_path / "whole", compute="bfloat16")
    assert [step[0] for step in whole] == pytest.approx(losses(straight), rel=5e-3)
    assert all(torch.isfinite(tensor).all() for tensor in adapter(tmp_path / "whole").values())


def test_checkpoints_in_parts_and_whole_ones_are_not_mixed(base, tmp_path) -> None:
    in_two(base, tmp_path / "parts", interrupt_at=2)
    with pytest.raises(RunFailed, match="cannot be read by the processes of this run") as caught:
        train_in(ALONE, base, tmp_path / "parts", **COMMON)
    assert "a part from each of 2 processes with zero3; what this run reads: whole" in str(caught.value)
    seals = list((tmp_path / "parts" / "checkpoints").glob(f"*/{SEAL}"))
    assert seals, "nothing was removed"
    assert {json.loads(seal.read_text())["layout"][:6] for seal in seals} == {"a part"}
    in_group(2, partial(as_worker, base, tmp_path / "whole", interrupt_at=2, **COMMON))
    told, _ = in_group(2, _with_zero3, base, tmp_path / "whole", {}, timeout_s=TIMEOUT_S)
    assert told.startswith("RunFailed"), told
    assert "the optimizer's state in it: whole; what this run reads: a part from each of 2" in told


def _of_recipe(base: Path, run_dir: Path, changes: dict, strategy: str = "zero3") -> list[float] | str:
    """Losses of 6 steps with other values in the recipe than the settings of a run; ``ddp`` is one process."""
    torch.set_num_threads(1)
    recipe = make_recipe(engine="plain")
    processes = 1 if strategy == "ddp" else 2
    finer = recipe.train.finer.model_copy(update=changes.get("finer", {}))
    recipe = recipe.model_copy(
        update={
            "launch": Launch(processes=processes, strategy=strategy),
            "train": recipe.train.model_copy(update={"finer": finer, **changes.get("train", {})}),
            "adapter": recipe.adapter.model_copy(update=changes.get("adapter", {})),
        }
    )
    with joined(processes) as group:
        try:
            return losses(run_engine(recipe, base, run_dir, make_rows(24), rows_per_step=4, group=group))
        except TrainingDiverged as error:
            return str(error)


VARIANTS = {
    "rows of the vocabulary": {"adapter": {"vocabulary": "all"}},
    "dora": {"adapter": {"dora": True}},
    "pissa": {"adapter": {"init": "pissa"}},
    "lora plus": {"finer": {"lora_plus": 4.0}},
    "smoothing": {"finer": {"label_smoothing": 0.1, "z_loss": 1e-4}},
}


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_other_adapters_and_losses_in_halves(base, tmp_path, changes, strategy) -> None:
    """Each of them reads weights or makes a loss in a way of its own."""
    first, second = in_group(2, _of_recipe, base, tmp_path / "two", changes, strategy, timeout_s=TIMEOUT_S)
    assert first == second
    assert first == pytest.approx(_of_recipe(base, tmp_path / "one", changes, "ddp"), abs=1e-5)


def test_a_diverged_run_keeps_the_last_good_adapter(base, tmp_path) -> None:
    wild = {"train": {"learning_rate": 1e30, "schedule": "linear", "warmup": 0.5}}
    told = in_group(2, _of_recipe, base, tmp_path, wild, timeout_s=TIMEOUT_S)
    assert all("kept as adapter-last-good" in text for text in told), told
    kept = load_file(tmp_path / "adapter-last-good" / "adapter_model.safetensors")
    sealed = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    assert kept.keys() == sealed.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in sealed.items())


def test_full_training_in_halves(base, tmp_path) -> None:
    gentle = {"adapter": {"kind": "full"}, "train": {"learning_rate": 1e-3}}
    first, second = in_group(2, _of_recipe, base, tmp_path / "halves", gentle, timeout_s=TIMEOUT_S)
    assert first == second
    assert first == pytest.approx(_of_recipe(base, tmp_path / "whole", gentle, "ddp"), abs=1e-5)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "halves"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)
