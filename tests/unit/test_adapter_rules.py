"""Combinations of adapter, quantisation and fine settings that a recipe refuses before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sovtune.recipe import Recipe
from sovtune.recipe_file import check_recipe


def recipe(
    method: str = "sft",
    *,
    adapter: dict[str, Any] | None = None,
    finer: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **more: Any,
) -> Recipe:
    base = {"model": "org/tiny", "revision": "main", "licence": "MIT", "quantisation": {"kind": "none"}}
    return Recipe.model_validate({
        "name": "tiny", "language": "ko", "seed": 1, "method": method, "base": base,
        "adapter": {"kind": "lora"} | (adapter or {}), "data": [{"card": "card.yaml"}],
        "train": {"epochs": 1, "finer": finer or {}} | (train or {}), "card": {"licence": "MIT"}, **more,
    })  # fmt: skip


def refused(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe(**settings)
    (error,) = caught.value.errors()
    return ".".join(map(str, (error.get("ctx") or {}).get("at", error["loc"]))) + ": " + error["msg"]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank_pattern": {"(": 4}}, "is no regular expression"),
        ({"vocabulary": ["a", "b", "a"]}, "each once"),
        ({"vocabulary": []}, "name tokens"),
        ({"init": "loftq"}, "loftq makes up for what 4 bits lose"),
        ({"init": "pissa", "dora": True}, "not both"),
    ],
)
def test_an_adapter_that_cannot_be(adapter: dict[str, Any], message: str) -> None:
    assert message in refused(adapter=adapter)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 0.1), ("z_loss", 1e-4), ("neftune", 5)])
def test_finer_settings_that_only_plain_losses_read(name: str, value: float) -> None:
    assert getattr(recipe(finer={name: value}).train.finer, name) == value
    assert refused(method="orpo", finer={name: value}).startswith(f"train.finer.{name}: method orpo")


def test_rise_and_fall_fit_into_the_steps() -> None:
    assert recipe(train={"schedule": "wsd", "warmup": 0.8})
    assert refused(train={"schedule": "wsd", "warmup": 0.9}).startswith("warmup: warmup 0.9 and decay 0.2")
    settings = {"train": {"schedule": "wsd", "warmup": 0.5, "finer": {"decay": 0.6}}}
    assert refused(**settings).startswith("finer.decay: warmup 0.5 and decay 0.6")


def test_full_is_not_published_compared_or_given_two_rates() -> None:
    whole = {"kind": "full"}
    assert recipe(adapter=whole)
    assert refused(adapter=whole, publish={"to": "dir:out"}).startswith("publish: adapters are published")
    assert refused(adapter=whole, method="kto").startswith("adapter.kind: kto needs an adapter")
    assert refused(adapter=whole, finer={"lora_plus": 16}).startswith("train.finer.lora_plus: full has no")
    assert refused(adapter=whole | {"rank": 8}).startswith("rank: full trains every weight")


@pytest.mark.parametrize(
    ("strategy", "adapter", "storage", "refusal"),
    [
        ("fsdp2", {"kind": "full"}, "none", "launch.strategy: fsdp2 shares a frozen base"),
        ("fsdp2", {"kind": "qlora"}, "int8", "launch.strategy: fsdp2 cannot share out a base in int8"),
        ("zero3", {"kind": "qlora", "dora": True}, "nf4", "adapter.dora: dora on a base in 4 bits"),
    ],
)
def test_shares_of_a_base_that_libraries_cannot_make(
    strategy: str, adapter: dict[str, Any], storage: str, refusal: str
) -> None:
    base = {"model": "org/tiny", "revision": "main", "licence": "MIT", "quantisation": {"kind": storage}}
    shared = {"processes": 2, "strategy": strategy}
    assert refused(base=base, adapter=adapter, launch=shared).startswith(refusal)
    other = {"processes": 2, "strategy": "zero3" if strategy == "fsdp2" else "fsdp2"}
    assert recipe(base=base, adapter=adapter, launch=other)


def test_full_beside_other_mistakes_is_explained_too(tmp_path) -> None:
    """Rules also run on a stand-in for a recipe some of whose values are wrong."""
    path = tmp_path / "r.yaml"
    path.write_text("adapter: {kind: full, rank: 8}\nseed: -1\n", encoding="utf-8")
    messages = [problem.message for problem in check_recipe(path)]
    assert "full trains every weight of the base: there is no adapter to set this for" in messages
