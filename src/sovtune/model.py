"""Load the base, quantise it, attach the adapter: the only home of peft and bitsandbytes outside the fast path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault, RunFailed
from sovtune.families import family
from sovtune.recipe import Adapter, Base, Quantisation, Recipe

ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A base with its adapter, ready for training or evaluation.

    ``fast`` tells whether the fast CPU path is in use; ``notes`` gives the reasons when it is not.
    """

    model: Any
    device: str
    fast: bool
    notes: tuple[str, ...]
    targets: tuple[str, ...]
    trainable_parameters: int
    total_parameters: int


def pick_device(wanted: str) -> str:
    """``auto`` is CUDA when there is one, else CPU.

    Raises:
        EnvironmentFault: CUDA was asked for by name and is not there.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(
            "train.run.device is cuda, but torch sees no CUDA device",
            why=f"torch {torch.__version__}, CUDA build: {torch.version.cuda or 'no'}",
            fix="set train.run.device: auto, or install a CUDA build of torch; `sovtune doctor` shows more",
        )
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def quantisation_settings(quantisation: Quantisation) -> dict[str, Any]:
    """Keyword arguments of BitsAndBytesConfig, dtypes as strings; empty when nothing is quantised."""
    if quantisation.kind == "none":
        return {}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quantisation.kind,
        "bnb_4bit_use_double_quant": quantisation.double,
        "bnb_4bit_compute_dtype": quantisation.compute,
    }


def lora_settings(adapter: Adapter, base: Base, model_type: str) -> dict[str, Any]:
    """Keyword arguments of LoraConfig; the base is named by its Hub id and revision, never by a path.

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
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.model,
        "revision": base.revision,
    }


def load_base(folder: Path, quantisation: Quantisation, device: str, *, attention: str = "sdpa") -> Any:
    """The frozen base on its device.

    Raises:
        EnvironmentFault: the architecture is unknown to transformers, or bitsandbytes cannot work here.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings = quantisation_settings(quantisation)
    config = BitsAndBytesConfig(**settings) if settings else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, quantisation.compute),
            quantization_config=config,
            attn_implementation=attention,
            device_map={"": device},
            local_files_only=True,
        )
    except (ValueError, ImportError) as error:
        raise EnvironmentFault(
            "the base cannot be loaded", where=folder.name, why=str(error).splitlines()[0]
        ) from error
    model.config.use_cache = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def load_with_new_adapter(recipe: Recipe, folder: Path) -> LoadedModel:
    """Base plus a fresh adapter; B starts at zero, so the first forward pass equals the base's.

    Raises:
        EnvironmentFault: see ``load_base`` and ``lora_settings``.
        RunFailed: no module matched the targets.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    device = pick_device(recipe.train.run.device)
    fast, notes = _choose_path(recipe, folder, device)
    model = load_base(folder, recipe.base.quantisation, device, attention=_attention(fast))
    settings = lora_settings(recipe.adapter, recipe.base, model.config.model_type)
    config = LoraConfig(**settings)
    if fast:
        config._register_custom_module(_fast_modules())
    torch.manual_seed(recipe.seed)
    try:
        peft_model = get_peft_model(model, config)
    except ValueError as error:
        raise RunFailed(
            "the adapter cannot be attached", where="adapter.targets", why=str(error).splitlines()[0],
            fix=f"modules this base has: {', '.join(_linear_names(model))}",
        ) from error
    _name_base(peft_model, recipe.base)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return _loaded(peft_model, device, fast, notes, settings["target_modules"])


def load_with_adapter(base: Base, folder: Path, adapter: Path | None, device: str = "auto") -> LoadedModel:
    """Base plus a trained adapter for evaluation; ``adapter=None`` gives the base alone.

    Raises:
        RunFailed: the adapter does not belong to this base.
    """
    from peft import PeftModel

    place = pick_device(device)
    model = load_base(folder, base.quantisation, place)
    if adapter is None:
        return _loaded(model, place, fast=False, notes=(), targets=())
    try:
        peft_model = PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, RuntimeError) as error:
        raise RunFailed("the adapter does not fit this base", where=adapter.name, why=str(error).splitlines()[0]) from error
    return _loaded(peft_model, place, fast=False, notes=(), targets=())


def untrained_adapters(model: Any) -> list[str]:
    """Adapter matrices B without a gradient after a backward pass; each one is a module that cannot learn."""
    return [
        name
        for name, parameter in model.named_parameters()
        if "lora_B" in name and (parameter.grad is None or not bool(parameter.grad.abs().sum() > 0))
    ]


def _choose_path(recipe: Recipe, folder: Path, device: str) -> tuple[bool, tuple[str, ...]]:
    from transformers import AutoConfig

    from sovtune.fastpath import select

    if recipe.train.run.engine == "plain":
        return False, ("plain engine: asked for by train.run.engine",)
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    reasons = select.blockers(config, device=device, dropout=recipe.adapter.dropout)
    return not reasons, tuple(f"plain engine: {reason}" for reason in reasons)


def _attention(fast: bool) -> str:
    from sovtune.fastpath import attention

    if not fast:
        return "sdpa"
    attention.register()
    return attention.NAME


def _fast_modules() -> dict[type, type]:
    """PEFT's documented hook for custom layers: which adapter class wraps which linear class."""
    import bitsandbytes as bnb
    import torch

    from sovtune.fastpath.peft_layers import FastLinear, FastLinear4bit

    return {bnb.nn.Linear4bit: FastLinear4bit, torch.nn.Linear: FastLinear}


def _name_base(model: Any, base: Base) -> None:
    """PEFT writes the folder it loaded from; what is saved must name the Hub id and revision instead."""
    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path = base.model
    config.revision = base.revision


def _linear_names(model: Any) -> Sequence[str]:
    import torch

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return sorted(names - {"lm_head"})


def _loaded(model: Any, device: str, fast: bool, notes: tuple[str, ...], targets: Sequence[str]) -> LoadedModel:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(_real_count(parameter) for parameter in model.parameters())
    return LoadedModel(
        model=model, device=device, fast=fast, notes=notes, targets=tuple(targets),
        trainable_parameters=trainable, total_parameters=total,
    )


def _real_count(parameter: Any) -> int:
    """A 4-bit parameter stores two weights in a byte; its own shape is kept in quant_state."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())
