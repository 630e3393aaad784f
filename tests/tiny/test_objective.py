"""Optimiser, schedule and loss beyond the usual: each against a computation of its own."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sovtune.errors import EnvironmentFault
from sovtune.fastpath.loss import next_token_loss
from sovtune.recipe_train import Finer
from sovtune.train.objective import document_lengths, noise_on_embeddings
from sovtune.train.rows import FlatCollator, PaddedCollator
from sovtune.train.settings import check_settings, tracker_environment
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(12)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


def recipe(*, schedule="cosine", run=None, **finer):
    plain = make_recipe(**(run or {}))
    section = plain.train.model_copy(update={"finer": Finer(**finer), "schedule": schedule})
    return plain.model_copy(update={"train": section})


@pytest.mark.parametrize(("smoothing", "z_weight"), [(0.1, 0.0), (0.0, 1e-2), (0.2, 1e-3)])
def test_smoothing_and_z_loss_are_what_the_formula_says(smoothing, z_weight):
    torch.manual_seed(0)
    hidden = torch.randn(1, 301, 16, requires_grad=True)
    head = torch.randn(50, 16)
    labels = torch.randint(0, 50, (1, 301))
    labels[0, ::3] = -100
    mine = next_token_loss(hidden, head, labels, smoothing=smoothing, z_weight=z_weight)
    logits, targets = (hidden[0, :-1] @ head.t()).double(), labels[0, 1:]
    logits, targets = logits[targets != -100], targets[targets != -100]
    wanted = torch.full(logits.shape, smoothing / 50, dtype=torch.float64)
    wanted[torch.arange(len(targets)), targets] += 1 - smoothing
    log_z = logits.exp().sum(-1).log()
    theirs = -(wanted * (logits - log_z[:, None])).sum() + z_weight * (log_z**2).sum()
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, hidden)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_both_engines_give_the_same_smoothed_losses(base, tmp_path):
    finer = {"label_smoothing": 0.1, "z_loss": 1e-2}
    fast = train(recipe(**finer), base, tmp_path / "fast", ROWS, steps=4)
    plain = train(recipe(run={"engine": "plain"}, **finer), base, tmp_path / "plain", ROWS, steps=4)
    assert losses(fast) == pytest.approx(losses(plain), rel=1e-4)
    usual = train(recipe(), base, tmp_path / "usual", ROWS, steps=1)
    assert losses(fast)[0] > losses(usual)[0] + 1e-2


def learning_rates(outcome):
    return [metrics.learning_rate for metrics in outcome.history]


def test_wsd_rises_stays_and_falls_in_a_straight_line(base, tmp_path):
    wsd = recipe(schedule="wsd", decay=0.5)
    wsd = wsd.model_copy(update={"train": wsd.train.model_copy(update={"warmup": 0.25})})
    rates = learning_rates(train(wsd, base, tmp_path / "run", make_rows(16), steps=8))
    assert rates == pytest.approx([0, 2.5e-3, 5e-3, 5e-3, 5e-3, 3.75e-3, 2.5e-3, 1.25e-3])


def test_lora_plus_moves_b_as_many_times_further(base, tmp_path):
    """AdamW's first step is the rate times the sign of the gradient: B moves by rate x ratio, A by rate."""
    moved = {}
    for name, settings in {"usual": {}, "plus": {"lora_plus": 16}}.items():
        flat = recipe(schedule="constant", **settings)
        flat = flat.model_copy(update={"train": flat.train.model_copy(update={"warmup": 0.0})})
        outcome = train(flat, base, tmp_path / name, ROWS, steps=1)
        state = load_file(outcome.adapter / "adapter_model.safetensors")
        moved[name] = torch.stack([v.abs().median() for k, v in state.items() if "lora_B" in k])
        assert learning_rates(outcome) == [5e-3]
    torch.testing.assert_close(moved["plus"], 16 * moved["usual"], rtol=1e-3, atol=0)


class Stop(Exception):
    """Stands for a crash in the middle of a run."""


