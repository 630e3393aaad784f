"""What a base scored is found again under the same conditions, and under no others."""

import pytest

from sovtune.data.caches import clean
from sovtune.errors import EnvironmentFault
from sovtune.evaluate.base_scores import BaseScores, setting_of
from sovtune.evaluate.bits import TextCost
from sovtune.evaluate.compare import prepare_attention
from sovtune.model import load_base
from sovtune.recipe_base import Quantisation
from tiny_models import make_base

ASKED = {"window": 64, "tokenizer": "0" * 64}
COSTS = [TextCost(bits=1 / 3, bytes=7, tokens=2), TextCost(bits=2.5e-7, bytes=1, tokens=1)]


class Measuring:
    """A measurement that counts how often it is made."""

    def __init__(self, values):
        self.values, self.times = values, 0

    def __call__(self):
        self.times += 1
        return self.values


def test_the_same_texts_are_measured_once(tmp_path):
    costs, answers = Measuring(COSTS), Measuring(["하늘은 파랗습니다.", ""])
    for times in (1, 2):
        kept = BaseScores(folder=tmp_path / "scores", setting={"base": "a"})
        assert kept.costs(["하나", "둘"], ASKED, costs) == COSTS  # to the last bit
        assert kept.answers(["물?"], ASKED, answers) == answers.values
        assert len(kept.days) == times - 1
    assert (costs.times, answers.times) == (1, 1)
    assert len(list((tmp_path / "scores").iterdir())) == 2


@pytest.mark.parametrize(
    ("setting", "texts", "asked"),
    [
        ({"base": "b"}, ["하나", "둘"], ASKED),
        ({"base": "a"}, ["하나둘"], ASKED),
        ({"base": "a"}, ["둘", "하나"], ASKED),
        ({"base": "a"}, ["하나", "둘"], ASKED | {"window": 32}),
    ],
    ids=["base", "text", "order", "window"],
)
def test_anything_else_is_measured_anew(tmp_path, setting, texts, asked):
    first, other = Measuring(COSTS), Measuring(COSTS[::-1])
    BaseScores(folder=tmp_path, setting={"base": "a"}).costs(["하나", "둘"], ASKED, first)
    kept = BaseScores(folder=tmp_path, setting=setting)
    assert kept.costs(texts, asked, other) == COSTS[::-1]
    assert other.times == 1 and not kept.days


def test_what_computes_is_part_of_the_conditions(tmp_path):
    folder = make_base(tmp_path / "base")
    model = load_base(folder, Quantisation(kind="none", compute="float32"), "cpu")
    settings = []
    for fast in (True, False):
        prepare_attention(model, fast)
        settings.append(setting_of(model, {"base": "a"}))
    assert settings[0] != settings[1]
    assert {"base", "attention", "processor", "versions"} == set(settings[0])
    assert {"sovtune", "torch", "transformers"} < set(settings[0]["versions"])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"day": "2026-11-22"}'])
def test_a_damaged_file_is_named_with_the_command(tmp_path, content):
    kept = BaseScores(folder=tmp_path, setting={"base": "a"})
    kept.costs(["하나"], ASKED, Measuring(COSTS))
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    with pytest.raises(EnvironmentFault, match="cannot be read") as caught:
        kept.costs(["하나"], ASKED, Measuring(COSTS))
    assert caught.value.where == str(file) and "rm " in str(caught.value.fix)


def test_old_measurements_are_cleaned_away(tmp_path):
    home = tmp_path / "home"
    BaseScores(folder=home / "scores", setting={}).costs(["하나"], ASKED, Measuring(COSTS))
    (home / "scores" / "mine.txt").write_text("not ours")
    assert [part.kind for part in clean(home, days=1).kept] == ["scores"]
    assert [part.kind for part in clean(home, days=0).removed] == ["scores"]
    assert [path.name for path in (home / "scores").iterdir()] == ["mine.txt"]
