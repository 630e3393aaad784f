"""What `sovtune run` prints at the end: where things are, what changed, three answers, the next commands."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sovtune.records import EvalReport, PublishReceipt
from sovtune.runs import RunFolder, result_folder

SAMPLES, WIDTH = 3, 160


def _short(text: str) -> str:
    """One line of at most WIDTH characters, for a terminal."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _program() -> str:
    """How to call sovtune from here: by name when it is on PATH, else by its place (quickstart.sh: .venv/bin)."""
    started = Path(sys.argv[0])
    found = shutil.which("sovtune")
    if started.name != "sovtune" or (found and Path(found).resolve() == started.resolve()):
        return "sovtune"
    return os.path.relpath(started)


def summary(run_dir: Path, recipe: Path) -> str:
    """The closing text of a run, from its records."""
    folder = RunFolder(run_dir)
    report = folder.need("evaluate", EvalReport)
    receipt = folder.load("publish", PublishReceipt)
    lines = ["", "Where everything is"]
    trained = result_folder(run_dir)
    places = [
        (trained.name, trained),
        ("model card", run_dir / "README.md"),
        ("report", run_dir / "report.html"),
    ]
    lines += [f"  {name:<11} {place}" for name, place in places]
    if receipt is not None:
        lines.append(f"  {'published':<11} {receipt.target}, tag {receipt.tag}")
    lines += ["", "Bits per byte, base -> adapter (less is better; 95 % interval of the change)"]
    for score in report.scores:
        low, high = score.change_interval
        lines.append(
            f"  {score.language:<4} {score.base:.3f} -> {score.adapter:.3f}   {score.change_percent:+.1f} % "
            f"({low:+.1f} to {high:+.1f})   {score.card_id}, {score.documents} texts"
        )
    if report.samples:
        lines += ["", "Answers, base -> adapter (greedy)"]
    for sample in report.samples[:SAMPLES]:
        lines += [
            f"  > {_short(sample.prompt)}",
            f"    base:    {_short(sample.base)}",
            f"    adapter: {_short(sample.adapter)}",
        ]
    program = _program()
    lines += ["", "Next"]
    lines += [
        f"  {program} check {recipe} --explain     where every setting comes from",
        f"  {program} data {recipe} --show 3       what the model learnt from, token by token",
        f"  {program} publish {run_dir} --to hub:ORG/NAME --endpoint URL --dry-run   what would be published",
    ]
    return "\n".join(lines)
