"""A job for Slurm: torchrun on every node, a warning before the time is up, and requeueing until the run is done."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sovtune.errors import EnvironmentFault, RunFailed, UsageError
from sovtune.recipe_launch import Launch

WARNING_S = 300
"""Seconds before the time limit at which the job is told to save a checkpoint and go back into the queue."""
PORT = 29500
"""torchrun's usual port; the job's own number is added so that two jobs on a node do not meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a job runs: the command's arguments, the folder it starts in, where its files are, how it is stopped."""

    name: str
    arguments: Sequence[str]
    folder: Path
    job_dir: Path
    stop_file: Path
    python: str
    home: Path
    gpus: bool


def seconds(limit: str) -> int:
    """``[days-]hours:minutes:seconds`` as seconds."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, rest = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def sbatch_script(job: Job, launch: Launch) -> str:
    """The text of the job.

    Data is prepared once, on the first node, before the nodes train together. At the warning before the time limit
    (or when Slurm takes the nodes away) the job asks the run to stop by a file: the processes finish their step, save
    it and end, and the job puts itself back into the queue and goes on from there. A signal would not do: srun answers
    SIGTERM by ending all processes within half a minute.

    Args:
        job: what runs.
        launch: nodes, processes and what the cluster wants to know.

    Raises:
        UsageError: the time limit leaves no room for the warning, or a name would break its line.
    """
    options = [
        f"--job-name={_word(job.name, 'name')}",
        f"--nodes={launch.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={launch.processes}" if not job.gpus else f"--gpus-per-node={launch.processes}",
        f"--output={_path(job.job_dir)}/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
    ]
    if launch.partition is not None:
        options.append(f"--partition={_word(launch.partition, 'launch.partition')}")
    if launch.account is not None:
        options.append(f"--account={_word(launch.account, 'launch.account')}")
    if launch.time_limit is not None:
        if seconds(launch.time_limit) <= 2 * WARNING_S:
            raise UsageError(
                f"a time limit of {launch.time_limit} leaves no time to train",
                where="launch.time_limit",
                why=f"{WARNING_S} seconds of it are for the last checkpoint",
                fix=f"ask for more than {2 * WARNING_S // 60} minutes",
            )
        options.append(f"--time={launch.time_limit}")
    options.append(f"--signal=B:USR1@{WARNING_S}")
    command = [job.python, "-m", "sovtune"]
    prepare = shlex.join([*command, "data", *job.arguments])
    train = [
        job.python, "-m", "torch.distributed.run", f"--nnodes={launch.nodes}",
        f"--nproc-per-node={launch.processes}", "--rdzv-backend=c10d", "--max-restarts=0",
    ]  # fmt: skip
    module = shlex.join(["-m", "sovtune", "train", *job.arguments, "--resume"])
    return _TEXT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        folder=shlex.quote(str(job.folder)),
        home=shlex.quote(str(job.home)),
        setup="".join(f"{line}\n" for line in launch.setup),
        prepare=prepare,
        torchrun=shlex.join(train),
        module=module,
        port=PORT,
        stop=shlex.quote(str(job.stop_file)),
    )


_TEXT = """#!/bin/bash
{options}

# Written by `sovtune train RECIPE --launch slurm`; give the command again after changing the recipe.
set -euo pipefail
cd {folder}
export SOVTUNE_HOME={home}
{setup}
stopping= status=0
rm -f {stop}
stop() {{
    stopping=1
    touch {stop}
}}
trap stop USR1 TERM
again() {{ scontrol requeue "$SLURM_JOB_ID"; exit "$1"; }}

# Once, before the nodes meet.
{prepare}
if [ -n "$stopping" ]; then again 0; fi

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$(({port} + SLURM_JOB_ID % 10000))
srun --kill-on-bad-exit=1 {torchrun} \\
    --rdzv-id="$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" --rdzv-endpoint="$first:$port" \\
    {module} &
step=$!
wait "$step" || status=$?
if [ -n "$stopping" ]; then
    status=0
    wait "$step" || status=$?  # the first wait ended with the signal
    if [ "$status" -ne 0 ]; then again "$status"; fi
fi
exit "$status"
"""


def _word(text: str, where: str) -> str:
    if not re.fullmatch(r"[\w.,@:+-]+", text):
        raise UsageError(
            f"{text!r} cannot stand in a line of a Slurm job", where=where, fix="write it without spaces"
        )
    return text


def _path(path: Path) -> str:
    """A path in an option line, in which Slurm knows no quotes but `%` stands for numbers of the job."""
    text = str(path)
    if re.search(r"[\s\"'\\]", text):
        raise UsageError(
            "the run folder has a space or quote in its path, which a Slurm job's options cannot hold",
            where=text,
            fix="give --runs-dir another folder",
        )
    return text.replace("%", "%%")


def submit(script: Path) -> str:
    """Give the job to Slurm; returns what it answers, such as ``Submitted batch job 42``.

    Raises:
        EnvironmentFault: this machine has no ``sbatch``.
        RunFailed: Slurm refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise EnvironmentFault(
            "this machine has no `sbatch`",
            where=str(script),
            why="jobs are submitted where Slurm's commands are, usually on a login node",
            fix=f"`sbatch {script}` there, or without --submit only write the job",
        )
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(
            "Slurm refused the job",
            where=str(script),
            why=done.stderr.strip() or f"sbatch ended with code {done.returncode}",
            fix="correct launch: in the recipe (partition, account, time_limit), then give the command again",
        )
    return done.stdout.strip()
