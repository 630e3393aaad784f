"""The sample recipes of adapters: each one's adapter, storage and loss go onto a tiny base and learn."""

import pytest

from sovtune.recipe_file import load_recipe
from tiny_models import make_base
from tiny_runs import losses, make_rows, train

RECIPES = (
    "dora-ko", "rslora-ko", "pissa-ko", "loftq-ko", "fp4-ko", "int8-ko", "full-ko", "vocabulary-ko", "layers-ko",
    "continue-ko", "finer-ko",
)  # fmt: skip
CHANGED = {
    "layers-ko": {"layers": (1,), "rank_pattern": {r"layers\.1\..*": 32}},  # a tiny base has two
}
SLOW = {"dora-ko", "rslora-ko", "pissa-ko", "loftq-ko", "int8-ko", "finer-ko"}
"""Kinds that test_adapters.py and test_objective.py look at in every run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECIPES]
)
def test_a_recipe_learns_on_a_tiny_base(root, tmp_path, name):
    base = make_base(tmp_path / "base", dtype="bfloat16", hidden=128)
    recipe = load_recipe(root / "recipes" / f"{name}.yaml").resolved()
    adapter = recipe.adapter.model_copy(update=CHANGED.get(name, {}))
    if name == "continue-ko":
        begun = recipe.model_copy(update={"adapter": adapter.model_copy(update={"continue_from": None})})
        first = train(begun, base, tmp_path / "first", make_rows(2), steps=1)
        adapter = adapter.model_copy(update={"continue_from": str(first.adapter)})
    changed = recipe.model_copy(update={"adapter": adapter})
    outcome = train(changed, base, tmp_path / "run", make_rows(1).select([0] * 12), steps=6)
    assert losses(outcome)[-1] < losses(outcome)[0]
