"""The machine a run is planned for: its device and the memory that is free on it, found without torch."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sovtune.errors import EnvironmentFault
from sovtune.gpu_table import GIB, find_gpu

GPU_EFFICIENCY = 0.3
"""Share of a GPU's peak that a step is taken to reach. An assumption: large pretraining runs report 0.4 to 0.5 (PaLM,
arXiv 2204.02311, reports 0.46), restoring 4-bit weights, small batches and short rows cost part of that."""
DRIVER_SHARE = 0.02
"""Share of a GPU's memory that its driver keeps."""
POWERCAP = Path("/sys/class/powercap")
CGROUPS = Path("/sys/fs/cgroup")
# (folder below the root, limit, used, statistics, key of the file pages that can be given back), versions 2 and 1
_GROUP_FILES = (
    ("", "memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the run takes place.

    ``flops`` is the speed its matrix products reach, ``watts`` its power, ``speed_note`` where the two come from; None
    where nobody has said so.
    """

    device: str
    memory_available_bytes: int
    name: str = "this machine"
    flops: float | None = None
    watts: float | None = None
    speed_note: str = ""


def this_machine(device: str) -> Machine:
    """This machine as it is now: main memory for ``cpu`` and ``auto``, the first GPU's for ``cuda``.

    Raises:
        EnvironmentFault: ``cuda``, and the driver's nvidia-smi does not tell its memory.
    """
    if device == "cuda":
        return Machine(device="cuda", memory_available_bytes=_free_cuda_memory())
    return Machine(device="cpu", memory_available_bytes=available_memory())


def named_machine(name: str) -> Machine:
    """A GPU of ``gpu_table``, empty.

    Raises:
        UsageError: the table does not know it.
    """
    gpu = find_gpu(name)
    note = (
        f"time from {gpu.teraflops:g} TFLOP/s of the data sheet, of which {GPU_EFFICIENCY:.0%} are assumed to be "
        "reached; nothing was measured on this GPU"
    )
    if not gpu.bfloat16:
        note += "; it has no bfloat16 units, so that products run at its fp32 speed"
    return Machine(
        device="cuda",
        memory_available_bytes=round(gpu.memory_gib * GIB * (1 - DRIVER_SHARE)),
        name=gpu.name,
        flops=gpu.teraflops * 1e12 * GPU_EFFICIENCY,
        watts=gpu.watts,
        speed_note=note,
    )


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
    rooms = []
    for controller, *files in _GROUP_FILES:
        top = root / controller
        here = top / group.lstrip("/")
        places = [place for place in (here, *here.parents) if place.is_relative_to(top)]
        rooms += [room for place in places if (room := _room(place, *files)) is not None]
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
    """This process's group: that of the memory controller (version 1), else of the unified hierarchy, else the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return group_of(lines)


def group_of(lines: Sequence[str]) -> str:
    """The path of the group whose memory is limited, from the lines of /proc/self/cgroup."""
    places = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    memory = next((path for names, path in places.items() if "memory" in names.split(",")), None)
    return memory if memory is not None else places.get("", "/")


def rapl_joules(root: Path = POWERCAP) -> float | None:
    """What the processors' energy counters (RAPL) stand at, in joules; None where they cannot be read."""
    try:
        packages = [path / "energy_uj" for path in root.iterdir() if path.name.count(":") == 1]
        return sum(int(path.read_text()) for path in packages) / 1e6 if packages else None
    except OSError:
        return None


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
