"""Sample answers: several prompts together get what each gets alone."""

import pytest

from sovtune.data.template import read_format
from sovtune.evaluate import answers
from sovtune.evaluate.answers import greedy_answers
from sovtune.memory import PROMPTS_AT_ONCE
from sovtune.model import load_base
from sovtune.recipe_base import Quantisation
from tiny_models import make_base

PROMPTS = [
    "물?",
    "전입신고는 언제까지 해야 하나요?",
    "Why is the sky blue, and why is it red in the evening, when the sun goes down behind the hills?",
    "김치찌개를 끓이는 방법을 알려 주세요.",
] * 3


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_answers_do_not_depend_on_their_neighbours(tmp_path, monkeypatch, kind):
    folder = make_base(tmp_path / "base", kind)
    text_format = read_format(folder)
    model = load_base(folder, Quantisation(kind="none", compute="float32"), "cpu")
    together = greedy_answers(model, text_format, PROMPTS, max_new_tokens=12)
    monkeypatch.setattr(answers, "PROMPTS_AT_ONCE", 1)
    alone = greedy_answers(model, text_format, PROMPTS, max_new_tokens=12)
    assert together == alone
    assert len(set(alone)) > 1


def test_the_plan_counts_as_many_caches():
    assert PROMPTS_AT_ONCE == answers.PROMPTS_AT_ONCE
