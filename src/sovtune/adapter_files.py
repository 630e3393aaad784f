"""Adapters on disk: written so that they fit the published base, read back as the start of another run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sovtune.adapter_start import ADAPTER, lora_layers
from sovtune.errors import UsageError
from sovtune.recipe_base import Base

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
COMPARED = {
    "r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "target_modules": "adapter.targets",
    "use_dora": "adapter.dora",
    "use_rslora": "adapter.rslora",
    "layers_to_transform": "adapter.layers",
    "rank_pattern": "adapter.rank_pattern",
    "trainable_token_indices": "adapter.vocabulary",
    "modules_to_save": "adapter.vocabulary",
    "base_model_name_or_path": "base.model",
    "revision": "base.revision",
}
"""Key of PEFT's configuration -> key of the recipe; an adapter can only be continued where all of them agree."""


def save_adapter(model: Any, base: Base, tokenizer_folder: Path, target: Path) -> None:
    """Adapter, its configuration and the base's tokenizer in one folder, put in place by renaming.

    PEFT's placeholder README does not survive (the card is written from records, later), and the base is named by
    its Hub id and revision: PEFT would write the local folder it was loaded from.
    """
    with _replaced(target) as part:
        model.save_pretrained(str(part), save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)
        config = json.loads((part / CONFIG).read_text(encoding="utf-8"))
        config.update(base_model_name_or_path=base.model, revision=base.revision)
        if isinstance(
            config["target_modules"], list
        ):  # a set in PEFT: its order would change from run to run
            config["target_modules"].sort()
        _join_starts(model, part, config)
        _write_json(part / CONFIG, config)
        _copy_tokenizer(tokenizer_folder, part)


def save_model(model: Any, compute: str, tokenizer_folder: Path, target: Path) -> None:
    """A whole trained model with the base's tokenizer, as transformers loads it, put in place by renaming.

    Args:
        model: weights in fp32.
        compute: dtype they are written in, ``base.quantisation.compute``.
        tokenizer_folder: the base.
        target: the folder to make.
    """
    import torch

    dtype = getattr(torch, compute)
    # Tied weights are one tensor under two names; they must stay one, or they would be written twice.
    converted: dict[int, Any] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        state[name] = converted.setdefault(tensor.data_ptr(), tensor.to(wanted))
    with _replaced(target) as part:
        model.save_pretrained(str(part), state_dict=state)
        config = json.loads((part / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        config.update(dtype=compute, use_cache=True)
        _write_json(part / "config.json", config)
        _copy_tokenizer(tokenizer_folder, part)


def _join_starts(model: Any, folder: Path, config: dict[str, Any]) -> None:
    """Write a PiSSA adapter as the plain LoRA it amounts to: [A; A0] and [B, -B0], twice the rank, the same scale.

    The scale of a layer is alpha / r, or alpha / sqrt(r) with rslora; twice the rank needs 2 or sqrt(2) times alpha.
    """
    from safetensors.torch import load_file, save_file

    from sovtune.fastpath.principal import PrincipalStart

    starts = {
        name: layer.lora_variant[ADAPTER]
        for name, layer in lora_layers(model)
        if isinstance(layer.lora_variant.get(ADAPTER), PrincipalStart)
    }
    if not starts:
        return
    state = load_file(folder / WEIGHTS)
    for name, start in starts.items():
        a, b = (f"base_model.model.{name}.lora_{matrix}.weight" for matrix in "AB")
        state[a], state[b] = (joined.contiguous() for joined in start.joined(state[a], state[b]))
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config["r"] *= 2
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config["rank_pattern"] = {name: 2 * rank for name, rank in config["rank_pattern"].items()}


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A folder to write into; it takes the target's place, whole, when the block ends well."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    yield part
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter in a folder.

    Raises:
        UsageError: the folder holds no adapter in safetensors.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder.name} is no adapter: it has no {name}",
                where="adapter.continue_from",
                fix="name the folder `adapter` of a finished run, or one that was published",
            )
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config


def continue_from(model: Any, folder: Path, base: Base) -> None:
    """Begin with the weights of an earlier adapter.

    Args:
        model: the base with a fresh adapter as this recipe describes it.
        folder: the earlier adapter.
        base: the recipe's base.

    Raises:
        UsageError: the earlier adapter is of another kind or for another base; all differences are listed.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    earlier = read_config(folder)
    here = model.peft_config[ADAPTER].to_dict() | {
        "base_model_name_or_path": base.model,
        "revision": base.revision,
    }
    found = [
        f"{place}: {_plain(earlier.get(key))} there, {_plain(here[key])} here"
        for key, place in COMPARED.items()
        if _plain(earlier.get(key)) != _plain(here[key]) and not (key == "revision" and not earlier.get(key))
    ]
    state = load_file(folder / WEIGHTS)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    others = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if not found and shapes != others:
        name = min(key for key in {**shapes, **others} if shapes.get(key) != others.get(key))
        found = [f"{name}: {others.get(name, 'missing')} there, {shapes.get(name, 'missing')} here"]
    if found:
        raise UsageError(
            "the earlier adapter does not fit this recipe",
            where="adapter.continue_from",
            why="; ".join(found),
            fix="write its values into the recipe; an adapter made with `init: pissa` has twice its recipe's rank "
            "and alpha",
        )
    set_peft_model_state_dict(model, state, adapter_name=ADAPTER)


def _plain(value: Any) -> Any:
    """A value of the configuration in one form: PEFT writes sets, lists and empty values in several."""
    if isinstance(value, list | set | tuple):
        return sorted(value) or None
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()} or None
    return value or None
