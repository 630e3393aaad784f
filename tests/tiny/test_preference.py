"""Preference methods on tiny real models: losses and gradients by hand, and the invariants of the loop."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from process_group import in_group
from sovtune.data.chat import IGNORE
from sovtune.errors import DataRefused
from sovtune.model import load_with_new_adapter
from sovtune.recipe import Preference
from sovtune.recipe_launch import Launch
from sovtune.recipe_preference import PreferenceSettings, preference_settings
from sovtune.train.group import joined
from sovtune.train.judged_rows import JudgedCollator, JudgedRows, mismatched
from sovtune.train.judging import Judging, answer_log_probs
from sovtune.train.preference import Answers, orpo_loss, reference_point, simpo_loss
from sovtune.train.reference import REFERENCE, reference_log_probs
from sovtune.train.rows import FlatCollator, PaddedCollator
from sovtune.train.watch import StepCounts, read_metrics
from tiny_models import make_base
from tiny_runs import losses, make_recipe, train

METHODS = ("dpo", "orpo", "simpo", "kto")


def answers(generator: random.Random) -> tuple[list[int], list[int], list[int]]:
    """A prompt, an answer that counts upwards and one that counts downwards."""
    start = generator.randint(30, 200)
    prompt = [start, *(generator.randint(3, 250) for _ in range(generator.randint(1, 4)))]
    up = [start + step for step in range(1, generator.randint(4, 8))]
    down = [start - step for step in range(1, generator.randint(4, 8))]
    return prompt, up, down


def row_of(
    documents: list[tuple[list[int], list[int]]], good: list[int] | None = None
) -> dict[str, list[int]]:
    row = {
        "input_ids": [token for prompt, answer in documents for token in (*prompt, *answer)],
        "labels": [token for prompt, answer in documents for token in (*[IGNORE] * len(prompt), *answer)],
        "lengths": [len(prompt) + len(answer) for prompt, answer in documents],
    }
    return row if good is None else {**row, "good": good}


def pair_rows(number: int, *, pairs: int = 2, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of pairs that prefer counting upwards."""
    generator = random.Random(seed)
    rows = []
    for _ in range(number):
        drawn = [answers(generator) for _ in range(pairs)]
        rows.append(row_of([(prompt, side) for prompt, *sides in drawn for side in sides]))
    return rows


