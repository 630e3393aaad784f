"""Load a base and what is trained on it, for training or evaluation, and write what was trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovtune.adapter_files import CONFIG, save_adapter, save_model
from sovtune.adapter_setup import attach, fast_modules, lora_settings, prepare_dora
from sovtune.errors import EnvironmentFault, RunFailed
from sovtune.fastpath.heap import keep_few_kernels
from sovtune.gpu_kernels import LIGER, TORCH_ONLY, Kernels, choose_kernels, installed_version
from sovtune.quantise import quantisation_settings, quiet_int8, unquantised_layers
from sovtune.recipe import Recipe
from sovtune.recipe_base import Quantisation
from sovtune.weights import lazy_tensors

ADAPTER_FOLDER, FULL_FOLDER = "adapter", "model"
"""Where a run keeps what it trained."""
GENERATION = "generation_config.json"


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
    kernels: Kernels = TORCH_ONLY


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


def load_base(folder: Path, quantisation: Quantisation, device: str, *, attention: str = "sdpa") -> Any:
    """The frozen base on its device.

    Raises:
        EnvironmentFault: the architecture is unknown to transformers, bitsandbytes cannot work here, or a layer of
            ``quantisation.skip`` is not there.
    """
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    keep_few_kernels()
    settings = quantisation_settings(quantisation, unquantised_layers(folder, quantisation.skip))
    config = BitsAndBytesConfig(**settings) if settings else None
    if quantisation.kind in ("nf4", "fp4"):
        from sovtune.fastpath.four_bit import use_quick_quantiser

        use_quick_quantiser()
    try:
        architecture = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with lazy_tensors(folder) as tensors:
            model = _causal_class(architecture).from_pretrained(
                None,
                config=architecture,
                state_dict=tensors,
                dtype=getattr(torch, quantisation.compute),
                quantization_config=config,
                attn_implementation=attention,
                device_map={"": device},
            )
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise EnvironmentFault(
            "the base cannot be loaded", where=folder.name, why=str(error).splitlines()[0]
        ) from error
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    if quantisation.kind == "int8":
        quiet_int8()
    model.config.use_cache = False
    model.name_or_path = str(folder)  # PEFT asks the Hub about a base without a place on disk at every save
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _causal_class(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"a base of type {config.model_type} does not write text")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def load_with_new_adapter(recipe: Recipe, folder: Path) -> LoadedModel:
    """Base plus a fresh adapter, or with ``full`` the base itself to be trained.

    The first forward pass equals the base's: B starts at zero or is subtracted again (pissa). Only ``loftq`` starts
    nearer to the base as it was before quantisation.

    Raises:
        EnvironmentFault: see ``load_base`` and ``adapter_setup.attach``.
        RunFailed: no module matched the targets.
        UsageError: something the recipe names is not in this base, or the earlier adapter does not fit.
    """
    device = pick_device(recipe.train.run.device)
    adapter, quantisation = recipe.adapter, recipe.base.quantisation
    if recipe.train.run.engine == "plain":
        reasons = ["asked for by train.run.engine"]
    else:
        reasons = _fast_blockers(folder, device, dropout=adapter.dropout, head_trained=adapter.trains_output)
    reasons += recipe.launch.blockers
    fast, notes = not reasons, tuple(f"plain engine: {reason}" for reason in reasons)
    kernels = _gpu_kernels(recipe, folder) if device == "cuda" else TORCH_ONLY
    notes += kernels.notes
    if adapter.kind == "full":
        # AdamW in bf16 loses small updates: weights are fp32, products run in quantisation.compute
        whole = load_base(folder, Quantisation(kind="none", compute="float32"), device)
        for parameter in whole.parameters():
            parameter.requires_grad_(True)
        return replace(_loaded(whole, device, fast, notes, ("all weights",)), kernels=kernels)
    attention = _attention(fast) if device == "cpu" else kernels.attention
    model = load_base(folder, quantisation, device, attention=attention)
    adapted = attach(model, recipe, folder, fast=fast)
    targets = lora_settings(adapter, model.config.model_type)["target_modules"]
    return replace(_loaded(adapted, device, fast, notes, targets), kernels=kernels)


def load_with_adapter(
    folder: Path, quantisation: Quantisation, adapter: Path | None, *, device: str = "auto"
) -> LoadedModel:
    """Base plus a trained adapter for evaluation; ``adapter=None`` gives the base, or a fully trained model, alone.

    Raises:
        EnvironmentFault: see ``load_base``.
        RunFailed: the adapter does not belong to this base.
    """
    from peft import LoraConfig, PeftModel

    place = pick_device(device)
    reasons = _fast_blockers(folder, place, dropout=0.0, head_trained=_trains_output(adapter))
    model = load_base(folder, quantisation, place, attention=_attention(not reasons))
    if adapter is not None:
        try:
            config = LoraConfig.from_pretrained(str(adapter))
            if not reasons:
                config._register_custom_module(fast_modules())
            elif config.use_dora:
                prepare_dora(model)
            model = PeftModel.from_pretrained(model, str(adapter), config=config)
        except (ValueError, RuntimeError) as error:
            raise RunFailed(
                "the adapter does not fit this base", where=adapter.name, why=str(error).splitlines()[0]
            ) from error
    return _loaded(model, place, fast=not reasons, notes=tuple(reasons), targets=())


def load_teacher(recipe: Recipe, quantisation: Quantisation, folder: Path) -> LoadedModel:
    """A model that is asked and never trained.

    Raises:
        EnvironmentFault: see ``load_base``.
    """
    from sovtune.fastpath.four_bit import keep_as_stored

    device = pick_device(recipe.train.run.device)
    if recipe.train.run.engine == "plain":
        reasons = ["asked for by train.run.engine"]
    else:
        reasons = _fast_blockers(folder, device, dropout=0.0, head_trained=False)
    model = load_base(folder, quantisation, device, attention=_attention(not reasons)).eval()
    if device == "cpu":
        keep_as_stored(model)
    notes = tuple(f"plain engine: {reason}" for reason in reasons)
    return _loaded(model, device, fast=not reasons, notes=notes, targets=())


class WithBase:
    """A fully trained model beside its base, with the switch of a PEFT model that evaluation uses.

    Everything is asked of the trained model; within ``disable_adapter()`` of the base.
    """

    def __init__(self, trained: Any, base: Any):
        self._models = (trained, base)
        self._now = trained

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within the block this is the base."""
        trained, self._now = self._models
        try:
            yield
        finally:
            self._now = trained

    def set_attn_implementation(self, name: str) -> None:
        """Choose the attention of both."""
        for model in self._models:
            model.set_attn_implementation(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass."""
        return self._now(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


def load_trained(recipe: Recipe, folder: Path, run_dir: Path) -> LoadedModel:
    """What a run trained, as it was saved, with a way back to the base (``model.disable_adapter()``).

    Args:
        recipe: with paths resolved.
        folder: the base.
        run_dir: the run.

    Raises:
        EnvironmentFault: see ``load_base``.
        RunFailed: the adapter does not belong to this base.
    """
    quantisation, device = recipe.base.quantisation, recipe.train.run.device
    if recipe.adapter.kind != "full":
        return load_with_adapter(folder, quantisation, run_dir / ADAPTER_FOLDER, device=device)
    base = load_with_adapter(folder, quantisation, None, device=device)
    trained = load_with_adapter(run_dir / FULL_FOLDER, quantisation, None, device=device)
    return replace(trained, model=WithBase(trained.model, base.model))


def save_trained(
    recipe: Recipe, model: Any, tokenizer_folder: Path, run_dir: Path, *, name: str = ""
) -> Path:
    """Write what was trained to ``adapter``, or with ``full`` to ``model``, in the run folder; returns that folder.

    Args:
        recipe: says which of the two it is.
        model: as it was loaded for training.
        tokenizer_folder: the base, whose tokenizer goes along.
        run_dir: the run.
        name: another name for the folder.
    """
    if recipe.adapter.kind == "full":
        target = run_dir / (name or FULL_FOLDER)
        save_model(model, recipe.base.quantisation.compute, tokenizer_folder, target)
    else:
        target = run_dir / (name or ADAPTER_FOLDER)
        save_adapter(model, recipe.base, tokenizer_folder, target)
    return target


def _trains_output(adapter: Path | None) -> bool:
    """Whether a saved adapter holds rows of the output layer; then its head is no plain product."""
    if adapter is None or not (adapter / CONFIG).is_file():
        return False
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    return bool(config.get("trainable_token_indices") or config.get("modules_to_save"))


def _fast_blockers(folder: Path, device: str, *, dropout: float, head_trained: bool) -> list[str]:
    from transformers import AutoConfig

    from sovtune.fastpath import select

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    return select.blockers(config, device=device, dropout=dropout, head_trained=head_trained)


def _gpu_kernels(recipe: Recipe, folder: Path) -> Kernels:
    import torch
    from transformers import AutoConfig

    from sovtune.fastpath import select
    from sovtune.fastpath.head_loss import liger_model_types

    if recipe.train.run.engine == "plain":
        return TORCH_ONLY
    full = recipe.adapter.kind == "full"
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    blockers = select.loss_blockers(config, head_trained=full or recipe.adapter.trains_output)
    blockers += recipe.launch.blockers
    if recipe.distil is not None:
        blockers.append("the recipe has a teacher")
    if _head_has_bias(folder):
        blockers.append("the output layer has a bias")
    finer = recipe.train.finer
    return choose_kernels(
        capability=torch.cuda.get_device_capability(),
        compute="float32" if full else recipe.base.quantisation.compute,
        layers_known=installed_version(LIGER) is None or config.model_type in liger_model_types(),
        loss_blockers=blockers,
        shaped_loss=bool(finer.label_smoothing or finer.z_loss),
    )


def _head_has_bias(folder: Path) -> bool:
    """Whether logits are more than a product with the output layer's weight, as those of phi are."""
    with lazy_tensors(folder) as tensors:
        return "lm_head.bias" in tensors


def _attention(fast: bool) -> str:
    from sovtune.fastpath import attention

    if not fast:
        return "sdpa"
    attention.register()
    return attention.NAME


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
