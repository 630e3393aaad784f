"""The engine's trainer for distillation: rows with what the teacher said, and a loss of text and teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sovtune.fastpath.distil_loss import Shape, Taught, distillation_loss
from sovtune.recipe_distil import Distil
from sovtune.train.engine import Trainer, TrainJob
from sovtune.train.objective import logits_distillation
from sovtune.train.taught import TaughtCollator, TaughtRows, TaughtStore


class DistilledTrainer(Trainer):
    """The trainer with a loss that follows the text and a teacher."""

    def __init__(self, *, section: Distil, taught_rows: TaughtRows, **kwargs: Any):
        super().__init__(**kwargs)
        self.shape = Shape(section.weight, section.temperature)
        self.train_dataset = taught_rows  # its constructor accepts data sets of its own library only

    def _sum_of_losses(self, model: Any, ids: dict[str, Any], labels: Tensor) -> Tensor:
        """As the engine's, with the teacher."""
        taught = Taught(ids.pop("taught_ids"), ids.pop("taught_log_probs"))
        if self.fast:
            return distillation_loss(*self._states(model, ids), labels, taught, self.shape)
        return logits_distillation(model(**ids, use_cache=False).logits, labels, taught, self.shape)


def distilled_trainer(
    job: TrainJob, section: Distil, store: TaughtStore, common: dict[str, Any]
) -> DistilledTrainer:
    """The trainer of a recipe with a teacher, which has read the rows.

    Args:
        job: rows, counts and folders.
        section: the recipe's.
        store: what the teacher found likely.
        common: arguments of ``Trainer``.
    """
    return DistilledTrainer(
        section=section,
        taught_rows=TaughtRows(job.rows, store),
        **{**common, "data_collator": TaughtCollator(common["data_collator"], store)},
    )
