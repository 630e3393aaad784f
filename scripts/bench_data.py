"""Measure the data gate on real Korean text: MB/s per step and in all, and peak memory for a small and a large input.

    python scripts/bench_data.py CORPORA                              # the Korean files below, once
    python scripts/bench_data.py CORPORA --small 50 --large 1000      # and memory: MB of repeated, perturbed text

CORPORA is a folder with python_docs_ko/ko.jsonl and libreoffice_help/ko.jsonl; ud_korean_kaist/test.txt is held out.
Perturbed text has one word in three exchanged, so that repeats are no near-duplicates and stay in the search.
Megabytes are UTF-8 bytes of text, powers of ten. Peak memory is that of the main process and of its largest worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_report import DataGateReport
from sovtune.data.gate_settings import GateSettings

KOREAN = ("python_docs_ko/ko.jsonl", "libreoffice_help/ko.jsonl")
HELD_OUT = "ud_korean_kaist/test.txt"
EXCHANGED = 1 / 3
MB = 1e6


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--workers", type=int, default=1, help="processes for the speed of the whole")
    parser.add_argument("--small", type=float, metavar="MB")
    parser.add_argument("--large", type=float, metavar="MB")
    parser.add_argument("--scratch", type=Path, help="folder for made text and the gate's work")
    arguments = parser.parse_args()
    files = [arguments.corpora / name for name in KOREAN]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        run(files, arguments.corpora / HELD_OUT, folder / "warm", 1)  # models are loaded and pages cached
        before = time.process_time()
        report, seconds, _ = run(files, arguments.corpora / HELD_OUT, folder / "speed", arguments.workers)
        show_speed(report, seconds, time.process_time() - before, arguments.workers)
        peaks = {}
        for megabytes in (arguments.small, arguments.large):
            if megabytes:
                made = folder / f"made-{megabytes:g}.jsonl"
                write_perturbed(files, made, megabytes * MB)
                peaks[megabytes] = in_fresh_process(
                    made, arguments.corpora / HELD_OUT, folder / "memory", arguments.workers
                )
                made.unlink()
        if len(peaks) == 2:
            small, large = peaks[arguments.small], peaks[arguments.large]
            print(f"peak memory {arguments.large:g} MB / {arguments.small:g} MB: {large / small:.2f}")
    return 0


def run(files: list[Path], held_out: Path, work: Path, workers: int) -> tuple[DataGateReport, float, int]:
    """The gate over some files: its report, wall seconds, peak bytes of this process and its largest child."""
    sources = [GateSource(file=LocalFile(path=path, shown=path.name)) for path in files]
    against = [GateSource(file=LocalFile(path=held_out, shown=held_out.name), any_fields=True)]
    settings = GateSettings(language="ko", candidates=("ko", "en"))
    begun = time.perf_counter()
    with curate(sources, settings, work, held_out=against, workers=workers) as curated:
        for _ in curated.rows():
            pass
        seconds = time.perf_counter() - begun
        own, child = (
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return curated.report, seconds, 1024 * (own + child)


def show_speed(report: DataGateReport, seconds: float, cpu: float, workers: int) -> None:
    """A line for each step and one for the whole."""
    print(f"{'step':<14} {'rows':>8} {'dropped':>8} {'seconds':>8} {'MB/s':>8}")
    for step in report.steps:
        pace = step.bytes / MB / step.seconds if step.seconds else float("inf")
        print(
            f"{step.name:<14} {step.rows:>8,} {step.rows - step.kept:>8,} {step.seconds:>8.2f} {pace:>8.1f}"
        )
    total = report.bytes_read / MB
    print(f"in all {total:.1f} MB in {seconds:.1f} s with {workers} worker(s): {total / seconds:.2f} MB/s")
    if workers == 1:
        print(
            f"per core: {total / cpu:.2f} MB/s of processor time (what counts when the machine has other work)"
        )


def texts(files: list[Path]) -> Iterator[str]:
    """The `text` of every row."""
    for path in files:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)["text"]


def write_perturbed(files: list[Path], path: Path, wanted: float) -> None:
    """Repeat the texts, words exchanged, until there are ``wanted`` bytes of text."""
    chance = random.Random(1)
    words = sorted({word for text in texts(files) for word in text.split()})
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < wanted:
            for text in texts(files):
                lines = (
                    " ".join(
                        chance.choice(words) if chance.random() < EXCHANGED else word for word in line.split()
                    )
                    for line in text.split("\n")
                )
                made = "\n".join(lines)
                stream.write(json.dumps({"text": made}, ensure_ascii=False) + "\n")
                written += len(made.encode())
                if written >= wanted:
                    break


def in_fresh_process(path: Path, held_out: Path, work: Path, workers: int) -> int:
    """Peak memory of a run of its own; what was measured is printed."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(path, held_out, work, workers, sender))
    process.start()
    peak, seconds, read, rows = receiver.recv()
    process.join()
    print(
        f"{read / MB:.0f} MB, {rows:,} rows, {workers} worker(s): {seconds:.0f} s, {read / MB / seconds:.2f} MB/s, "
        f"peak memory {peak / MB:.0f} MB",
        flush=True,
    )
    return int(peak)


def measure(
    path: Path, held_out: Path, work: Path, workers: int, sender: multiprocessing.connection.Connection
) -> None:
    """Run and send back peak bytes, seconds, bytes read and rows."""
    report, seconds, peak = run([path], held_out, work / path.stem, workers)
    sender.send((peak, seconds, report.bytes_read, report.rows))


if __name__ == "__main__":
    sys.exit(main())