def judged_rows(number: int, *, each: int = 2, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of single answers: upwards is good."""
    generator = random.Random(seed)
    rows = []
    for _ in range(number):
        verdicts = [generator.randint(0, 1) for _ in range(each)]
        drawn = [answers(generator) for _ in verdicts]
        documents = [
            (prompt, up if good else down) for (prompt, up, down), good in zip(drawn, verdicts, strict=True)
        ]
        rows.append(row_of(documents, verdicts))
    return rows


def rows_for(method: str, number: int, **settings) -> Dataset:
    return Dataset.from_list((judged_rows if method == "kto" else pair_rows)(number, **settings))


def recipe_for(
    method: str, preference: Preference | None = None, *, checkpoint_steps: int = 99, **run_settings
):
    recipe = make_recipe(**run_settings)
    run = recipe.train.run.model_copy(update={"checkpoint_steps": checkpoint_steps})
    return recipe.model_copy(
        update={
            "method": method,
            "preference": preference,
            "train": recipe.train.model_copy(update={"run": run}),
        }
    )


def run_of(recipe, base, folder, rows=None, **settings):
    """Three steps of two rows each, unless said otherwise."""
    rows = rows_for(recipe.method, 6) if rows is None else rows
    return train(recipe, base, folder, rows, **{"steps": 3, **settings})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """An uninterrupted run of each method."""
    return {method: run_of(recipe_for(method), base, tmp_path_factory.mktemp(method)) for method in METHODS}


# The losses, against a computation of their own


def fresh(base, engine: str):
    return load_with_new_adapter(recipe_for("dpo", engine=engine), base)


def move(model, seed: int = 1) -> None:
    """Take an adapter away from its start, always to the same place."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            parameter.data = torch.randn_like(parameter) * 0.05


def moved(base, engine: str):
    loaded = fresh(base, engine)
    move(loaded.model)
    return loaded


def by_hand(model, row, good, reference, zero, s: PreferenceSettings):
    """Sum of losses of a row in fp64: every document alone, from the logits of the plain model."""
    start, sums, sizes = 0, [], []
    for length in row["lengths"]:
        ids = torch.tensor([row["input_ids"][start : start + length]])
        learnt = [at for at in range(1, length) if row["labels"][start + at] != IGNORE]
        log_p = torch.log_softmax(model(input_ids=ids).logits[0], -1)
        sums.append(sum(log_p[at - 1, ids[0, at]] for at in learnt))
        sizes.append(len(learnt))
        start += length
    total = torch.zeros((), dtype=torch.float64)
    if s.method == "kto":
        for log_p, ref, verdict in zip(sums, reference, good, strict=True):
            lead = s.beta * (log_p - ref - zero)
            weight = s.desirable_weight if verdict else s.undesirable_weight
            total = total + weight * (1 - 1 / (1 + torch.exp(-lead if verdict else lead)))
        return total
    for at in range(0, len(sums), 2):
        w, l, mean_w, mean_l = sums[at], sums[at + 1], sums[at] / sizes[at], sums[at + 1] / sizes[at + 1]  # noqa: E741
        if s.method == "dpo":
            z = s.beta * ((w - reference[at]) - (l - reference[at + 1]))
            e = s.label_smoothing
            total = total + (1 - e) * torch.log(1 + torch.exp(-z)) + e * torch.log(1 + torch.exp(z))
        elif s.method == "simpo":
            total = total + torch.log(1 + torch.exp(-s.beta * (mean_w - mean_l) + s.margin))
        else:
            odds_w, odds_l = (torch.exp(mean) / (1 - torch.exp(mean)) for mean in (mean_w, mean_l))
            total = total - mean_w + s.beta * torch.log(1 + odds_l / odds_w)
        total = total - s.sft_weight * mean_w
    return total


CASES = {
    "dpo": None,
    "dpo-all": Preference(beta=0.3, label_smoothing=0.1, sft_weight=0.5),
    "orpo": Preference(beta=0.7),
    "simpo": None,
    "simpo-all": Preference(beta=1.5, margin=0.4, sft_weight=0.2),
    "kto": None,
    "kto-all": Preference(beta=0.4, desirable_weight=1.3, undesirable_weight=0.7),
}


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_computed_by_hand(base, case, engine):
    method = case.split("-")[0]
    settings = preference_settings(recipe_for(method, CASES[case]))
    rows = list(rows_for(method, 2, seed=4))
    generator = torch.Generator().manual_seed(2)
    reference = [torch.rand(len(row["lengths"]), generator=generator) * -20 for row in rows]
    loaded = moved(base, engine)
    fast = engine == "auto"
    assert loaded.fast == fast
    collator = JudgedCollator(FlatCollator() if fast else PaddedCollator(0))
    given = [
        {**row, "reference": ref.tolist(), "mismatched": None}
        for row, ref in zip(rows, reference, strict=True)
    ]
    judging = Judging(settings, StepCounts(), fast=fast)
    judging.zero = torch.tensor(0.6)
    loss = judging.loss(loaded.model, loaded.model.get_base_model(), collator(given))
    loss.backward()
    plain = moved(base, "plain").model.double()
    expected = sum(
        by_hand(plain, row, row.get("good"), ref.double(), 0.6, settings)
        for row, ref in zip(rows, reference, strict=True)
    )
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    hand = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    for name, parameter in loaded.model.named_parameters():
        if parameter.requires_grad:
            atol = 1e-4 * float(hand[name].abs().max())
            torch.testing.assert_close(parameter.grad.double(), hand[name], rtol=1e-3, atol=atol, msg=name)


def test_dpo_equals_trl_on_the_same_batch(base, tmp_path):
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    model = fresh(base, "plain").model
    text = [
        {"prompt": "하늘은", "chosen": " 파랗습니다.", "rejected": " 모릅니다"},
        {"prompt": "Numbers:", "chosen": " 0 1 2 3", "rejected": " dog"},
    ]
    args = DPOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=2,
        beta=0.2, label_smoothing=0.0, gradient_checkpointing=False,
    )  # fmt: skip
    theirs = DPOTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(text), processing_class=tokenizer
    )
    move(model)
    batch = theirs.data_collator(list(theirs.train_dataset))
    expected = theirs.compute_loss(model, batch)
    half = len(batch["input_ids"]) // 2
    documents = []
    for index in (0, half, 1, half + 1):
        ids = batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()
        learnt = int(batch["completion_mask"][index].sum())
        documents.append((ids[:-learnt], ids[-learnt:]))
    row = row_of(documents)
    collator = PaddedCollator(0)
    with torch.no_grad(), model.disable_adapter():
        reference, _ = answer_log_probs(model, None, collator([row]), fast=False)
    judging = Judging(preference_settings(recipe_for("dpo", Preference(beta=0.2))), StepCounts(), fast=False)
    given = JudgedCollator(collator)([{**row, "reference": reference.tolist(), "mismatched": None}])
    mine = float(judging.loss(model, None, given).detach()) / judging.units(given)
    assert mine == pytest.approx(float(expected.detach()), rel=1e-5)
    assert mine != pytest.approx(math.log(2), abs=1e-3)