@pytest.mark.parametrize(
    "finer", [{"lora_plus": 8, "schedule": "wsd", "decay": 0.5}, {"neftune": 5}], ids=["lora_plus", "neftune"]
)
def test_resume_equals_a_straight_run(base, tmp_path, finer):
    def crash(metrics, of):
        if metrics.step == 3:
            raise Stop

    straight = train(recipe(**finer), base, tmp_path / "straight", ROWS)
    with pytest.raises(Stop):
        train(recipe(**finer), base, tmp_path / "run", ROWS, progress=crash)
    resumed = train(recipe(**finer), base, tmp_path / "run", ROWS, resume=True)
    assert resumed.resumed_from == 2
    assert losses(resumed) == losses(straight)
    assert learning_rates(resumed) == learning_rates(straight)


def test_noise_is_as_large_as_neftune_says_for_every_document():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(320, 64).train()
    rows = list(make_rows(3, seed=1))
    flat, padded = FlatCollator()(rows), PaddedCollator(0)(rows)
    for batch in (flat, padded):
        ids = batch["input_ids"]
        with noise_on_embeddings(embedding, document_lengths(batch), 5.0):
            noise = (embedding(ids) - torch.nn.functional.embedding(ids, embedding.weight)).abs().detach()
        limit = 5.0 / (document_lengths(batch) * 64).sqrt().expand(ids.shape)
        most = noise.amax(-1)
        assert bool((most <= limit * (1 + 1e-5)).all()) and bool((most > 0.8 * limit).all())
        assert torch.equal(embedding(ids), torch.nn.functional.embedding(ids, embedding.weight))
    lengths = [length for row in rows for length in row["lengths"]]
    assert document_lengths(flat)[0].tolist() == [length for length in lengths for _ in range(length)]
    assert document_lengths(padded)[:, 0].tolist() == lengths
    with noise_on_embeddings(embedding.eval(), document_lengths(flat), 5.0):
        ids = flat["input_ids"]
        assert torch.equal(embedding(ids), torch.nn.functional.embedding(ids, embedding.weight))


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_neftune_reaches_the_model_in_both_engines(base, tmp_path, engine):
    without = losses(train(recipe(run={"engine": engine}), base, tmp_path / "a", ROWS, steps=1))
    with_it = losses(train(recipe(run={"engine": engine}, neftune=5), base, tmp_path / "b", ROWS, steps=1))
    assert with_it != without
    assert with_it == pytest.approx(without, rel=0.2)


def test_what_the_machine_cannot_do_is_refused_with_advice(monkeypatch):
    with pytest.raises(EnvironmentFault, match="adamw8bit needs a CUDA device") as caught:
        check_settings(recipe(optimizer="adamw8bit"), "cpu")
    assert "optimizer: adamw" in str(caught.value)
    check_settings(recipe(optimizer="adamw8bit"), "cuda")
    monkeypatch.setattr("sovtune.train.settings.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="mlflow is not installed") as caught:
        check_settings(recipe(run={"trackers": ["mlflow"]}), "cpu")
    assert 'pip install "sovtune[mlflow]"' in str(caught.value)


def test_trackers_write_into_the_run_folder_and_stay_offline(base, tmp_path):
    every = recipe(run={"trackers": ["tensorboard", "mlflow", "trackio", "wandb"]})
    settings = tracker_environment(every, tmp_path)
    assert settings["WANDB_MODE"] == "offline"
    places = [value for value in settings.values() if "/" in value]
    assert len(places) == 4
    assert all(str(tmp_path / "trackers") in place for place in places)
    assert tracker_environment(recipe(), tmp_path) == {}


def test_tensorboard_gets_the_metrics(base, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = train(recipe(run={"trackers": ["tensorboard"]}), base, tmp_path / "run", ROWS, steps=2)
    events = EventAccumulator(str(tmp_path / "run" / "trackers" / "tensorboard"))
    events.Reload()
    seen = [event.value for event in events.Scalars("train/loss")]
    assert seen == pytest.approx(losses(outcome))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2]
