"""A data card drafted from measurements: what can be measured is filled in, the rest are questions for people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from sovtune import __version__
from sovtune.data.card_questions import question
from sovtune.data.card_schema import Format
from sovtune.data.entries import Figures
from sovtune.data.gate_report import DataGateReport
from sovtune.yaml_file import Value
from sovtune.yaml_write import yaml_lines

_LEAST_SHARE = 0.001
"""Smaller shares are a quotation or a mistake of measuring."""
_DUPLICATES = {"exact_duplicate": "Rows that repeat another row", "near_duplicate": "Rows that nearly do"}
HEAD = (
    "# Drafted by `sovtune data card` from the files themselves. Figures were measured.\n"
    "# Values that begin with TODO are questions that only a person can answer; until then sovtune refuses the card.\n"
    "# Add where they apply: rights.attribution (the line that must name the source), rights.agreement (the letter),\n"
    "# rights.territory, rights.expires, residency, sources.collected, annotation (own, user and synthetic data).\n"
)


def draft_text(
    card_id: str, figures: Sequence[Figures], format: Format | None, report: DataGateReport, today: dt.date
) -> str:
    """The card as YAML.

    Args:
        card_id: short name of the data.
        figures: of each file, paths relative to the card.
        format: what a row is; None when the keys are not the usual ones.
        report: the files measured with nothing dropped but unreadable rows and duplicates.
        today: day of the measuring.
    """
    values: dict[str, Value] = {
        "schema_version": 1,
        "id": card_id,
        "version": "1",
        "title": question("what is this data, in a line?"),
        "files": [
            {"path": one.hash.path, "sha256": one.hash.sha256, "bytes": one.hash.bytes, "rows": one.rows}
            for one in figures
        ],
        "languages": _languages(report),
        "licence": {
            "expression": question(
                "under which licence did the data come? An SPDX expression such as CC-BY-4.0"
            ),
            "evidence": question("which file beside this card holds the licence text, letter or page?"),
        },
        "rights": {
            "basis": question(
                "on what does the right to train rest? licence, permission, own-work, public-domain, "
                "tdm-exception or government-work"
            ),
            "training": question("may models be trained on it? yes, no or unknown"),
            "redistribution": question("may the data itself be passed on? yes, no or unknown"),
            "commercial": question("may the result be used commercially? yes, no or unknown"),
        },
        "sources": [
            {
                "kind": question(
                    "where is it from? public-dataset, licensed, crawl, user, synthetic, government or own"
                ),
                "name": question("what is the source called?"),
            }
        ],
        "personal_data": _personal_data(report, today),
        "sensitivity": question("who may see the data? public, internal or restricted"),
        "synthetic_share": question("which share of the rows did a model write, 0 to 1?"),
        "quality": _quality(report),
        "limits": _limits(report, today),
        "contact": question("which team or mailbox answers questions about it?"),
        "format": _format(format),
    }
    lines = (line for line, _ in yaml_lines({key: value for key, value in values.items() if value}))
    return HEAD + "\n".join(lines) + "\n"


def _languages(report: DataGateReport) -> list[Value]:
    shares = {tag: round(share, 3) for tag, share in report.languages_before.items() if share >= _LEAST_SHARE}
    if not shares:
        return [{"tag": report.language, "share": question("no letters were found: what is the data in?")}]
    main = next(iter(shares))
    shares[main] = round(1 - sum(share for tag, share in shares.items() if tag != main), 3)
    return [{"tag": tag, "share": float(share)} for tag, share in shares.items()]


def _personal_data(report: DataGateReport, today: dt.date) -> dict[str, Value]:
    counts = {kind: count for kind, count in report.personal_data.items() if kind != "secret"}
    listed = ", ".join(f"{kind} {count}" for kind, count in counts.items()) or "nothing"
    return {
        "contains": question(
            f"none, possible, yes or special-category? The scan found {listed}; names, addresses and health "
            "cannot be found by a program"
        ),
        "scan": {
            "tool": "sovtune data card",
            "version": __version__,
            "date": today.isoformat(),
            "findings": sum(counts.values()),
        },
        "action": "none",
    }


def _quality(report: DataGateReport) -> dict[str, Value]:
    """Overlap with held-out files, when some were named."""
    if not report.held_out:
        return {}
    against: list[Value] = [Path(one.name).name for one in report.held_out]
    hits = sum(one.hits for one in report.held_out)
    method = "runs of 30 letters (scripts without spaces) or 13 words, after normalising"
    return {"eval_overlap": {"against": against, "method": method, "hits": hits}}


def _limits(report: DataGateReport, today: dt.date) -> list[Value]:
    """What the measuring found that a user of the data should know."""
    found = report.dropped
    sentences: list[Value] = []
    duplicates = [f"{words}: {found[reason]}" for reason, words in _DUPLICATES.items() if reason in found]
    if duplicates:
        sentences.append(f"{'; '.join(duplicates)} (of {report.rows}, measured {today}).")
    unreadable = next(step for step in report.steps if step.name == "read").dropped
    if unreadable:
        listed = ", ".join(f"{reason} {count}" for reason, count in unreadable.items())
        sentences.append(f"Rows that cannot be read: {listed} (measured {today}).")
    secrets = report.personal_data.get("secret", 0)
    if secrets:
        sentences.append(f"{secrets} credentials (keys, tokens, passwords) were found (measured {today}).")
    return sentences


def _format(format: Format | None) -> dict[str, Value]:
    if format is None:
        return {
            "kind": question(
                "what is a row? chat, instruction, prompt_completion, text, preference or feedback; name its `fields`"
            )
        }
    return {"kind": format.kind}
