"""Invariants of training on tiny real models: each compares with an independent way to the same number."""

import json
import math
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from sovtune.errors import RunFailed, RunInterrupted, TrainingDiverged
from sovtune.model import load_base, load_with_adapter, load_with_new_adapter
from sovtune.recipe_base import Quantisation
from sovtune.train import checkpoints
from sovtune.train.watch import LossGuard, read_metrics
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(12)
FEW_ROWS_OFTEN = make_rows(4, seed=5).select([0, 1, 2, 3] * 15)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """An uninterrupted run of six steps."""
    folder = tmp_path_factory.mktemp("straight")
    return train(make_recipe(), base, folder / "run", ROWS)


def adapter_of(outcome):
    return load_file(outcome.adapter / "adapter_model.safetensors")


def test_two_runs_are_equal_to_the_bit(base, straight, tmp_path):
    again = train(make_recipe(), base, tmp_path / "run", ROWS)
    assert losses(again) == losses(straight)
    for name, tensor in adapter_of(straight).items():
        assert torch.equal(adapter_of(again)[name], tensor), name


def test_the_loss_falls_and_starts_near_a_random_guess(base, straight, tmp_path):
    longer = losses(train(make_recipe(), base, tmp_path / "run", FEW_ROWS_OFTEN, steps=30))
    assert losses(straight)[0] == pytest.approx(math.log(320), abs=0.5)
    assert sum(longer[-5:]) / 5 < longer[0] - 0.5


def test_plain_engine_gives_the_same_losses(base, straight, tmp_path):
    plain = train(make_recipe(engine="plain"), base, tmp_path / "run", ROWS)
    assert losses(plain) == pytest.approx(losses(straight), rel=1e-4)


def test_two_rows_at_once_equal_two_rows_accumulated(base, straight, tmp_path):
    at_once = train(make_recipe(micro_rows=2), base, tmp_path / "run", ROWS)
    assert losses(at_once) == pytest.approx(losses(straight), abs=1e-5)


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_gradient_checkpointing_changes_nothing(base, tmp_path, engine):
    without = train(make_recipe(engine=engine), base, tmp_path / "a", ROWS, steps=3)
    with_it = train(
        make_recipe(engine=engine, gradient_checkpointing=True), base, tmp_path / "b", ROWS, steps=3
    )
    assert losses(with_it) == pytest.approx(losses(without), abs=1e-6)


def test_packed_rows_equal_documents_on_their_own(base, straight, tmp_path):
    """Each step's documents alone in rows: the same tokens and the same loss."""
    rows = []
    for row in ROWS:
        start = 0
        documents = []
        for length in row["lengths"]:
            end = start + length
            documents.append(
                {
                    "input_ids": row["input_ids"][start:end],
                    "labels": row["labels"][start:end],
                    "lengths": [length],
                }
            )
            start = end
        # three rows of one document each per packed row; missing ones are filled with a row without loss
        filler = {"input_ids": [5, 6], "labels": [-100, -100], "lengths": [2]}
        rows += documents + [filler] * (3 - len(documents))
    unpacked = train(make_recipe(), base, tmp_path / "run", Dataset.from_list(rows), rows_per_step=6)
    assert losses(unpacked) == pytest.approx(losses(straight), abs=1e-5)


def test_a_first_label_is_never_predicted_and_those_with_loss_matter(base, straight, tmp_path):
    """In a flat row the token before a document's first belongs to another document: its label must not count."""

    def with_first_labels(row):
        labels, start = list(row["labels"]), 0
        for length in row["lengths"]:
            labels[start] = row["input_ids"][start]
            start += length
        return {**row, "labels": labels}

    def with_other_targets(row):
        return {**row, "labels": [label if label == -100 else 3 for label in row["labels"]]}

    same = Dataset.from_list([with_first_labels(row) for row in ROWS])
    other = Dataset.from_list([with_other_targets(row) for row in ROWS])
    assert losses(train(make_recipe(), base, tmp_path / "a", same, steps=1)) == losses(straight)[:1]
    assert losses(train(make_recipe(), base, tmp_path / "b", other, steps=1)) != losses(straight)[:1]


