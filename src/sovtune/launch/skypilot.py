"""A task for SkyPilot: written as YAML, started as a managed job that goes on after its machine was taken away."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from sovtune.errors import EnvironmentFault, RunFailed, UsageError
from sovtune.launch.slurm import PORT, Job
from sovtune.recipe_launch import Launch
from sovtune.yaml_file import Value
from sovtune.yaml_write import yaml_lines

STORED, UNSTORED = "/sovtune", "$HOME/sovtune"
"""On the task's machines: where ``launch.storage`` is mounted, and where runs and caches are without it."""
ACCELERATORS = r"[A-Za-z0-9][\w.-]*(:\d+)?"


def home(launch: Launch) -> str:
    """Folder of runs and caches on the task's machines."""
    return STORED if launch.storage is not None else UNSTORED


def task(job: Job, launch: Launch) -> dict[str, Value]:
    """The values of the task's YAML.

    The working folder (recipe, cards, data) is what SkyPilot copies to its machines, when it is submitted and not
    before. Rank and address of each node come from the variables that SkyPilot sets.

    Args:
        job: what runs; its folder must hold the recipe and everything it names.
        launch: nodes, processes, accelerators, setup.

    Raises:
        UsageError: the accelerators are missing or written wrong, or do not fit the processes.
    """
    if launch.accelerators is None or not re.fullmatch(ACCELERATORS, launch.accelerators):
        raise UsageError(
            "SkyPilot needs the kind and number of GPUs of a node"
            if launch.accelerators is None
            else f"{launch.accelerators!r} names no accelerators",
            where="launch.accelerators",
            fix="write `accelerators: L4:1`; `sky show-gpus` lists the kinds",
        )
    count = int(launch.accelerators.partition(":")[2] or 1)
    if count != launch.processes:
        raise UsageError(
            f"{launch.accelerators} is {count} GPUs a node for {launch.processes} processes",
            where="launch.accelerators",
            fix=f"write `processes: {count}`, or another number behind the kind",
        )
    if launch.nodes > 1 and launch.storage is None:
        raise UsageError(
            f"{launch.nodes} machines need a folder that all of them see",
            where="launch.storage",
            fix="write `storage: s3://BUCKET` (or gs://, r2:// ...); SkyPilot mounts it on every machine",
        )
    if not launch.setup:
        raise UsageError(
            "SkyPilot's machines start without sovtune",
            where="launch.setup",
            fix="write the lines that install it, such as `setup: [python -m pip install WHEEL_OR_INDEX]`",
        )
    arguments = " ".join(_quoted(argument) for argument in job.arguments)
    run = (
        "set -euo pipefail\n"
        'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then\n'
        f"    python -m sovtune data {arguments}\n"
        "fi\n"
        'first=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
        f"python -m torch.distributed.run --nnodes={launch.nodes} --nproc-per-node={launch.processes} "
        '--node-rank="$SKYPILOT_NODE_RANK" --rdzv-backend=static --rdzv-conf=timeout=7200,read_timeout=7200 '
        f'--master-addr="$first" --master-port={PORT} '
        f"-m sovtune train {arguments} --resume\n"
    )
    values: dict[str, Value] = {
        "name": job.name,
        "workdir": str(job.folder),
        "num_nodes": launch.nodes,
        "resources": {"accelerators": launch.accelerators},
        "setup": "set -e\n" + "".join(f"{line}\n" for line in launch.setup),
        "run": f"export SOVTUNE_HOME={home(launch)}/cache\n{run}",
    }
    if launch.storage is not None:
        values["file_mounts"] = {STORED: {"source": launch.storage, "mode": "MOUNT"}}
    return values


def task_text(values: dict[str, Value]) -> str:
    """The task as YAML, its scripts as blocks that people can read."""
    scripts = {name: str(values[name]) for name in ("setup", "run")}
    rest = {name: value for name, value in values.items() if name not in scripts}
    lines = [line for line, _ in yaml_lines(rest)]
    for name, text in scripts.items():
        lines += [f"{name}: |", *(f"  {line}" if line else "" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def _quoted(argument: str) -> str:
    """For the shell; the home folder of the machine it runs on stays a variable."""
    before, home_name, rest = argument.partition(UNSTORED)
    return f'"{UNSTORED}"{shlex.quote(rest)}' if home_name and not before else shlex.quote(argument)


def submit(path: Path, name: str) -> str:
    """Start the task as a managed job, which SkyPilot recovers; returns the last line it prints.

    Raises:
        EnvironmentFault: this machine has no ``sky``.
        RunFailed: SkyPilot refuses the task.
    """
    if shutil.which("sky") is None:
        raise EnvironmentFault(
            "this machine has no `sky`",
            where=str(path),
            why="SkyPilot is a program of its own; sovtune only writes its task",
            fix=f"install SkyPilot, then `sky jobs launch {path}`; nothing was sent anywhere",
        )
    command = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(
            "SkyPilot refused the task",
            where=str(path),
            why=(done.stderr.strip().splitlines() or ["no reason given"])[-1],
            fix="`sky check` shows which machines it may use",
        )
    return (done.stdout.strip().splitlines() or ["submitted"])[-1]
