"""Held-out comparisons on a tiny model: shares and margins by a computation of their own."""

import numpy as np
import pytest
import torch

from sovtune.data.chat import IGNORE
from sovtune.data.document import Document, Message
from sovtune.data.judged import render_judged
from sovtune.data.template import read_format
from sovtune.evaluate.compare import prepare_attention
from sovtune.evaluate.pairs import HeldOutPairs, score_pairs, wilson
from sovtune.model import load_with_new_adapter
from tiny_models import make_base
from tiny_runs import make_recipe

ROWS = (
    ("하늘은?", "파랗습니다.", "모릅니다"),
    ("Numbers?", "0 1 2 3 4 5", "dog"),
    ("안녕?", "네, 안녕하세요.", "The fox jumps."),
    ("A?", "lazy dog", "하늘은 파랗습니다. 하늘은"),
)


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_pairs_are_scored_as_by_hand(tmp_path, engine):
    base = make_base(tmp_path / "base")
    text_format = read_format(base)
    documents = [
        Document(where="a:1", messages=(Message("user", ask), Message("assistant", good)), rejected=bad)
        for ask, good, bad in ROWS
    ]
    pairs = [render_judged(one, "dpo", text_format.template, text_format.tokenizer) for one in documents]
    loaded = load_with_new_adapter(make_recipe(engine=engine), base)
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    prepare_attention(loaded.model, loaded.fast)
    ticks = []
    held_out = HeldOutPairs(card_id="c", title="t", sha256="0" * 64, pairs=pairs)
    score = score_pairs(loaded.model, held_out, lambda *tick: ticks.append(tick))
    assert ticks[-1] == ("c adapter", 4, 4)

    plain = load_with_new_adapter(make_recipe(engine="plain"), base).model
    plain.load_state_dict(loaded.model.state_dict())
    plain.eval().double()

    def log_probs(pair):
        found = []
        for ids, labels in (
            (pair.input_ids[: pair.parts[0]], pair.labels[: pair.parts[0]]),
            (pair.input_ids[pair.parts[0] :], pair.labels[pair.parts[0] :]),
        ):
            log_p = torch.log_softmax(plain(input_ids=torch.tensor([ids])).logits[0], -1)
            each = [float(log_p[at - 1, ids[at]]) for at in range(len(ids)) if labels[at] != IGNORE]
            found.append((sum(each), len(each)))
        return found

    with torch.no_grad():
        after = np.array([log_probs(pair) for pair in pairs])
        with plain.disable_adapter():
            before = np.array([log_probs(pair) for pair in pairs])
    leads = [sums[:, 0, 0] / sums[:, 0, 1] - sums[:, 1, 0] / sums[:, 1, 1] for sums in (before, after)]
    reward = (after - before)[:, 0, 0] - (after - before)[:, 1, 0]
    assert (score.base, score.adapter, score.reward) == tuple((lead > 0).mean() for lead in (*leads, reward))
    assert score.base_margin == pytest.approx(leads[0].mean(), abs=1e-5)
    assert score.adapter_margin == pytest.approx(leads[1].mean(), abs=1e-5)
    assert score.reward_margin == pytest.approx(reward.mean(), abs=1e-4)
    assert abs(score.reward_margin) > 0.01
    assert score.pairs == 4


def test_wilson_intervals():
    """Figures of Newcombe (1998, Statistics in Medicine 17, table I)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(29, 29) == pytest.approx((0.8830, 1.0), abs=1e-4)