def test_adapter_at_step_zero_is_the_base_and_the_base_never_changes(base):
    recipe = make_recipe(engine="plain")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    plain = load_base(base, Quantisation(kind="none", compute="float32"), "cpu")
    fresh = load_with_new_adapter(recipe, base).model
    assert torch.equal(fresh(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_frozen_weights_stay_and_the_adapter_moves(base, tmp_path):
    recipe = make_recipe()
    before = load_file(base / "model.safetensors")
    outcome = train(recipe, base, tmp_path / "run", ROWS, steps=2)
    loaded = load_with_adapter(base, recipe.base.quantisation, outcome.adapter)
    state = loaded.model.get_base_model().state_dict()
    for name, tensor in before.items():
        key = name if name in state else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(state[key], tensor), name
    assert all(
        float(tensor.abs().sum()) > 0 for name, tensor in adapter_of(outcome).items() if "lora_B" in name
    )


def test_saved_adapter_loads_in_plain_peft_with_the_same_logits(base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = make_recipe(engine="plain")
    loaded = load_with_new_adapter(recipe, base)
    from sovtune.train.engine import TrainJob, run

    job = TrainJob(
        recipe=recipe, rows=ROWS, steps=3, rows_per_step=2, tokenizer_folder=base, run_dir=tmp_path,
        fingerprint="x", progress=lambda metrics, of: None,
    )  # fmt: skip
    outcome = run(job, loaded, resume=False)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(outcome.adapter)).eval()
    torch.testing.assert_close(
        theirs(input_ids=ids).logits, loaded.model.eval()(input_ids=ids).logits, rtol=0, atol=1e-6
    )
    config = json.loads((outcome.adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("test/tiny", "main")
    expected = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in outcome.adapter.iterdir()} == expected


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_other_architectures_train_on_nf4(tmp_path, kind, tied):
    folder = make_base(tmp_path / "base", kind, tied=tied, dtype="bfloat16")
    outcome = train(
        make_recipe(quantised=True, compute="bfloat16"), folder, tmp_path / "run", FEW_ROWS_OFTEN, steps=30
    )
    assert losses(outcome)[-1] < losses(outcome)[0] - 0.5


class Stop(Exception):
    """Stands for a crash in the middle of a step."""


@pytest.mark.parametrize("crash_at", [1, 2, 3, 4, 5])
def test_resume_after_a_crash_equals_a_straight_run(base, straight, tmp_path, crash_at):
    def crash(metrics, of):
        if metrics.step == crash_at:
            raise Stop

    with pytest.raises(Stop):
        train(make_recipe(), base, tmp_path / "run", ROWS, progress=crash)
    resumed = train(make_recipe(), base, tmp_path / "run", ROWS, resume=True)
    assert losses(resumed) == losses(straight)
    assert [metrics.tokens for metrics in resumed.history] == [metrics.tokens for metrics in straight.history]
    for name, tensor in adapter_of(straight).items():
        assert torch.equal(adapter_of(resumed)[name], tensor), name
    assert resumed.resumed_from == ((crash_at - 1) // 2 * 2 or None)


def test_a_half_written_checkpoint_is_passed_over(base, straight, tmp_path):
    def crash(metrics, of):
        if metrics.step == 5:
            raise Stop

    with pytest.raises(Stop):
        train(make_recipe(), base, tmp_path / "run", ROWS, progress=crash)
    home = tmp_path / "run" / "checkpoints"
    half = home / "checkpoint-5"
    shutil.copytree(home / "checkpoint-4", half)
    (half / checkpoints.SEAL).unlink()
    damaged = home / "checkpoint-4" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    resumed = train(make_recipe(), base, tmp_path / "run", ROWS, resume=True)
    assert resumed.resumed_from == 2
    assert losses(resumed) == losses(straight)


def test_a_checkpoint_of_another_run_is_refused(base, tmp_path):
    train(make_recipe(), base, tmp_path / "run", ROWS, steps=2)
    with pytest.raises(RunFailed, match="another recipe"):
        checkpoints.newest(tmp_path / "run" / "checkpoints", fingerprint="different")


def test_a_rate_far_too_high_stops_with_advice_and_keeps_the_last_good_adapter(base, tmp_path):
    recipe = make_recipe()
    wild = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(
                update={"learning_rate": 1e30, "schedule": "linear", "warmup": 0.5}
            )
        }
    )
    rows = make_rows(60)
    with pytest.raises(TrainingDiverged) as caught:
        train(wild, base, tmp_path / "run", rows, steps=30)
    assert "learning_rate" in str(caught.value)
    kept = tmp_path / "run" / "adapter-last-good" / "adapter_model.safetensors"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(kept).values())


def test_loss_guard():
    guard = LossGuard()
    for step, loss in enumerate([2.0, 1.5, 1.0, 1.2, 0.9, 1.4]):
        guard.check(step, loss)
    with pytest.raises(TrainingDiverged, match="nan"):
        guard.check(7, math.nan)

    def rise():
        for step in range(8, 20):
            guard.check(step, 9.0)

    with pytest.raises(TrainingDiverged, match="rose to"):
        rise()


def test_ctrl_c_saves_and_resumes(base, straight, tmp_path):
    import os
    import signal

    def press(metrics, of):
        if metrics.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupted, match=r"after step [34] of 6"):
        train(make_recipe(), base, tmp_path / "run", ROWS, progress=press)
    assert losses(train(make_recipe(), base, tmp_path / "run", ROWS, resume=True)) == losses(straight)


def test_modules_that_cannot_learn_are_named(base, tmp_path):
    recipe = make_recipe()
    with pytest.raises(RunFailed, match="cannot be attached") as caught:
        load_with_new_adapter(
            recipe.model_copy(
                update={"adapter": recipe.adapter.model_copy(update={"targets": ("no_such_layer",)})}
            ),
            base,
        )
    assert "q_proj" in str(caught.value)


def test_metrics_have_full_precision_and_survive_a_cut_last_line(straight, tmp_path):
    path = straight.adapter.parent / "metrics.jsonl"
    assert [metrics.loss for metrics in read_metrics(path)] == losses(straight)
    cut = tmp_path / "metrics.jsonl"
    cut.write_text(path.read_text()[:-30])
    assert len(read_metrics(cut)) == 5
