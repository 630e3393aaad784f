"""Ray Train: workers on a Ray cluster; when one ends the group starts again from the last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sovtune.data.gate_ray_cluster import RayCluster, connected, named_ray_faults
from sovtune.errors import EnvironmentFault, RunFailed, SovtuneError
from sovtune.recipe_launch import Launch

RESTARTS = 3
"""How often a group that lost a worker is started again; machines that are taken away do not count."""
RECORDS = "ray"
"""Folder of a job for what Ray Train itself keeps."""
Settings = Mapping[str, Any]


def train_on_ray(
    launch: Launch, work: Callable[[Settings], None], settings: Settings, job_dir: Path, *, cuda: bool
) -> None:
    """Call ``work(settings)`` in as many Ray workers as the recipe asks for, as one group of torch.distributed.

    Args:
        launch: processes, nodes, and the cluster (``ray_address``; None starts one on this machine).
        work: a function of a module, so that workers import it.
        settings: plain values.
        job_dir: folder that all machines see.
        cuda: whether each worker needs a GPU.

    Raises:
        EnvironmentFault: Ray is missing or cannot be reached, or the cluster is too small.
        SovtuneError: what a worker raised, when starting again did not help.
    """
    if cuda and launch.ray_address is None:
        raise EnvironmentFault(
            "a Ray cluster that is started for one run uses no GPUs",
            where="launch.ray_address",
            fix="leave --launch out (processes of this machine), or start a cluster and name it in launch.ray_address",
        )
    # Workers print to Ray's log files; errors come back as errors.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    with (
        connected(RayCluster(address=launch.ray_address), launch.world, job_dir),
        named_ray_faults(launch.ray_address),
    ):
        _check_size(launch, cuda=cuda)
        _fit(launch, work, settings, job_dir, cuda=cuda)


def _check_size(launch: Launch, *, cuda: bool) -> None:
    import ray

    kind = "GPU" if cuda else "CPU"
    found = int(ray.cluster_resources().get(kind, 0))
    if found < launch.world:
        raise EnvironmentFault(
            f"the Ray cluster has {found} {kind}s for {launch.world} processes",
            where="launch",
            fix="start Ray on more machines, or lower launch.processes or launch.nodes",
        )


def _fit(
    launch: Launch, work: Callable[[Settings], None], settings: Settings, job_dir: Path, *, cuda: bool
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    trainer = TorchTrainer(
        work,
        train_loop_config=dict(settings),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if cuda else "gloo", timeout_s=7200),
        scaling_config=ScalingConfig(num_workers=launch.world, use_gpu=cuda),
        run_config=RunConfig(
            name=RECORDS,
            storage_path=str(job_dir),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _reason(error.worker_failures) from error
    except TrainingFailedError as error:
        raise RunFailed(
            "Ray Train could not finish the run", why=str(error).strip().splitlines()[-1]
        ) from error


def _reason(failures: Mapping[int, BaseException]) -> SovtuneError:
    """The worker's error that explains the failure; a lost neighbour explains less than what it died of."""
    found = []
    for rank in sorted(failures):
        error: BaseException | None = failures[rank]
        while error is not None and not isinstance(error, SovtuneError):
            error = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, SovtuneError):
            found.append(error)
    reasons = [error for error in found if "another process" not in error.what]
    if reasons or found:
        return (reasons or found)[0]
    first = failures[min(failures)]
    return RunFailed(
        f"a Ray worker ended with {type(first).__name__}, also after {RESTARTS} new starts",
        why=(str(first).strip().splitlines() or [""])[-1],
    )
