"""Put the recipe's adapter on a base: PEFT's settings, what the recipe names is there, the start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sovtune.adapter_files import continue_from
from sovtune.adapter_start import lora_layers, reset_magnitudes, start_adapter
from sovtune.adapter_tokens import cast_at_borders, vocabulary_settings
from sovtune.errors import EnvironmentFault, RunFailed, UsageError
from sovtune.families import family
from sovtune.recipe import Recipe
from sovtune.recipe_adapter import Adapter


def lora_settings(adapter: Adapter, model_type: str) -> dict[str, Any]:
    """Keyword arguments of LoraConfig that do not depend on the base's weights.

    Raises:
        EnvironmentFault: ``targets: auto`` on a model type without verified targets.
    """
    if adapter.targets == "auto":
        facts = family(model_type)
        targets, exclude = list(facts.targets), facts.exclude
    else:
        targets, exclude = list(adapter.targets), None
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": targets,
        "exclude_modules": exclude,
        "use_dora": adapter.dora,
        "use_rslora": adapter.rslora,
        "layers_to_transform": None if adapter.layers is None else sorted(adapter.layers),
        "rank_pattern": dict(adapter.rank_pattern),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def attach(model: Any, recipe: Recipe, folder: Path, *, fast: bool) -> Any:
    """The base with the adapter the recipe asks for, at its start; everything trained is fp32.

    Args:
        model: the base, frozen.
        recipe: with paths resolved.
        folder: the base on disk.
        fast: use the layers of the fast path.

    Raises:
        RunFailed: no module matches the targets.
        UsageError: a layer, token, pattern or target that the recipe names is not there.
        EnvironmentFault: see ``lora_settings``.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    adapter = recipe.adapter
    settings = lora_settings(adapter, model.config.model_type)
    if not _matches_any(model, settings["exclude_modules"]):
        settings["exclude_modules"] = None
    _check_layers(model, adapter.layers)
    settings |= vocabulary_settings(model, adapter.vocabulary, folder)
    config = LoraConfig(**settings)
    if fast:
        config._register_custom_module(fast_modules())
    elif adapter.dora:
        prepare_dora(model)
    torch.manual_seed(recipe.seed)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise RunFailed(
            "the adapter cannot be attached",
            where="adapter.targets",
            why=str(error).splitlines()[0],
            fix=f"modules this base has: {', '.join(_linear_names(model))}",
        ) from error
    _check_names(adapter, [name for name, _ in lora_layers(adapted)])
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if adapter.dora:
        reset_magnitudes(adapted)
    if adapter.vocabulary == "all":
        cast_at_borders(adapted)
    start_adapter(adapted, adapter.init, folder)
    if adapter.continue_from is not None:
        continue_from(adapted, Path(adapter.continue_from), recipe.base)
    if fast:
        from sovtune.fastpath.blocks import replace_blocks

        replace_blocks(adapted)
    return adapted


def fast_modules() -> dict[type, type]:
    """PEFT's hook for custom layers: which adapter class wraps which linear class; the first that fits is taken."""
    import bitsandbytes as bnb
    import torch

    from sovtune.fastpath.peft_layers import FastLinear, FastLinear4bit, FastLinear8bit

    return {
        bnb.nn.Linear4bit: FastLinear4bit,
        bnb.nn.Linear8bitLt: FastLinear8bit,
        torch.nn.Linear: FastLinear,
    }


def prepare_dora(model: Any) -> None:
    """Let PEFT's own DoRA read the weights of a quantised base on a CPU.

    bitsandbytes repacks 4-bit weights at the first evaluation, and PEFT restores repacked ones wrongly: here they
    stay as they are.

    Raises:
        EnvironmentFault: the base is int8; PEFT loses the scales of its weights (peft 0.21, bitsandbytes 0.50).
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, bnb.nn.Linear8bitLt) and module.weight.device.type == "cpu":
            raise EnvironmentFault(
                "PEFT's DoRA does not work on an int8 base on a CPU",
                where="adapter.dora",
                why="the fast path, which has its own, is not in use here",
                fix="set base.quantisation.kind: nf4, or train.run.engine: auto where the fast path applies",
            )


def _check_layers(model: Any, layers: Sequence[int] | None) -> None:
    """PEFT passes over layers that do not exist."""
    count = model.config.get_text_config().num_hidden_layers
    missing = [number for number in layers or () if number >= count]
    if missing:
        raise UsageError(
            f"this base has no layer {missing[0]}",
            where="adapter.layers",
            why=f"its {count} layers are numbered from 0 to {count - 1}",
        )


def _check_names(adapter: Adapter, adapted: Sequence[str]) -> None:
    """Every target and every pattern must have met a layer; PEFT passes over those that do not."""
    names = sorted({name.rpartition(".")[2] for name in adapted})
    for target in () if adapter.targets == "auto" else adapter.targets:
        if not any(f".{name}".endswith(f".{target}") for name in adapted):
            raise UsageError(
                f"no layer that gets an adapter is called {target}",
                where="adapter.targets",
                why=f"adapters are on {', '.join(names)}",
            )
    for pattern in adapter.rank_pattern:
        # PEFT's rule: the pattern is the end of the name, from a dot on.
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
            raise UsageError(
                f"no layer that gets an adapter matches {pattern}",
                where="adapter.rank_pattern",
                why=f"a name is, for example, {adapted[0]}",
            )


def _matches_any(model: Any, pattern: str | None) -> bool:
    return pattern is not None and any(re.fullmatch(pattern, name) for name, _ in model.named_modules())


def _linear_names(model: Any) -> Sequence[str]:
    import torch

    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return sorted(names - {"lm_head"})


def untrained_adapters(model: Any) -> list[str]:
    """What is to be trained and had no gradient in a backward pass; each one is a module that cannot learn.

    A gradient of zero is right for A (B starts at zero) and for rows of tokens that were not in the batch.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or (_must_move(name) and bool(parameter.grad.abs().sum() == 0)))
    ]


def _must_move(name: str, parts: Iterable[str] = ("lora_B", "lora_magnitude", "modules_to_save")) -> bool:
    return any(part in name for part in parts)
