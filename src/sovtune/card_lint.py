"""Offline lint of a model card: header, leaks, loads from elsewhere, figures that no record holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pydantic import ValidationError

from sovtune.card_header import read_header, split_card
from sovtune.records import EvalReport
from sovtune.secrets import find_private_paths, find_secrets

RESULTS_BEGIN = "<!-- results -->"
RESULTS_END = "<!-- /results -->"
SAMPLES_BEGIN = "<!-- samples -->"
SAMPLES_END = "<!-- /samples -->"
MEASURED_COLUMNS = frozenset(("Documents", "Bytes", "Base", "Adapter", "Change", "Limit", "Measured"))
_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?")
_PLACEHOLDER = re.compile(r"more information needed|\bTODO\b|\[(?:insert|your)\b", re.IGNORECASE)
_LOADS = re.compile(
    r"!\[[^\]]*\][(\[]|<\s*(?:img|picture|video|audio|iframe|object|embed|script|link|style)\b", re.IGNORECASE
)
_ABSOLUTE = re.compile(r"(?<![\w.~/:<-])/(?:[\w.~-]+/)+[\w.~-]+|(?<![A-Za-z])[A-Za-z]:\\{1,2}\w")
_CREDENTIALS = re.compile(r"://[^\s/@\"'<>]+@")


def _strings(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "header"
        yield f"header: {place}: {item['msg'].removeprefix('Value error, ')}"


def _header_faults(front: str) -> list[str]:
    try:
        read_header(front)
    except ValidationError as error:
        return list(_strings(error))
    except ValueError as error:
        return [f"header: {error}"]
    return []


def _lines_with(pattern: re.Pattern[str], text: str, what: str) -> list[str]:
    return [f"line {at}: {what}" for at, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def _leaks(text: str, forbidden: Sequence[str]) -> list[str]:
    found = [*find_secrets(text), *find_private_paths(text, users=forbidden, hosts=forbidden)]
    faults = [f"line {line}: {kind}" for kind, line in dict.fromkeys(found)]
    faults += _lines_with(_CREDENTIALS, text, "URL with credentials")
    return faults + _lines_with(_ABSOLUTE, _without_samples(text), "absolute path")


def _without_samples(text: str) -> str:
    """The text with its sample answers blanked: a model may well speak of /etc or write TODO."""
    begin, end = text.find(SAMPLES_BEGIN), text.find(SAMPLES_END)
    if not 0 <= begin < end:
        return text
    return text[:begin] + "\n" * text[begin:end].count("\n") + text[end:]


def _facts(value: object) -> Iterator[float]:
    """Every number of a record, however deep; a gate's limit in words is none."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _facts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _facts(item)


def _measured_cells(text: str) -> Iterator[tuple[str, str]]:
    """(column, cell) of every column that holds measurements, in the tables between the result marks."""
    begin, end = text.find(RESULTS_BEGIN), text.find(RESULTS_END)
    columns: list[str] = []
    for line in text[begin:end].splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns = cells
        elif set(line) - set("|-: "):
            yield from (pair for pair in zip(columns, cells, strict=True) if pair[0] in MEASURED_COLUMNS)


def _unfounded(text: str, evaluation: EvalReport) -> list[str]:
    """Figures of the results tables that no figure of the record rounds to."""
    if RESULTS_BEGIN not in text or RESULTS_END not in text:
        return ["the card has no results section"]
    facts = sorted(set(_facts(asdict(evaluation))))
    shown: dict[int, set[str]] = {}
    faults = []
    for column, cell in _measured_cells(text):
        for match in _NUMBER.finditer(cell):
            plain = match.group().replace("−", "-").replace(",", "").removeprefix("+")
            digits = len(plain.partition(".")[2])
            known = shown.setdefault(digits, {f"{fact:.{digits}f}" for fact in facts})
            if plain not in known and not (
                float(plain) == 0 and f"-{plain}" in known
            ):  # -0.0 is shown as 0.0
                faults.append(f"results: {match.group()} in column {column} is in no record")
    return faults


def lint(text: str, *, forbidden: Sequence[str], evaluation: EvalReport | None = None) -> list[str]:
    """Every fault of a card, without any network (the Hub's own check would send the card there).

    Args:
        text: the whole README.md.
        forbidden: account and host names that must not appear; everyday words among them are skipped.
        evaluation: when given, each measured figure of the results tables must be one of its figures.

    Returns:
        One sentence per fault; empty when the card is good.
    """
    try:
        front, body = split_card(text)
    except ValueError as error:
        return [str(error)]
    faults = _header_faults(front)
    faults += _leaks(text, forbidden)
    faults += _lines_with(_PLACEHOLDER, _without_samples(text), "placeholder text")
    faults += _lines_with(_LOADS, text, "loads something (image, script, frame)")
    if not body.strip():
        faults.append("the card has no body")
    if evaluation is not None:
        faults += _unfounded(body, evaluation)
    return faults
