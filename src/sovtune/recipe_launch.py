"""The recipe's section for where the work runs: processes, nodes, and the programs that start them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.section import Conflict, Section, Text, form, unit

RAY_ADDRESS = r"^([^\s/:\[\]]+|\[[0-9A-Fa-f:]+\]):\d{1,5}$"
"""``host:port``, an IPv6 address in brackets."""


def ray_host(address: str) -> str:
    """The host in an address of a Ray cluster."""
    return address.rpartition(":")[0].strip("[]")


class Launch(Section):
    """Where the work runs; it changes how long it takes, not what comes out."""

    processes: int = Field(default=1, ge=1, le=64, json_schema_extra=unit("processes"))
    """Training processes on each node; one per GPU is usual."""
    nodes: int = Field(default=1, ge=1, le=4096, json_schema_extra=unit("nodes"))
    """Machines that train together; more than one needs `sovtune train --launch slurm`, ray or skypilot."""
    strategy: Literal["ddp", "fsdp2", "zero3"] = "ddp"
    """ddp: every process holds the base; fsdp2, zero3 (DeepSpeed): each holds a part of it."""
    data_engine: Literal["local", "ray"] = "local"
    """Who runs the data gate: processes on this machine, or a Ray cluster (extra sovtune[ray])."""
    data_workers: int | None = Field(default=None, ge=1, le=4096, json_schema_extra=unit("processes"))
    """Workers of the data gate; default one per core."""
    ray_address: str | None = Field(
        default=None, pattern=RAY_ADDRESS, json_schema_extra=form("host:port, such as head:6379")
    )
    """For ray: a cluster that this machine has joined, such as `head:6379`; default one of the run's own, here."""
    time_limit: str | None = Field(
        default=None,
        pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$",
        json_schema_extra=form("[days-]hours:minutes:seconds"),
    )
    """For slurm: the job is stopped after this time; it resumes when it is submitted again."""
    partition: Text | None = None
    """For slurm: the partition."""
    account: Text | None = None
    """For slurm: the account that pays."""
    accelerators: Text | None = None
    """For skypilot: kind and number of GPUs of a node, such as `L4:1`."""
    storage: str | None = Field(
        default=None, pattern=r"^[a-z0-9]+://\S+$", json_schema_extra=form("an address such as s3://bucket")
    )
    """For skypilot: where its machines keep runs and caches; else a machine that is taken away takes them along."""
    setup: tuple[Text, ...] = Field(default=(), max_length=32)
    """For slurm and skypilot: shell lines before training, such as `module load cuda`."""

    @property
    def world(self) -> int:
        """Training processes on all nodes together."""
        return self.processes * self.nodes

    @property
    def blockers(self) -> tuple[str, ...]:
        """Why layers cannot be computed by anything but their own forward pass; empty when they can."""
        if self.strategy == "ddp":
            return ()
        return (f"{self.strategy} gathers a layer only while its own forward pass runs",)

    def _ray_address_is_for_ray(self) -> Conflict | None:
        if self.ray_address is not None and self.data_engine != "ray":
            return Conflict("this is read only with `data_engine: ray`", ("ray_address",))
        return None

    def _parts_need_processes(self) -> Conflict | None:
        if self.strategy != "ddp" and self.world == 1:
            return Conflict(
                f"{self.strategy} shares the base among processes, and there is one", ("strategy",)
            )
        return None

    rules = (_ray_address_is_for_ray, _parts_need_processes)
