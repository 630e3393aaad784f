"""The data gate's report for people: a table for the terminal, and a page of its own."""

from __future__ import annotations

import io
import os
import shutil

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sovtune import __version__, figures
from sovtune.data.gate_report import DataGateReport, GateStep
from sovtune.gate_words import STEP_NAMES, reason_in_words
from sovtune.report import environment

GATE_PAGE = "gate.html"
"""The gate's page in a run folder; it shows text of the data, so it is on no list of what is published."""


def report_table(report: DataGateReport, width: int | None = None) -> str:
    """The report as text for a terminal, with one example per reason.

    Args:
        report: the finished report.
        width: columns; those of the terminal when None.
    """
    stream = io.StringIO()
    columns = width or shutil.get_terminal_size((110, 24)).columns
    console = Console(file=stream, width=columns, highlight=False, color_system=None)
    console.print(_head(report), soft_wrap=True)
    console.print(_steps(report))
    for title, shares in (("before", report.languages_before), ("after", report.languages_after)):
        listed = ", ".join(f"{tag} {figures.share(share)}" for tag, share in list(shares.items())[:6])
        console.print(Text(f"Languages {title + ':':<8} {listed or 'none'}"), soft_wrap=True)
    if report.personal_data:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in report.personal_data.items())
        console.print(Text(f"Personal data and secrets: {counts}"), soft_wrap=True)
    for held_out in report.held_out:
        line = f"Held-out {held_out.name}: {held_out.texts:,} texts, {held_out.hits:,} rows overlapped"
        short = f"; {held_out.too_short:,} texts are too short to be looked for inside others"
        console.print(Text(line + (short if held_out.too_short else "")), soft_wrap=True)
    return stream.getvalue().rstrip("\n")


def _head(report: DataGateReport) -> Text:
    share = report.kept / report.rows if report.rows else 0.0
    files = f"{len(report.inputs)} file{'s' if len(report.inputs) != 1 else ''}"
    return Text(
        f"{report.rows:,} rows from {files}: {report.kept:,} kept ({figures.share(share)}), "
        f"{figures.size(report.bytes_read)} of text -> {figures.size(report.bytes_kept)}, "
        f"{figures.duration(report.seconds)}"
    )


def _steps(report: DataGateReport) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("Step", "Rows", "Changed", "Dropped"):
        table.add_column(name, justify="left" if name == "Step" else "right", no_wrap=True)
    table.add_column("Why, with an example", overflow="fold")
    folder = _common_folder(report)
    for step in report.steps:
        dropped = sum(step.dropped.values())
        changed = f"{step.changed:,}" if step.changed else ""
        table.add_row(
            STEP_NAMES[step.name],
            f"{step.rows:,}",
            changed,
            f"{dropped:,}" if dropped else "",
            Text(
                _why(step, folder) if step.name != "contamination" or report.held_out else "no held-out files"
            ),
        )
    return table


def _common_folder(report: DataGateReport) -> str:
    """The folder that all files share, with its slash; a terminal is too narrow to repeat it."""
    folders = [os.path.split(one.file)[0] for one in report.inputs]
    if len({os.path.isabs(folder) for folder in folders}) > 1 or "" in folders:
        return ""
    common = os.path.commonpath(folders)
    return f"{common}/" if common else ""


def _why(step: GateStep, folder: str) -> str:
    lines = []
    if step.changes:
        lines.append("changed: " + ", ".join(f"{name} {count:,}" for name, count in step.changes.items()))
    for reason, count in step.dropped.items():
        example = next(iter(step.examples.get(reason, ())), None)
        shown = ""
        if example is not None:
            text = example.text if len(example.text) <= 60 else example.text[:59] + "…"
            where, note = (
                part.replace(folder, "") if folder else part for part in (example.where, example.note)
            )
            shown = "; ".join(part for part in (where, note, figures.visible(text)) if part)
        lines.append(f"{reason_in_words(reason)} {count:,}" + (f" ({shown})" if shown else ""))
    return "\n".join(lines)


def gate_page(gate: DataGateReport) -> str:
    """The record as one HTML file that opens anywhere and loads nothing; it shows examples of rows that went."""
    return (
        environment()
        .get_template("data_gate_page.html.jinja")
        .render(gate=gate, shows_text=True, tokens={}, version=__version__)
    )
