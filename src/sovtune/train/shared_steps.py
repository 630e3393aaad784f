"""A step shared by several processes: each takes some of its rows, together they do what one process does alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from sovtune.errors import UsageError
from sovtune.train.group import Group
from sovtune.train.out_of_memory import RecoveringTrainer


def cut_step(num_rows: int, micro_rows: int, world: int) -> list[range]:
    """The rows of a step in micro-batches of nearly equal size, one after the other.

    Their number is a multiple of ``world`` where there are enough rows, so that processes do equal work.

    Args:
        num_rows: rows of the step.
        micro_rows: most rows of a micro-batch.
        world: processes.
    """
    wanted = -(-num_rows // micro_rows)
    count = min(-(-wanted // world) * world, num_rows)
    bounds = [num_rows * index // count for index in range(count + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]


def shared_batches(
    num_rows: int, *, rows_per_step: int, micro_rows: int, group: Group, equal: bool
) -> list[list[int]]:
    """The micro-batches of one process, step after step: indices of rows.

    The micro-batches of a step are dealt out in turn, so that all processes together read the rows of every step that
    one process would read.

    Args:
        num_rows: rows in training order.
        rows_per_step: of all processes together.
        micro_rows: most rows of a micro-batch.
        group: this process and the others.
        equal: refuse steps in which processes have different numbers of micro-batches (sharded models meet in each).

    Raises:
        UsageError: some step has too few rows for all processes.
    """
    mine: list[list[int]] = []
    for start in range(0, num_rows, rows_per_step):
        rows = min(rows_per_step, num_rows - start)
        pieces = cut_step(rows, micro_rows, group.world)
        if rows < group.world or (equal and len(pieces) % group.world):
            raise _cannot_share(rows, num_rows, rows_per_step, group.world)
        mine += [[start + row for row in piece] for piece in pieces[group.rank :: group.world]]
    return mine


def _cannot_share(rows: int, num_rows: int, rows_per_step: int, world: int) -> UsageError:
    last = rows < rows_per_step and num_rows > rows_per_step
    return UsageError(
        f"{'the last step' if last else 'a step'} has {rows} rows for {world} processes",
        where="launch.processes",
        why="each process needs a part of every step, with fsdp2 and zero3 parts of the same size",
        fix=f"write `train.steps: {num_rows // rows_per_step}` instead of epochs, or use fewer processes"
        if last
        else f"make train.batch_tokens a multiple of {world} times train.rows.max_length, or use fewer processes",
    )


class SharingTrainer(RecoveringTrainer):
    """A trainer for one of several processes; with ``ddp`` and ``fsdp2`` it averages gradients once per step.

    Transformers wraps the model in DistributedDataParallel, which checks that all processes hold the same parameters
    and takes their values from the first. Its forward is passed by, and with it its reduction: our losses call modules
    inside the model, which that reduction does not see, and processes may have different numbers of micro-batches.
    """

    def __init__(self, *, group: Group, strategy: str, rows_per_step: int, **kwargs: Any):
        self.group = group
        self.strategy = strategy
        self.sharded = strategy != "ddp"
        self.rows_per_step = rows_per_step
        super().__init__(**kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's part of every step."""
        if self.group.world == 1:
            alone: DataLoader[Any] = super().get_train_dataloader()
            return alone
        batches = shared_batches(
            len(self.train_dataset),
            rows_per_step=self.rows_per_step,
            micro_rows=self.args.per_device_train_batch_size,
            group=self.group,
            equal=self.sharded,
        )
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | float | None = None
    ) -> Tensor:
        """A micro-batch of this process; after the last one of a step all processes hold the same gradients.

        Losses are sums divided by ``num_items_in_batch``, which counts the whole step over all processes. Gradients
        and logged losses are averaged over processes, so that a process's share is multiplied by their number.
        """
        if self.group.world == 1 or num_items_in_batch is None:
            alone: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return alone
        share = num_items_in_batch / self.group.world
        if self.strategy == "zero3":  # DeepSpeed reduces and keeps the gradients itself
            theirs: Tensor = super().training_step(model, inputs, share)
            return theirs
        loss: Tensor = super().training_step(self.accelerator.unwrap_model(model), inputs, share)
        if self.accelerator.sync_gradients:
            self.group.average_gradients(
                parameter for parameter in self.model.parameters() if parameter.requires_grad
            )
        return loss


def micro_batches_per_step(rows_per_step: int, micro_rows: int, group: Group) -> int:
    """How many micro-batches of a full step this process has."""
    return len(cut_step(rows_per_step, micro_rows, group.world)[group.rank :: group.world])
