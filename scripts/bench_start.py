#!/usr/bin/env python
"""Seconds from the command to its first training step: sovtune's first and second run beside trl, LLaMA-Factory, swift.

    python scripts/bench_start.py CORPORA --peers trl llamafactory swift

Everybody gets work A of bench_train.py (256 dialogues, SmolLM2-135M in NF4, rank 16) as a file of JSON lines and trains
three steps. sovtune's `first` run begins with an empty cache but for the base, and checks, curates and packs the rows;
`second` is the same recipe under another name, as in a search for settings: its rows are ready. The time
of the first step itself is taken off: it is what is left when three steps took three times as long as one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from bench_peers import COMMANDS, HOME, PEERS, programs
from bench_train import THREADS, demonstration_base, run, work_a

STEPS = 3


def write_project(folder: Path, data: Path, base: Path) -> Path:
    """A data card and a recipe for the rows; returns the recipe."""
    rows = folder / "train.jsonl"
    shutil.copyfile(data, rows)
    content = rows.read_bytes()
    card = {
        "schema_version": 1, "id": "bench", "version": "1", "title": "benchmark dialogues",
        "files": [{"path": rows.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
                   "rows": content.count(b"\n")}],
        "languages": [{"tag": "ko", "share": 1.0}], "licence": {"expression": "CC0-1.0"},
        "rights": {"basis": "own-work", "training": "yes"}, "sources": [{"kind": "own", "name": "benchmark"}],
        "annotation": {"by": "nobody"}, "personal_data": {"contains": "none"}, "contact": "nobody",
        "format": {"kind": "chat"},
    }  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    recipe = {
        "schema_version": 1, "name": "bench", "language": "ko", "seed": 1, "method": "sft",
        "base": {"model": "bench/base", "revision": "main", "licence": "Apache-2.0",
                 "mirrors": [{"folder": str(base)}], "quantisation": {"kind": "nf4"}},
        "data": [{"card": "card.yaml"}], "curate": {}, "card": {"licence": "apache-2.0"},
        "train": {"steps": STEPS, "batch_tokens": 1024, "rows": {"max_length": 512}},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return path


def sovtune_start(recipe: Path, home: Path, name: str) -> float:
    """Seconds until the first step of `sovtune train` began.

    Raises:
        SystemExit: the command failed.
    """
    folder = recipe.parent
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "SOVTUNE_HOME": str(home)}
    command = [str(programs("sovtune") / "sovtune"), "train", str(recipe)]
    command += ["--set", f"name={name}", "--runs-dir", str(folder)]
    metrics = folder / name / "metrics.jsonl"
    begun = time.monotonic()
    child = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen = 0.0
    while child.poll() is None:
        if not seen and metrics.exists() and metrics.read_text().count("\n"):
            seen = time.monotonic() - begun
        time.sleep(0.01)
    if child.returncode or not seen:
        sys.exit(f"sovtune failed:\n{child.stdout.read().decode() if child.stdout else ''}")
    first = json.loads(metrics.read_text().splitlines()[0])
    return seen - float(first["seconds"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--peers", nargs="*", default=[], choices=sorted(PEERS))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    base = demonstration_base()
    work = work_a(given.corpora, base, HOME / "work" / "A")
    seconds: dict[str, list[float]] = {}
    few = replace(work, rows=work.rows[: STEPS * work.batch])
    data = work.folder / "train.jsonl"
    whole = data.read_text(encoding="utf-8")
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            recipe = write_project(folder, data, base)
            for name in ("first", "second"):
                seconds.setdefault(f"sovtune, {name} run", []).append(
                    sovtune_start(recipe, folder / "home", name)
                )
        for peer in given.peers:
            data.write_text("".join(whole.splitlines(keepends=True)[: len(few.rows)]), encoding="utf-8")
            seconds.setdefault(peer, []).append(run(peer, COMMANDS[peer](few, base)).first_step_seconds)
            data.write_text(whole, encoding="utf-8")
    show(seconds)


def show(seconds: dict[str, list[float]]) -> None:
    """The table: medians, and how they compare with the best peer."""
    medians: dict[str, float] = {name: statistics.median(values) for name, values in seconds.items()}
    peers: list[Any] = [value for name, value in medians.items() if not name.startswith("sovtune")]
    for name, value in medians.items():
        share = f"  {value / min(peers):.2f} of the best peer" if peers else ""
        print(f"{name:22} {value:6.1f} s{share}")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
