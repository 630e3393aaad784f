"""Several training processes on this machine, started and watched by torchrun's own agent."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sovtune.errors import EnvironmentFault, RunInterrupted, UsageError
from sovtune.launch.messages import STARTED_HERE, error_of
from sovtune.recipe_launch import Launch

GRACE_S = 3600
"""Seconds that workers have, after Ctrl-C, to finish their step and save it; a second Ctrl-C ends them at once."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What processes share on this machine: ``cpu`` with its cores, or ``cuda`` with its GPUs."""

    kind: str
    count: int


def check_processes(launch: Launch, device: Device) -> None:
    """Refuse what cannot be started from here.

    Raises:
        UsageError: several machines, which a command on one of them cannot start.
        EnvironmentFault: more processes than cores or GPUs.
    """
    if launch.nodes > 1:
        raise UsageError(
            f"the recipe asks for {launch.nodes} machines, this command starts processes on one",
            where="launch.nodes",
            fix="`sovtune train RECIPE --launch slurm` (or ray, skypilot) writes the job; --submit starts it",
        )
    if launch.processes > device.count:
        noun = "GPUs" if device.kind == "cuda" else "cores"
        raise EnvironmentFault(
            f"the recipe asks for {launch.processes} processes, this machine has {device.count} {noun}",
            where="launch.processes",
            why="processes that share one GPU or core are slower than one, and need its memory several times",
            fix=f"`--set launch.processes={device.count}`; losses and adapter do not depend on it",
        )


def threads_each(cores: int, processes: int) -> int:
    """Threads of each process, so that all together use the cores once."""
    return max(1, cores // processes)


def run_workers(arguments: Sequence[str], processes: int, *, cores: int) -> None:
    """Start ``python -m sovtune ARGUMENTS`` so many times as one group, and wait until all are done.

    They find each other, and exchange gradients, through the loopback interface. torchrun starts each in a session of
    its own: Ctrl-C reaches them once, through this process.

    Args:
        arguments: of the command.
        processes: how many.
        cores: of this machine, shared among them unless OMP_NUM_THREADS is set.

    Raises:
        SovtuneError: the error of the worker that failed first; RunInterrupted after Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # errors are told by us, once
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=GRACE_S,
    )
    shared = {
        STARTED_HERE: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_each(cores, processes))),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", LOOPBACK),
    }
    before = {name: os.environ.get(name) for name in shared}
    os.environ.update(shared)
    try:
        elastic_launch(config, sys.executable)("-m", "sovtune", *arguments)
    except ChildFailedError as error:
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        raise error_of([failure.error_file_data for failure in failures], failures[0].exitcode) from None
    except SignalException as error:
        raise RunInterrupted(
            f"stopped by {error.sigval.name}; the step under way was finished and saved"
        ) from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
