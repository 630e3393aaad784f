"""Peak memory of `sovtune data scan` and its workers, for a small and a large input of the same kind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench_data_texts import MB, enlarged, long_rows, need_disk, write_held_out, write_rows

OFTEN = 0.1
"""Seconds between two looks; the peak of a process only grows, so the last look before its end is all but exact."""


@dataclass(frozen=True)
class Peak:
    """What one scan needed; bytes of resident memory."""

    megabytes: float
    seconds: float
    parent: int
    workers: list[int]
    together: int

    @property
    def total(self) -> int:
        """The peaks of all processes added up, as if they fell together."""
        return self.parent + sum(self.workers)


def measure(corpora: Path, scratch: Path, megabytes: float, workers: int) -> Peak:
    """Make text, scan it in processes of its own, and remove both."""
    need_disk(scratch, megabytes)
    text, held_out, work = scratch / "made.jsonl", scratch / "held-out.jsonl", scratch / "memory-work"
    size = write_rows(enlarged(long_rows(corpora), megabytes * MB), [text])
    write_held_out(corpora, held_out)
    command = [
        sys.executable, "-m", "sovtune", "data", "scan", str(text), "--language", "ko", "--candidates", "ko,en",
        "--against", str(held_out), "--workers", str(workers), "--work", str(work),
        "--out", str(scratch / "kept.jsonl"), "--quiet", "--json",
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "SOVTUNE_HOME": str(scratch)}
    )
    peaks: dict[int, int] = {}
    together = 0
    try:
        while process.poll() is None:
            now = {one: figures for one in family(process.pid) if (figures := resident(one)) is not None}
            for one, (_, peak) in now.items():
                peaks[one] = max(peak, peaks.get(one, 0))
            together = max(together, sum(current for current, _ in now.values()))
            time.sleep(OFTEN)
    finally:
        process.kill()  # when this program is ended early; its workers end with it
        process.wait()
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"the scan of {megabytes:g} MB ended with {process.returncode}")
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    text.unlink()
    parent = peaks.pop(process.pid)
    return Peak(size / MB, seconds, parent, sorted(peaks.values(), reverse=True), together)


def family(root: int) -> list[int]:
    """A process and all that descend from it, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            parent = int(fields.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for one in found:
        found += children.get(one, [])
    return found


def resident(process: int) -> tuple[int, int] | None:
    """Bytes that a process holds now and has held at most; None when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    figures = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    if "VmHWM" not in figures:
        return None
    return 1024 * int(figures["VmRSS"][0]), 1024 * int(figures["VmHWM"][0])


def shown(peak: Peak) -> str:
    """One line."""
    workers = " + ".join(f"{one / MB:.0f}" for one in peak.workers) or "none"
    return (
        f"{peak.megabytes:>7,.0f} MB {peak.seconds:>7.0f} s {peak.megabytes / peak.seconds:>6.2f} MB/s   "
        f"parent {peak.parent / MB:.0f} MB, others {workers} MB, added up {peak.total / MB:.0f} MB, "
        f"at one time {peak.together / MB:.0f} MB"
    )
