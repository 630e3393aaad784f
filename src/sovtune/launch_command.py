"""`sovtune train RECIPE --launch`: the job for Slurm or SkyPilot into the run folder, or the run on Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from socket import gethostname
from typing import Any

from sovtune.base import cache_home
from sovtune.errors import UsageError
from sovtune.launch import skypilot, slurm
from sovtune.launch.slurm import Job
from sovtune.progress import Reporter
from sovtune.recipe_file import LoadedRecipe, load_recipe
from sovtune.runs import LAUNCH, STOP, RunFolder, write_atomic
from sovtune.train_command import RunOptions

LAUNCHERS = ("slurm", "ray", "skypilot")
SCRIPT, TASK = "job.sbatch", "task.yaml"


def check_launcher(launcher: str | None, *, submit: bool, restart: bool) -> None:
    """Refuse a launcher that does not exist, and options that contradict it.

    Raises:
        UsageError: see there.
    """
    if launcher is not None and launcher not in LAUNCHERS:
        raise UsageError(
            f"there is no launcher {launcher!r}", where="--launch", fix=f"one of {', '.join(LAUNCHERS)}"
        )
    if submit and launcher not in ("slurm", "skypilot"):
        raise UsageError(
            "--submit starts a job that was written, and none would be",
            fix="add --launch slurm or skypilot; without them, and with ray, the run starts at once",
        )
    if restart and launcher in ("slurm", "skypilot"):
        raise UsageError(
            "a job that is stopped and started again goes on; it cannot begin anew each time",
            fix="remove the old run folder or give the recipe another name",
        )


def write_job(
    launcher: str, loaded: LoadedRecipe, options: RunOptions, report: Reporter, *, submit: bool
) -> Path:
    """Write the job's file, and give it to Slurm or SkyPilot when asked to; returns the file.

    Raises:
        UsageError: the recipe does not say what the launcher needs.
        EnvironmentFault: to be submitted, and the launcher's program is not here.
        RunFailed: the launcher refuses the job.
    """
    report.stage("launch")
    path = _write_slurm(loaded, options) if launcher == "slurm" else _write_skypilot(loaded, options)
    report.say(f"{path} written")
    if not submit:
        report.say("nothing was started; --submit does it")
    elif launcher == "slurm":
        report.say(slurm.submit(path))
    else:
        report.say(skypilot.submit(path, loaded.recipe.name))
    return path


def _job_dir(loaded: LoadedRecipe, options: RunOptions) -> Path:
    folder = options.runs_dir.absolute() / loaded.recipe.name / LAUNCH
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _arguments(recipe: Path, runs_dir: Path, options: RunOptions) -> list[str]:
    arguments = [str(recipe), "--runs-dir", str(runs_dir)]
    arguments += ["--offline"] * options.offline
    return arguments + [word for value in options.sets for word in ("--set", value)]


def _write_slurm(loaded: LoadedRecipe, options: RunOptions) -> Path:
    job_dir = _job_dir(loaded, options)
    job = Job(
        name=loaded.recipe.name,
        arguments=_arguments(loaded.path.absolute(), options.runs_dir.absolute(), options),
        folder=Path.cwd(),
        job_dir=job_dir,
        stop_file=job_dir / STOP,
        python=sys.executable,
        home=cache_home().absolute(),
        gpus=loaded.recipe.train.run.device != "cpu",
    )
    write_atomic(job_dir / SCRIPT, slurm.sbatch_script(job, loaded.recipe.launch))
    return job_dir / SCRIPT


def _write_skypilot(loaded: LoadedRecipe, options: RunOptions) -> Path:
    here = Path.cwd()
    for path in (loaded.path.absolute(), *_local_files(loaded)):
        if not path.is_relative_to(here):
            raise UsageError(
                f"{path} is not in the folder that SkyPilot would copy",
                where=str(here),
                fix="give the command in a folder that holds the recipe, its cards and their data",
            )
    job_dir = _job_dir(loaded, options)
    job = Job(
        name=loaded.recipe.name,
        arguments=_arguments(
            loaded.path.absolute().relative_to(here),
            Path(f"{skypilot.home(loaded.recipe.launch)}/runs"),
            options,
        ),
        folder=here,
        job_dir=job_dir,
        stop_file=job_dir / STOP,
        python="python",
        home=Path(skypilot.home(loaded.recipe.launch)),
        gpus=True,
    )
    write_atomic(job_dir / TASK, skypilot.task_text(skypilot.task(job, loaded.recipe.launch)))
    return job_dir / TASK


def _local_files(loaded: LoadedRecipe) -> list[Path]:
    recipe = loaded.resolved()
    cards = [Path(source.card) for source in recipe.data]
    if recipe.evaluate is not None:
        cards += [Path(held.card) for held in (*recipe.evaluate.texts, *recipe.evaluate.pairs)]
    return cards


def train_with_ray(loaded: LoadedRecipe, options: RunOptions, report: Reporter) -> Path:
    """Prepare the run here, then train it in the workers of a Ray cluster; returns the run folder.

    Raises:
        SovtuneError: see ``ray_train.train_on_ray`` and ``pipeline.run``.
    """
    from dataclasses import replace

    from sovtune import pipeline
    from sovtune.launch.ray_train import train_on_ray
    from sovtune.model import pick_device

    launch = loaded.recipe.launch
    folder: RunFolder = pipeline.run(loaded, replace(options, upto="plan"), report)
    report.stage("train")
    report.say(f"{launch.world} processes on Ray; steps are written to {folder.path / 'metrics.jsonl'}")
    settings = {
        "recipe": str(loaded.path.absolute()),
        "sets": list(options.sets),
        "runs_dir": str(options.runs_dir.absolute()),
        "home": str(cache_home().absolute()),
        "folder": str(Path.cwd()),
    }
    cuda = pick_device(loaded.recipe.train.run.device) == "cuda"
    train_on_ray(launch, train_as_ray_worker, settings, _job_dir(loaded, options), cuda=cuda)
    return folder.path


def train_as_ray_worker(settings: Mapping[str, Any]) -> None:
    """In a worker of Ray Train: train as one process of the group, from the newest checkpoint on."""
    os.environ["SOVTUNE_HOME"] = settings["home"]
    os.chdir(settings["folder"])
    from rich.console import Console

    from sovtune import pipeline
    from sovtune.network import air_gap_environment, guard_egress

    air_gap_environment(offline=True)  # the base is in the cache: the command that started us put it there
    guard_egress({gethostname(), os.environ.get("MASTER_ADDR", "localhost")})
    loaded = load_recipe(Path(settings["recipe"]), settings["sets"])
    options = RunOptions(runs_dir=Path(settings["runs_dir"]), upto="train", offline=True)
    pipeline.run(loaded, options, Reporter(Console(stderr=True), quiet=True))
