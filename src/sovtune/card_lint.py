"""Offline lint of a model card: header, leaks, loads from elsewhere, figures that no record holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from sovtune.card_header import read_header, split_card
from sovtune.records import EvalReport, GateResult, TextScore
from sovtune.secrets import find_private_paths, find_secrets

RESULTS_BEGIN = "<!-- results -->"
RESULTS_END = "<!-- /results -->"
SAMPLES_BEGIN = "<!-- samples -->"
SAMPLES_END = "<!-- /samples -->"
_FIELDS = {
    "Documents": ("documents",),
    "Bytes": ("bytes",),
    "Base": ("base", "base_interval"),
    "Adapter": ("adapter", "adapter_interval"),
    "Change": ("change_percent", "change_interval"),
    "Limit": ("limit",),
    "Measured": ("measured",),
}
"""Column of the results tables -> the fields of ``TextScore`` or ``GateResult`` whose figures stand in it."""
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


def _tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables between the result marks, each as rows of column -> cell."""
    begin, end = text.find(RESULTS_BEGIN), text.find(RESULTS_END)
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    for line in [*text[begin:end].splitlines(), ""]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            if columns:
                yield rows
            columns, rows = [], []
        elif not columns:
            columns = cells
        elif set(line) - set("|-: "):
            rows.append(dict(zip(columns, cells, strict=True)))


def _figures(record: TextScore | GateResult, fields: Sequence[str]) -> list[float]:
    values: list[float] = []
    for name in fields:
        value = getattr(record, name)
        values += value if isinstance(value, tuple) else [value]
    return values


def _shows(shown: str, value: float) -> bool:
    """Whether a figure of the card is this value, rounded to as many digits as the card shows."""
    plain = shown.replace("−", "-").replace(",", "")
    digits = len(plain.partition(".")[2])
    return float(plain) == float(f"{value:.{digits}f}")


def _unfounded(text: str, evaluation: EvalReport) -> list[str]:
    """Figures of the results tables that are not those of the record, cell by cell."""
    if RESULTS_BEGIN not in text or RESULTS_END not in text:
        return ["the card has no results section"]
    both: tuple[Sequence[TextScore | GateResult], ...] = (evaluation.scores, evaluation.gates)
    records = [kind for kind in both if kind]
    tables = list(_tables(text))
    if [len(rows) for rows in tables] != [len(kind) for kind in records]:
        return ["results: the tables do not have one row for each score and each gate of the record"]
    faults = []
    for rows, kind in zip(tables, records, strict=True):
        for row, record in zip(rows, kind, strict=True):
            for column, fields in _FIELDS.items():
                shown = _NUMBER.findall(row.get(column, ""))
                values = _figures(record, fields) if column in row else []
                if len(shown) != len(values) or not all(map(_shows, shown, values)):
                    faults.append(f"results: {row[column]} in column {column} is not what the record holds")
    return faults


def lint(text: str, *, forbidden: Sequence[str], evaluation: EvalReport | None = None) -> list[str]:
    """Every fault of a card, without any network (the Hub's own check would send the card there).

    Args:
        text: the whole README.md.
        forbidden: account and host names that must not appear; everyday words among them are skipped.
        evaluation: when given, the figures of the results tables must be its figures, cell by cell.

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