def test_kto_equals_trl_on_the_same_batch(base, tmp_path):
    from transformers import PreTrainedTokenizerFast
    from trl import KTOConfig, KTOTrainer

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    model = fresh(base, "plain").model
    text = [
        {"prompt": "하늘은", "completion": " 파랗습니다.", "label": True},
        {"prompt": "Numbers:", "completion": " 0 1 2 3", "label": True},
        {"prompt": "The dog", "completion": " 하늘", "label": False},
    ]
    args = KTOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=3,
        beta=0.2, gradient_checkpointing=False, undesirable_weight=1.5,
    )  # fmt: skip
    theirs = KTOTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(text), processing_class=tokenizer
    )
    move(model, seed=7)  # one where the mismatched answers became likelier
    batch = theirs.data_collator(list(theirs.train_dataset))
    expected = theirs.compute_loss(model, batch)
    documents, verdicts = [], []
    for index in (2, 1, 0):  # TRL pairs a prompt with the answer before, sovtune with the one after
        ids = batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()
        learnt = int(batch["completion_mask"][index].sum())
        documents.append((ids[:-learnt], ids[-learnt:]))
        verdicts.append(int(batch["label"][index]))
    rows = JudgedRows([row_of(documents, verdicts)], rows_per_step=1, mismatches=True)
    collator = PaddedCollator(0)

    def measure(row):
        sums, _ = answer_log_probs(model, None, collator([row]), fast=False)
        return sums.tolist()

    with torch.no_grad(), model.disable_adapter():
        rows.reference = reference_log_probs(
            rows.all_rows(), measure, tmp_path / "r.jsonl", "k", lambda *_: None
        )
    settings = preference_settings(recipe_for("kto", Preference(beta=0.2, undesirable_weight=1.5)))
    judging = Judging(settings, StepCounts(), fast=False)
    given = JudgedCollator(collator)([rows[0]])
    judging.begin_step(model, None, [given], lambda sums: sums)
    assert float(judging.zero) > 0
    mine = float(judging.loss(model, None, given).detach()) / judging.units(given)
    assert mine == pytest.approx(float(expected.detach()), rel=1e-5)


