"""A refactor must not move a loss: recorded trajectories, compared number by number."""

import json

import pytest

from tiny_runs import golden_cases, golden_environment

NAMES = [f"{kind}-{tying}" for kind in ("llama", "qwen2", "qwen3") for tying in ("tied", "untied")]


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return golden_cases(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_recorded(root, now, name):
    recorded = json.loads((root / "tests" / "golden" / "losses.json").read_text())
    same_versions = recorded["environment"] == golden_environment()
    # Other library versions or machines may round differently; a wrong computation is off by far more than this.
    tolerance = 1e-5 if same_versions else 1e-3
    expected = recorded["cases"][name]
    assert len(expected) == len(now[name]) == 8
    for step, (old, new) in enumerate(zip(expected, now[name], strict=True), start=1):
        assert new["loss"] == pytest.approx(old["loss"], rel=tolerance), f"step {step}"
        assert new["grad_norm"] == pytest.approx(old["grad_norm"], rel=10 * tolerance), f"step {step}"
