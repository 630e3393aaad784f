"""Load the base, quantise it, attach the adapter: the only home of peft and bitsandbytes outside the fast path."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault, RunFailed
from sovtune.families import family
from sovtune.recipe import Recipe
from sovtune.recipe_adapter import Adapter
from sovtune.recipe_base import Base, Quantisation

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


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


def lora_settings(adapter: Adapter, model_type: str) -> dict[str, Any]:
    """Keyword arguments of LoraConfig.

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
    if recipe.train.run.engine == "plain":
        reasons = ["asked for by train.run.engine"]
    else:
        reasons = _fast_blockers(folder, device, dropout=recipe.adapter.dropout)
    fast, notes = not reasons, tuple(f"plain engine: {reason}" for reason in reasons)
    model = load_base(folder, recipe.base.quantisation, device, attention=_attention(fast))
    settings = lora_settings(recipe.adapter, model.config.model_type)
    if not _matches_any(model, settings["exclude_modules"]):
        settings["exclude_modules"] = None
    config = LoraConfig(**settings)
    if fast:
        config._register_custom_module(_fast_modules())
    torch.manual_seed(recipe.seed)
    try:
        peft_model = get_peft_model(model, config)
    except ValueError as error:
        raise RunFailed(
            "the adapter cannot be attached",
            where="adapter.targets",
            why=str(error).splitlines()[0],
            fix=f"modules this base has: {', '.join(_linear_names(model))}",
        ) from error
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return _loaded(peft_model, device, fast, notes, settings["target_modules"])


def load_with_adapter(
    folder: Path, quantisation: Quantisation, adapter: Path | None, *, device: str = "auto"
) -> LoadedModel:
    """Base plus a trained adapter for evaluation; ``adapter=None`` gives the base alone.

    Raises:
        EnvironmentFault: see ``load_base``.
        RunFailed: the adapter does not belong to this base.
    """
    from peft import LoraConfig, PeftModel

    place = pick_device(device)
    reasons = _fast_blockers(folder, place, dropout=0.0)
    model = load_base(folder, quantisation, place, attention=_attention(not reasons))
    if adapter is not None:
        try:
            config = LoraConfig.from_pretrained(str(adapter))
            if not reasons:
                config._register_custom_module(_fast_modules())
            model = PeftModel.from_pretrained(model, str(adapter), config=config)
        except (ValueError, RuntimeError) as error:
            raise RunFailed(
                "the adapter does not fit this base", where=adapter.name, why=str(error).splitlines()[0]
            ) from error
    return _loaded(model, place, fast=not reasons, notes=tuple(reasons), targets=())


def save_adapter(model: Any, base: Base, tokenizer_folder: Path, target: Path) -> None:
    """Adapter, its configuration and the base's tokenizer in one folder, put in place by renaming.

    PEFT's placeholder README does not survive (the card is written from records, later), and the base is named by
    its Hub id and revision: PEFT would write the local folder it was loaded from.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(str(part), save_embedding_layers=False)
    (part / "README.md").unlink(missing_ok=True)
    config_path = part / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config.update(base_model_name_or_path=base.model, revision=base.revision)
    if isinstance(config["target_modules"], list):  # a set in PEFT: its order would change from run to run
        config["target_modules"].sort()
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, part / name)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def untrained_adapters(model: Any) -> list[str]:
    """Adapter matrices B without a gradient after a backward pass; each one is a module that cannot learn."""
    return [
        name
        for name, parameter in model.named_parameters()
        if "lora_B" in name and (parameter.grad is None or not bool(parameter.grad.abs().sum() > 0))
    ]


def _fast_blockers(folder: Path, device: str, *, dropout: float) -> list[str]:
    from transformers import AutoConfig

    from sovtune.fastpath import select

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    return select.blockers(config, device=device, dropout=dropout)


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


def _loaded(
    model: Any, device: str, fast: bool, notes: tuple[str, ...], targets: Sequence[str]
) -> LoadedModel:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(_real_count(parameter) for parameter in model.parameters())
    return LoadedModel(
        model=model,
        device=device,
        fast=fast,
        notes=notes,
        targets=tuple(targets),
        trainable_parameters=trainable,
        total_parameters=total,
    )


def _real_count(parameter: Any) -> int:
    """A 4-bit parameter stores two weights in a byte; its own shape is kept in quant_state."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())
