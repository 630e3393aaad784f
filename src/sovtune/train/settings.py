"""Recipe -> settings of the trainer, as plain values: pure, testable without torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault
from sovtune.gpu_kernels import Kernels
from sovtune.recipe import Recipe
from sovtune.recipe_train import WSD_DECAY

SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
}
"""Names of ours -> names of transformers' schedulers; warm-up is linear in all of them."""
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw8bit": "paged_adamw_8bit"}
"""Names of ours -> names of transformers' optimizers."""
TRACKER_HOMES = "trackers"
"""Folder of a run below which trackers keep their files."""


def check_settings(recipe: Recipe, device: str) -> None:
    """Refuse what this machine cannot do, before anything is loaded.

    Raises:
        EnvironmentFault: adamw8bit without CUDA, or a package that is missing.
    """
    check_packages(recipe)
    if recipe.train.finer.optimizer == "adamw8bit" and device != "cuda":
        raise EnvironmentFault(
            f"adamw8bit needs a CUDA device, this run is on {device}",
            where="train.finer.optimizer",
            why="its paged state lives in GPU memory",
            fix="write `optimizer: adamw`; on a CPU the adapter's fp32 state is a small part of the memory",
        )


def check_packages(recipe: Recipe) -> None:
    """Whether the optional packages that a recipe asks for are here; nothing is imported.

    Raises:
        EnvironmentFault: a tracker or DeepSpeed is missing.
    """
    if recipe.launch.strategy == "zero3" and find_spec("deepspeed") is None:
        raise EnvironmentFault(
            "zero3 needs the package deepspeed",
            where="launch.strategy",
            fix='pip install "sovtune[deepspeed]", or write `strategy: fsdp2`, which needs nothing else',
        )
    for name in recipe.train.run.trackers:
        if find_spec(name) is None:
            raise EnvironmentFault(
                f"the tracker {name} is not installed",
                where="train.run.trackers",
                fix=f'pip install "sovtune[{name}]", or take {name} out of the list; '
                "metrics.jsonl is written in any case",
            )


def tracker_environment(recipe: Recipe, run_dir: Path) -> dict[str, str]:
    """Environment variables that keep every tracker's files in the run folder and off the network."""
    home = run_dir.absolute() / TRACKER_HOMES
    settings = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(home / "tensorboard")},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": recipe.name,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_MLFLOW_LOG_ARTIFACTS": "false",
        },
        "trackio": {
            "TRACKIO_DIR": str(home / "trackio"),
            # each of these would send the metrics somewhere else
            "TRACKIO_SPACE_ID": "",
            "TRACKIO_SERVER_URL": "",
            "TRACKIO_BUCKET_ID": "",
            "TRACKIO_WEBHOOK_URL": "",
        },
        "wandb": {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(home),
            "WANDB_PROJECT": recipe.name,
            "WANDB_LOG_MODEL": "false",
            "WANDB_SILENT": "true",
        },
    }
    return {key: value for name in recipe.train.run.trackers for key, value in settings[name].items()}


def trainer_settings(
    recipe: Recipe, *, steps: int, rows_per_step: int, output_dir: str, device: str
) -> dict[str, Any]:
    """Keyword arguments of ``trl.SFTConfig`` for a run of ``steps`` steps over rows that are already in order.

    Data reaches the trainer finished (ids and labels), so everything that would prepare, truncate, pack or reorder
    it is off. bf16 autocast stays off too: the model has its dtype already, and PEFT would copy weights to fp32.
    Only ``full`` needs it: its weights are fp32, because AdamW in bf16 loses small updates.
    """
    train = recipe.train
    warmup_steps = round(train.warmup * steps)
    zero3 = recipe.launch.strategy == "zero3"
    mixed = recipe.adapter.kind == "full" and recipe.base.quantisation.compute == "bfloat16"
    micro_rows = min(train.run.micro_rows or 1, rows_per_step)
    return {
        "output_dir": output_dir,
        "max_steps": steps,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": max(1, rows_per_step // micro_rows),
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": SCHEDULES[train.schedule],
        "lr_scheduler_kwargs": _fall(recipe, steps, warmup_steps) if train.schedule == "wsd" else None,
        "warmup_steps": warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.clip,
        "optim": OPTIMIZERS[train.finer.optimizer],
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": mixed,
        "use_cpu": device == "cpu" and not zero3,  # see sharding.begin_deepspeed
        "activation_checkpointing": train.run.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of other steps instead
        "save_strategy": "steps",
        "save_steps": train.run.checkpoint_steps,
        "save_total_limit": None,
        "report_to": list(train.run.trackers) or "none",
        "run_name": recipe.name,
        "project": recipe.name,
        "push_to_hub": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "accelerator_config": {"use_configured_state": zero3 and device == "cpu"},
        "deepspeed": deepspeed_config() if zero3 else None,
    }


def layer_settings(kernels: Kernels) -> dict[str, Any]:
    """Settings that let transformers put Liger's norms, rotary positions and MLP in place of the model's own.

    Its losses stay off: the loss is ours (see ``fastpath.head_loss``).
    """
    if kernels.layers != "liger":
        return {}
    config = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True, "layer_norm": True}
    losses = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    return {"use_liger_kernel": True, "liger_kernel_config": config | losses}


def deepspeed_config() -> dict[str, Any]:
    """DeepSpeed's own configuration for ZeRO stage 3; `auto` is filled in by transformers from the settings above.

    The optimizer is ours (torch's AdamW), as with the other strategies; checkpoints gather the parts of the weights.
    """
    return {
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
    }


def _fall(recipe: Recipe, steps: int, warmup_steps: int) -> dict[str, Any]:
    """The falling part of wsd: a straight line to 0 over the last share of the steps."""
    share = WSD_DECAY if recipe.train.finer.decay is None else recipe.train.finer.decay
    return {
        "num_decay_steps": min(max(1, round(share * steps)), steps - warmup_steps),
        "decay_type": "linear",
    }