def test_simpo_and_orpo_have_the_formulas_of_trl():
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    torch.manual_seed(0)
    tokens = torch.tensor([3.0, 5.0])
    chosen, rejected = (
        Answers(log_probs=-torch.rand(2) * 9, reference=torch.zeros(2), tokens=tokens + at) for at in (0, 1)
    )
    place = SimpleNamespace(device="cpu")
    theirs = SimpleNamespace(
        alpha=0.0, accelerator=place, loss_type="simpo", simpo_gamma=0.8, beta=2.5, label_smoothing=0.0
    )
    settings = preference_settings(recipe_for("simpo", Preference(beta=2.5, margin=0.8)))
    expected = CPOTrainer.cpo_loss(theirs, chosen.mean, rejected.mean)[0]
    torch.testing.assert_close(simpo_loss(chosen, rejected, settings).losses, expected)
    settings = preference_settings(recipe_for("orpo", Preference(beta=2.5)))
    ratio = ORPOTrainer.odds_ratio_loss(theirs, chosen.mean, rejected.mean)[0]
    torch.testing.assert_close(orpo_loss(chosen, rejected, settings).losses, -chosen.mean - ratio)


def test_orpo_stays_finite_for_answers_that_are_certain():
    sure = Answers(
        log_probs=torch.zeros(1, requires_grad=True), reference=torch.zeros(1), tokens=torch.ones(1)
    )
    never = Answers(log_probs=torch.full((1,), -90.0), reference=torch.zeros(1), tokens=torch.ones(1))
    for chosen, rejected in ((sure, never), (never, sure)):
        loss = orpo_loss(chosen, rejected, preference_settings(recipe_for("orpo"))).losses.sum()
        (gradient,) = torch.autograd.grad(loss, sure.log_probs)
        assert math.isfinite(float(loss.detach()))
        assert bool(torch.isfinite(gradient).all())


