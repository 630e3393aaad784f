"""The processes that train together: who this one is, what they agree on, and the sum of their gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sovtune.errors import EnvironmentFault, RunFailed

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others; the first one may have to prepare data and measure a reference."""
BUCKET_ELEMENTS = 1 << 24
"""Gradients are summed in buffers of at most so many numbers (64 MiB in fp32)."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together; a run of one process is a group of one."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run folder and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sums([0.0])

    @contextmanager
    def lead_first(self) -> Iterator[None]:
        """The first process does the block before the others begin it."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def from_lead(self, value: T) -> T:
        """What the first process holds."""
        if self.world == 1:
            return value
        holder: list[object] = [value]
        with _named_faults():
            dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
        return cast(T, holder[0])

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return self.sums([float(flag)])[0] > 0 if self.world > 1 else flag

    def sums(self, values: Sequence[float]) -> list[float]:
        """Numbers added up over the processes, in fp64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _named_faults():
            dist.all_reduce(total)
        return [float(value) for value in total]

    def each(self, value: float) -> list[float]:
        """A number of every process, by rank."""
        return self.sums([value if rank == self.rank else 0.0 for rank in range(self.world)])

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes.

        A gradient that no process has stays absent (the optimizer passes the parameter over, as with one process);
        where only some have one the others count as zero.

        Args:
            parameters: the trained ones, in the same order everywhere.
        """
        if self.world == 1:
            return
        trained = list(parameters)
        held = self.sums([float(parameter.grad is not None) for parameter in trained])
        for parameter, count in zip(trained, held, strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            with _named_faults():
                dist.all_reduce(flat)
            flat /= self.world
            start = 0
            for gradient in bucket:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()


ALONE = Group()
"""The group of a run of one process."""


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one dtype and device together, in order, up to the size of a buffer (or a single larger one)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (
            gradient.dtype != bucket[0].dtype
            or gradient.device != bucket[0].device
            or sum(held.numel() for held in bucket) + gradient.numel() > BUCKET_ELEMENTS
        ):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@contextmanager
def joined(wanted: int) -> Iterator[Group]:
    """This process's place in the group that a launcher (torchrun, Ray Train) made; a group of one without a launcher.

    Args:
        wanted: processes that the recipe asks for, on all nodes together.

    Raises:
        EnvironmentFault: the launcher started another number of processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" not in os.environ or (world == 1 and wanted == 1):
        yield Group()
        return
    if world != wanted:
        raise _other_world(world, wanted)
    ours = not dist.is_initialized()
    if ours:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        with _named_faults():
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        group = Group(rank, world)
        present = int(group.sums([1.0])[0])  # what the processes say, not what the environment promises
        if present != wanted:
            raise _other_world(present, wanted)
        yield group
    finally:
        if ours:
            dist.destroy_process_group()


def _other_world(found: int, wanted: int) -> EnvironmentFault:
    return EnvironmentFault(
        f"{found} processes were started, the recipe asks for {wanted}",
        where="launch",
        why="launch.processes times launch.nodes is how many share a step",
        fix="start as many as the recipe says: `sovtune train RECIPE` does so on one machine, --launch on several",
    )


@contextmanager
def _named_faults() -> Iterator[None]:
    """A process that is gone shows as an error of the connection in those that wait for it."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no class of their own for it
        raise RunFailed(
            "another process of this run has ended", why=str(error).splitlines()[0] if str(error) else None
        ) from error
