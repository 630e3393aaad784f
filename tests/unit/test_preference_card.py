"""What card and report say of a preference method: the method, its settings, rewards, held-out comparisons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from run_records import make_evaluation, make_evidence, make_recipe, make_steps

from sovtune import findings
from sovtune.card import render_card
from sovtune.card_lint import lint
from sovtune.records import PairScore, from_json, to_json
from sovtune.report import render_report

PAIRS = PairScore(
    name="짝 비교 | held out", card_id="pairs", sha256="a" * 64, pairs=20, base=0.5, base_interval=(0.3, 0.7),
    adapter=0.85, adapter_interval=(0.64, 0.948), base_margin=0.01, adapter_margin=0.2, reward=0.9,
    reward_interval=(0.699, 0.972), reward_margin=3.5,
)  # fmt: skip


def evidence(method: str, **preference: float):
    recipe = make_recipe(method=method, preference=preference or None)
    steps = tuple(
        replace(
            step, reward_chosen=0.1, reward_rejected=-0.1, reward_margin=0.02 * at, reward_accuracy=at / 30
        )
        for at, step in enumerate(make_steps(), 1)
    )
    return make_evidence(recipe, steps=steps, evaluation=replace(make_evaluation(), pairs=(PAIRS,)))


@pytest.mark.parametrize(
    ("method", "told", "unit"),
    [
        ("dpo", "beta 0.1; reference: the model as training began", "per pair"),
        (
            "kto",
            "beta 0.1; weights 1 (good) and 1 (bad); reference: the model as training began",
            "per answer",
        ),
        ("orpo", "lambda 0.1", "per pair"),
        ("simpo", "beta 2; target margin 1, rewards per token", "per pair"),
    ],
)
def test_card_and_report_name_the_method_and_its_settings(method: str, told: str, unit: str) -> None:
    found = evidence(method)
    assert findings.objective(found.recipe) == told
    card, report = render_card(found), render_report(found)
    assert lint(card, forbidden=[], evaluation=found.evaluation) == []
    for text in (card, report):
        assert findings.METHODS[method].split(" (")[0] in text
        assert told.split(";", maxsplit=1)[0] in text
        assert unit in text
        assert (
            "rewards agree with 18.3 % of the verdicts in the first 10 steps, with 85.0 % in the last 10 steps"
            in text
        )
        assert "in 50.0 % of 20 pairs under the base (95 % interval 30.0 to 70.0 %)" in text
        assert "in 85.0 % under the adapter (64.0 to 94.8 %)" in text
    assert "Chat template (source" in card


def test_settings_that_were_asked_for_are_told() -> None:
    recipe = evidence("dpo", beta=0.3, label_smoothing=0.1, sft_weight=0.5).recipe
    assert findings.objective(recipe) == (
        "beta 0.3; label smoothing 0.1; loss of the chosen answer added with weight 0.5; "
        "reference: the model as training began"
    )


def test_rewards_of_a_short_run_are_not_told_twice() -> None:
    steps = evidence("dpo").steps
    assert findings.reward_sentence(steps[:2]) == (
        "rewards agree with 3.3 % of the verdicts in the first step, with 6.7 % in the last step, where their margin "
        "is 0.0400"
    )
    one_sided = [replace(step, reward_margin=None) for step in steps]
    assert findings.reward_sentence(one_sided) is None


def test_other_methods_have_no_rewards() -> None:
    found = make_evidence()
    assert findings.objective(found.recipe) is None
    assert findings.reward_sentence(found.steps) is None
    text = render_card(found)
    assert "Loss (nats per token)" in text
    assert "Objective" not in text


def test_a_record_without_pairs_is_read_as_having_none() -> None:
    kept = replace(make_evaluation(), pairs=(PAIRS,))
    assert from_json(type(kept), to_json(kept)) == kept
    assert from_json(type(kept), to_json(make_evaluation())).pairs == ()
