"""Recipe -> settings of the trainer, as plain values: pure, testable without torch."""

from __future__ import annotations

from typing import Any

from sovtune.recipe import Recipe

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Names of ours -> names of transformers' schedulers; warm-up is linear in all of them."""


def trainer_settings(
    recipe: Recipe, *, steps: int, rows_per_step: int, output_dir: str, device: str
) -> dict[str, Any]:
    """Keyword arguments of ``trl.SFTConfig`` for a run of ``steps`` steps over rows that are already in order.

    Data reaches the trainer finished (ids and labels), so everything that would prepare, truncate, pack or reorder
    it is off. bf16 autocast stays off too: the model has its dtype already, and PEFT would copy weights to fp32.
    """
    train = recipe.train
    micro_rows = min(train.run.micro_rows or 1, rows_per_step)
    return {
        "output_dir": output_dir,
        "max_steps": steps,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": max(1, rows_per_step // micro_rows),
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": SCHEDULES[train.schedule],
        "warmup_steps": round(train.warmup * steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.clip,
        "optim": "adamw_torch_fused",
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": False,
        "use_cpu": device == "cpu",
        "activation_checkpointing": train.run.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": train.run.checkpoint_steps,
        "save_total_limit": None,
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
