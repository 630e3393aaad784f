"""What each model family needs: LoRA targets that were seen to work, and modules that must stay untouched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from sovtune.errors import EnvironmentFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """LoRA facts of one transformers model type."""

    model_type: str
    targets: tuple[str, ...]
    exclude: str
    mixture_of_experts: bool


@cache
def _table() -> tuple[dict[str, dict[str, Any]], str]:
    raw = yaml.safe_load(files("sovtune").joinpath("families.yaml").read_text(encoding="utf-8"))
    return raw["model_types"], raw["exclude_modules"]


def known_types() -> tuple[str, ...]:
    """All model types with verified targets, sorted."""
    return tuple(sorted(_table()[0]))


def family(model_type: str) -> Family:
    """The facts of a model type.

    Raises:
        EnvironmentFault: the type is unknown; targets must then be given by hand.
    """
    types, exclude = _table()
    if model_type not in types:
        raise EnvironmentFault(
            f"model type {model_type!r} is not known to sovtune",
            where="adapter.targets",
            why=f"`auto` has verified targets for: {', '.join(known_types())}",
            fix="name the linear layers yourself, for example `targets: [q_proj, v_proj]`; "
            "the first step checks that all of them learn",
        )
    facts = types[model_type]
    return Family(
        model_type=model_type,
        targets=tuple(facts["targets"]),
        exclude=exclude,
        mixture_of_experts=bool(facts["moe"]),
    )
