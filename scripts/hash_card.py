"""Compare the figures of a data card (sha256, bytes, rows) with its files; --write puts the true ones in.

    python scripts/hash_card.py data_cards/x.yaml           # prints differences; exit 1 when there are any
    python scripts/hash_card.py data_cards/x.yaml --write   # edits the figures in place, nothing else

A new card may hold `sha256: x`, `bytes: 1`, `rows: 1`: this program fills them in.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from sovtune.data.card_schema import DataCard
from sovtune.data.entries import measure
from sovtune.errors import CardError, SovtuneError, UsageError
from sovtune.explain import check
from sovtune.yaml_file import Mark, Value, YamlFile, read_yaml

FIGURES = ("sha256", "bytes", "rows")


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("card", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="edit the cards in place")
    arguments = parser.parse_args()
    worst = 0
    for path in arguments.card:
        try:
            worst = max(worst, compare(path, write=arguments.write))
        except SovtuneError as error:
            print(error, file=sys.stderr)
            worst = max(worst, error.exit_code)
    return worst


def compare(path: Path, *, write: bool) -> int:
    """Print where figures are not those of the files; with ``write`` correct them. 1 when any is left."""
    file = read_yaml(path)
    card = _with_any_figures(file)
    edits: list[tuple[Mark, str]] = []
    left = 0
    for index, entry in enumerate(card.files):
        figures = measure(card, entry, path.parent)
        written = _entries(file.values)[index]
        print(f"{path}: {entry.path}: {figures.rows} rows, {figures.hash.bytes} bytes, {figures.hash.sha256}")
        for name, true in zip(FIGURES, (figures.hash.sha256, figures.hash.bytes, figures.rows), strict=True):
            mark = file.marks.get(("files", index, name))
            if written.get(name) == true or (mark is None and name == "bytes"):
                continue
            if mark is not None and mark.text and write:
                edits.append((mark, str(true)))
                continue
            left = 1
            said = f"the card says {mark.text}" if mark and mark.text else f"write `{name}: {true}` there"
            print(f"{path}: files.{index}.{name}: {true} in the file, {said}")
    if edits:
        _replace(path, edits)
        print(f"{path}: {len(edits)} figures corrected")
    return left


def _entries(values: dict[str, Value] | None) -> list[dict[str, Value]]:
    """The mappings under ``files``; empty for a card that has none."""
    files = (values or {}).get("files")
    return [item for item in files if isinstance(item, dict)] if isinstance(files, list) else []


def _with_any_figures(file: YamlFile) -> DataCard:
    """The card, read with harmless figures in place of its own, which may be placeholders.

    Raises:
        CardError: something other than the figures is wrong.
    """
    values = dict(file.values) if file.values is not None else None
    if values is not None and _entries(values):
        values["files"] = [
            {**item, "sha256": "0" * 64, "rows": 1, **({"bytes": 1} if "bytes" in item else {})}
            for item in _entries(values)
        ]
    card = check(DataCard, values, file.marks, file.problems)
    if isinstance(card, list):
        raise CardError(card)
    return card


def _replace(path: Path, edits: list[tuple[Mark, str]]) -> None:
    """Put new scalars where the old ones stand; all else, comments too, stays byte for byte."""
    lines = path.read_bytes().decode("utf-8").split("\n")
    for mark, new in sorted(edits, key=lambda edit: (edit[0].value.line, edit[0].value.column), reverse=True):
        row, start = mark.value.line - 1, mark.value.column - 1
        line = lines[row]
        quote = line[start] if line[start] in "\"'" else ""
        old = f"{quote}{mark.text}{quote}"
        if not line.startswith(old, start):
            raise UsageError("write this figure on one line and without escapes", where=f"{path}:{row + 1}")
        lines[row] = line[:start] + new + line[start + len(old) :]
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "wb") as stream:
        stream.write("\n".join(lines).encode())
        stream.flush()
        os.fsync(stream.fileno())
    Path(scratch).chmod(path.stat().st_mode)
    Path(scratch).replace(path)


if __name__ == "__main__":
    sys.exit(main())