# The loop


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_is_what_it_must_be(straight, method):
    first = straight[method].history[0]
    if method == "dpo":
        assert first.loss == pytest.approx(math.log(2), abs=1e-7)
        assert (first.reward_chosen, first.reward_rejected, first.reward_accuracy) == (0, 0, 0)
    elif method == "kto":
        assert first.loss == pytest.approx(0.5, abs=1e-7)
    else:
        assert first.loss > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_plain_engine_gives_the_same_losses(base, straight, tmp_path, method):
    plain = run_of(recipe_for(method, engine="plain"), base, tmp_path)
    assert losses(plain) == pytest.approx(losses(straight[method]), rel=1e-4)
    margins = [[step.reward_margin for step in run.history] for run in (plain, straight[method])]
    assert margins[0] == pytest.approx(margins[1], abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_two_rows_at_once_equal_two_rows_accumulated(base, straight, tmp_path, method):
    at_once = run_of(recipe_for(method, micro_rows=2), base, tmp_path)
    assert losses(at_once) == pytest.approx(losses(straight[method]), abs=1e-5)


def _in_two(method, base, folder, settings, strategy="ddp"):
    torch.set_num_threads(1)
    recipe = recipe_for(method, engine="auto" if strategy == "ddp" else "plain")
    recipe = recipe.model_copy(update={"launch": Launch(processes=2, strategy=strategy)})
    with joined(2) as group:
        run = run_of(recipe, base, folder, group=group, **settings)
        return [(step.loss, step.grad_norm, step.reward_margin, step.tokens) for step in run.history]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one(base, tmp_path, method):
    """Three rows a step: one process has two of them."""
    settings = {"rows": rows_for(method, 9), "rows_per_step": 3}
    alone = run_of(recipe_for(method), base, tmp_path / "alone", **settings)
    first, second = in_group(2, _in_two, method, base, tmp_path / "two", settings)
    assert first == second
    for step, (loss, norm, margin, tokens) in zip(alone.history, first, strict=True):
        assert (loss, norm) == pytest.approx((step.loss, step.grad_norm), abs=1e-5)
        assert margin == pytest.approx(step.reward_margin, abs=1e-5)
        assert tokens == step.tokens
    one, two = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("alone", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_halves_of_a_model_judge_like_a_whole_one(base, tmp_path, method, strategy):
    """The methods with a reference, which one process measures before the base is shared out."""
    alone = run_of(recipe_for(method, engine="plain"), base, tmp_path / "alone")
    first, second = in_group(2, _in_two, method, base, tmp_path / "two", {}, strategy, timeout_s=400)
    assert first == second
    for step, (loss, norm, margin, tokens) in zip(alone.history, first, strict=True):
        assert (loss, norm, margin) == pytest.approx(
            (step.loss, step.grad_norm, step.reward_margin), abs=1e-5
        )
        assert tokens == step.tokens


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_packed_rows_equal_pairs_on_their_own(base, straight, tmp_path, method):
    unpacked = []
    for row in rows_for(method, 6):
        each = 1 if method == "kto" else 2
        start = 0
        for at in range(0, len(row["lengths"]), each):
            end = start + sum(row["lengths"][at : at + each])
            part = {name: row[name][start:end] for name in ("input_ids", "labels")}
            part["lengths"] = row["lengths"][at : at + each]
            unpacked.append(part | ({"good": [row["good"][at]]} if method == "kto" else {}))
            start = end
    alone = run_of(recipe_for(method), base, tmp_path, Dataset.from_list(unpacked), rows_per_step=4)
    assert losses(alone) == pytest.approx(losses(straight[method]), abs=1e-5)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_resume_after_a_crash_equals_a_straight_run(base, straight, tmp_path, method):
    class Stop(Exception):
        pass

    def crash(metrics, of):
        if metrics.step == 3:
            raise Stop

    recipe = recipe_for(method, checkpoint_steps=2)
    with pytest.raises(Stop):
        run_of(recipe, base, tmp_path, progress=crash)
    measured = (tmp_path / REFERENCE).read_text()
    resumed = run_of(recipe, base, tmp_path, resume=True)
    assert resumed.resumed_from == 2
    assert losses(resumed) == losses(straight[method])
    assert (tmp_path / REFERENCE).read_text() == measured
    adapters = [load_file(run.adapter / "adapter_model.safetensors") for run in (resumed, straight[method])]
    for name, tensor in adapters[1].items():
        assert torch.equal(adapters[0][name], tensor), name


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_what_a_prompt_is_labelled_with_does_not_matter(base, straight, tmp_path, method):
    """The first label of a document is that of a prompt, whatever stands there."""
    rows = []
    for row in rows_for(method, 6):
        labels, start = list(row["labels"]), 0
        for length in row["lengths"]:
            labels[start] = row["input_ids"][start]
            start += length
        rows.append({**row, "labels": labels})
    again = run_of(recipe_for(method), base, tmp_path, Dataset.from_list(rows))
    assert losses(again) == losses(straight[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_model_learns_to_prefer(base, tmp_path, method):
    rows = rows_for(method, 4).select([0, 1, 2, 3] * 7)
    outcome = run_of(recipe_for(method), base, tmp_path, rows, steps=14)
    steps = read_metrics(tmp_path / "metrics.jsonl")
    assert steps == list(outcome.history)
    assert sum(step.reward_accuracy for step in steps[-4:]) / 4 >= 0.85
    assert steps[-1].reward_margin > steps[0].reward_margin + 0.05
    assert losses(outcome)[-1] < losses(outcome)[0]
    assert steps[-1].reward_chosen - steps[-1].reward_rejected == pytest.approx(steps[-1].reward_margin)


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_with_a_reference_measure_one(straight, method):
    assert (straight[method].adapter.parent / REFERENCE).exists() == (method in ("dpo", "kto"))


def test_the_reference_is_the_adapter_that_is_gone_on_from(base, tmp_path):
    """Then the first step has no reward, however far that adapter is from the base."""
    earlier = run_of(recipe_for("orpo"), base, tmp_path / "earlier")
    recipe = recipe_for("dpo")
    adapter = recipe.adapter.model_copy(update={"continue_from": str(earlier.adapter)})
    outcome = run_of(recipe.model_copy(update={"adapter": adapter}), base, tmp_path / "run")
    first = outcome.history[0]
    assert (first.reward_chosen, first.reward_rejected) == (0, 0)
    assert first.loss == pytest.approx(math.log(2), abs=1e-7)
    fresh_reference, reference = (
        [json.loads(line)["log_probs"] for line in (folder / REFERENCE).read_text().splitlines()[1:]]
        for folder in (run_of(recipe, base, tmp_path / "fresh").adapter.parent, tmp_path / "run")
    )
    assert reference != fresh_reference


def test_rewards_reach_the_trackers(base, tmp_path):
    run_of(recipe_for("dpo", checkpoint_steps=3), base, tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [entry["reward_margin"] for entry in state["log_history"]] == [
        step.reward_margin for step in metrics
    ]


# Reference and mismatched pairs


def test_the_reference_is_measured_once_and_kept(tmp_path):
    rows, asked = pair_rows(3), []

    def measure(row):
        asked.append(row["input_ids"])
        return [0.1, -2.5e-9, 3.0, 4.0]

    path = tmp_path / REFERENCE
    first = reference_log_probs([*rows, rows[0]], measure, path, "a", lambda *_: None)
    assert len(asked) == 3
    path.write_text(path.read_text()[:-20])  # a kill in the middle of a line
    again = reference_log_probs(rows, measure, path, "a", lambda *_: None)
    assert (again, len(asked)) == (first, 4)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    reference_log_probs(rows, measure, path, "b", lambda *_: None)
    assert len(asked) == 7


def test_a_prompt_meets_the_next_answer_to_another_prompt():
    a, b, c = [5, 6], [7], [8, 9]
    one = row_of([(a, [11]), (a, [12, 13])], [1, 0])
    two = row_of([(b, [14]), (c, [15])], [1, 1])
    first, second = mismatched([one, two])
    assert first == row_of([(a, [14]), (a, [14])])
    assert second == row_of([(b, [15]), (c, [11])])
    assert mismatched([one]) == [None]


def test_steps_of_a_single_prompt_are_refused():
    rows = judged_rows(4, each=1)
    JudgedRows(rows, rows_per_step=2, mismatches=True).refuse_single_prompts()
    JudgedRows(rows[:3], rows_per_step=2, mismatches=False).refuse_single_prompts()
    with pytest.raises(DataRefused, match="4 of 4 steps") as caught:
        JudgedRows(rows, rows_per_step=1, mismatches=True).refuse_single_prompts()
    assert "batch_tokens" in str(caught.value)


def test_the_reference_point_is_never_below_zero():
    assert float(reference_point(torch.tensor(6.0), torch.tensor(4.0))) == 1.5
    assert float(reference_point(torch.tensor(-6.0), torch.tensor(4.0))) == 0
    assert float(reference_point(torch.tensor(0.0), torch.tensor(0.0))) == 0


def test_usual_values_of_each_method():
    found = {method: preference_settings(recipe_for(method)) for method in METHODS}
    assert {method: one.beta for method, one in found.items()} == {
        "dpo": 0.1,
        "kto": 0.1,
        "orpo": 0.1,
        "simpo": 2.0,
    }
    assert (found["simpo"].margin, found["dpo"].margin) == (1.0, 0.0)
    assert (found["kto"].desirable_weight, found["kto"].undesirable_weight) == (1.0, 1.0)
    assert preference_settings(recipe_for("sft")) is None
    assert float(-logsigmoid(torch.zeros(()))) == pytest.approx(math.log(2))
