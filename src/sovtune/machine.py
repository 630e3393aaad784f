"""The machine a run is planned for: its device and the memory that is free on it, found without torch."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from sovtune.errors import EnvironmentFault

CGROUPS = Path("/sys/fs/cgroup")
# (limit, used, statistics, key of the file pages that can be given back), of control groups version 2 and 1
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the run takes place; ``flops`` is the speed of its matrix products, when somebody measured it."""

    device: str
    memory_available_bytes: int
    flops: float | None = None


def this_machine(device: str) -> Machine:
    """This machine as it is now: main memory for ``cpu`` and ``auto``, the first GPU's for ``cuda``.

    Raises:
        EnvironmentFault: ``cuda``, and the driver's nvidia-smi does not tell its memory.
    """
    if device == "cuda":
        return Machine(device="cuda", memory_available_bytes=_free_cuda_memory())
    return Machine(device="cpu", memory_available_bytes=available_memory())


def available_memory() -> int:
    """Bytes of main memory this process may still take: what is free, or what its container leaves."""
    import psutil

    free = psutil.virtual_memory().available
    room = group_room(CGROUPS, _own_group())
    return free if room is None else min(free, room)


def group_room(root: Path, group: str) -> int | None:
    """Bytes left under the tightest memory limit of a control group and those above it; None without one.

    Args:
        root: where control groups are mounted.
        group: path of the process's group below it.
    """
    here = root / group.lstrip("/")
    places = [place for place in (here, *here.parents) if place.is_relative_to(root)]
    rooms = [room for place in places for files in _GROUP_FILES if (room := _room(place, *files)) is not None]
    return min(rooms, default=None)


def _room(place: Path, limit: str, used: str, statistics: str, key: str) -> int | None:
    try:
        most = (place / limit).read_text().strip()
        if most == "max":
            return None
        taken = int((place / used).read_text())
        lines = (place / statistics).read_text().splitlines()
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    reclaimable = sum(int(line.split()[1]) for line in lines if line.split()[0] == key)
    return max(0, int(most) - taken + reclaimable)


def _own_group() -> str:
    """This process's group in the unified hierarchy; the root where there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def _free_cuda_memory() -> int:
    """Bytes free on the first GPU as the driver counts them (in MiB); importing torch would take seconds."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return int(done.stdout.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise EnvironmentFault(
            "the memory of the CUDA device is unknown",
            where="train.run.device",
            why=f"nvidia-smi does not tell it ({type(error).__name__})",
            fix="plan on the machine that has the GPU, or set train.run.device: cpu",
        ) from error
