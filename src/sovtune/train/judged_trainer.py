"""The engine's trainer for preference methods: rows with a reference, a loss per pair or judged answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sovtune.model import LoadedModel
from sovtune.recipe_preference import WITH_REFERENCE, PreferenceSettings
from sovtune.train.engine import Trainer, TrainJob
from sovtune.train.judged_rows import JudgedCollator, JudgedRows
from sovtune.train.judging import Judging, answer_log_probs
from sovtune.train.reference import REFERENCE, reference_key, reference_log_probs
from sovtune.train.rows import FlatCollator, PaddedCollator, Row


class JudgedTrainer(Trainer):
    """The trainer with losses of ``Judging``: sums over pairs or answers divided by those of the whole step."""

    def __init__(self, *, judging: Judging, judged_rows: JudgedRows, **kwargs: Any):
        super().__init__(**kwargs)
        self.judging = judging
        self.train_dataset = judged_rows  # its constructor accepts data sets of its own library only

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of a step and the number of pairs or answers that its loss is divided by."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, items
        model, gather = self.accelerator.unwrap_model(self.model_wrapped), self.accelerator.gather
        self.judging.begin_step(model, self._causal(model), batches, gather)
        units = torch.tensor([sum(self.judging.units(batch) for batch in batches)], device=device)
        return batches, gather(units).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Mean loss over the step's pairs or answers (this micro-batch's part of it)."""
        mask = inputs.get("attention_mask")
        self.counts.tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        units = self.judging.units(inputs) if num_items_in_batch is None else num_items_in_batch
        return self.judging.loss(model, self._causal(model), inputs) / units

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's log with its rewards, for trackers."""
        rewards = self.counts.rewards.means() if "loss" in logs else {}
        super().log({**logs, **rewards}, start_time)

    def _causal(self, model: Any) -> Any:
        """The causal model inside the adapter; the model itself where all weights are trained."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def judged_trainer(
    job: TrainJob, loaded: LoadedModel, settings: PreferenceSettings, common: dict[str, Any]
) -> JudgedTrainer:
    """The trainer of a preference method, after the reference was measured.

    Args:
        job: rows, counts and folders.
        loaded: the model as training begins.
        settings: of the method.
        common: arguments of ``Trainer``.

    Raises:
        DataRefused: kto, and answers hardly ever meet another prompt in their step.
    """
    collator = common["data_collator"]
    return JudgedTrainer(
        judging=Judging(settings, common["counts"], fast=loaded.fast),
        judged_rows=_judged_rows(job, loaded, settings.method, collator),
        **{**common, "data_collator": JudgedCollator(collator)},
    )


def _judged_rows(
    job: TrainJob, loaded: LoadedModel, method: str, collator: FlatCollator | PaddedCollator
) -> JudgedRows:
    rows = JudgedRows(job.rows, rows_per_step=job.rows_per_step, mismatches=method == "kto")
    rows.refuse_single_prompts()
    if method not in WITH_REFERENCE:
        return rows
    causal = loaded.model.get_base_model()

    def measure(row: Row) -> list[float]:
        batch = {
            name: value.to(loaded.device) if isinstance(value, Tensor) else value
            for name, value in collator([row]).items()
        }
        sums, _ = answer_log_probs(loaded.model, causal, batch, fast=loaded.fast)
        return [float(value) for value in sums]

    key = reference_key(job.fingerprint, loaded.model, f"fast {loaded.fast} on {loaded.device}")
    loaded.model.eval()
    with torch.no_grad():
        rows.reference = job.group.from_lead(
            reference_log_probs(rows.all_rows(), measure, job.run_dir / REFERENCE, key, job.tick)
            if job.group.leads
            else {}
        )
    loaded.model.train()
    return rows
