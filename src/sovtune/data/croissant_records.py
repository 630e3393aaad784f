"""The rows of a data file as a Croissant record set: which fields there are and where each is read from."""

from __future__ import annotations

from collections.abc import Mapping

from sovtune.data.card_schema import KIND_FIELDS, DataFile, Format
from sovtune.data.files import FileKind

_TEXT, _BOOLEAN, _INTEGER = "sc:Text", "sc:Boolean", "sc:Integer"
_WORDS = {
    "messages": "The turns of a dialogue.",
    "role": "Who speaks.",
    "content": "What is said.",
    "instruction": "The task.",
    "input": "Material for the task; may be absent or empty.",
    "output": "The answer.",
    "prompt": "The question.",
    "completion": "The answer.",
    "text": "Running text.",
    "chosen": "The better answer.",
    "rejected": "The worse answer.",
    "label": "Whether the answer is good.",
}
_ROWS = {
    "chat": "One dialogue a record.",
    "instruction": "One task with its answer a record.",
    "prompt_completion": "One question with its answer a record.",
    "text": "One text a record.",
    "preference": "One question with a better and a worse answer a record.",
    "feedback": "One answer with a verdict on it a record.",
}
_COLUMNS = {
    "chat": ("messages",),
    "instruction": ("instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
"""Kind of row -> its fields; rows of other kinds may hold text or turns, which only a row can show."""
Row = Mapping[str, object]


def needs_row(format: Format) -> bool:
    """Whether the fields of such rows are known only from a row."""
    return format.kind not in _COLUMNS


def record_set(
    name: str, entry: DataFile, rows: tuple[Format, Row], *, described: dict[str, object], kind: FileKind
) -> dict[str, object]:
    """The records of one file.

    Args:
        name: id of the record set.
        entry: the card's entry.
        rows: what a row is, and the first row where ``needs_row`` says so (else empty).
        described: the file's node in the distribution.
        kind: how the file is written.
    """
    format, row = rows
    reader = _Reader(name, described, kind, format)
    fields = [reader.field(key, row) for key in _COLUMNS.get(format.kind) or reader.present(row)]
    if entry.split is not None:
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"{name}/split",
                "name": "split",
                "description": "The split that all rows of this file belong to.",
                "dataType": [_TEXT, "cr:Split"],
                "value": entry.split,
            }
        )
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{_ROWS[format.kind]} {entry.rows} rows.",
        "field": fields,
    }


class _Reader:
    """Builds the fields of one record set."""

    def __init__(self, name: str, described: dict[str, object], kind: FileKind, format: Format):
        self._name = name
        self._kind = kind
        self._format = format
        whole_set = described["@type"] == "cr:FileSet"
        self._from = {"fileSet" if whole_set else "fileObject": {"@id": described["@id"]}}

    def present(self, row: Row) -> tuple[str, ...]:
        """The fields of this kind that the row has."""
        keys = (key for key in KIND_FIELDS[self._format.kind] if key not in ("role", "content"))
        return tuple(key for key in keys if row.get(self._column(key)) is not None)

    def field(self, key: str, row: Row) -> dict[str, object]:
        """A field with text, a verdict, or a list of turns with role and content each."""
        column = self._column(key)
        node = self._node(key, f"{self._name}/{column}", column)
        value = row.get(column)
        if key == "messages" or isinstance(value, list):
            turns = []
            for inner in ("role", "content"):
                name = self._column(inner)
                turn = self._node(inner, f"{self._name}/{column}/{name}", name)
                turns.append({**turn, "dataType": _TEXT, "source": self._source(column, name)})
            if self._kind == "json":  # without it mlcroissant does not see that the file is read by paths
                node["source"] = self._source(column)
            return {**node, "isArray": True, "arrayShape": "-1", "subField": turns}
        if self._kind == "txt" and self._format.fields.document == "paragraph":
            node["description"] = "The whole file; blank lines separate the documents in it."
        said = _BOOLEAN if isinstance(value, bool) else _INTEGER if isinstance(value, int) else _TEXT
        return {**node, "dataType": said, "source": self._source(column)}

    def _column(self, key: str) -> str:
        """What the data calls this field; its own name when the card says nothing."""
        return str(getattr(self._format.fields, key) or key)

    def _node(self, key: str, identity: str, name: str) -> dict[str, object]:
        return {"@type": "cr:Field", "@id": identity, "name": name, "description": _WORDS[key]}

    def _source(self, column: str, inner: str | None = None) -> dict[str, object]:
        """Where a field's values are; ``inner`` is a key of the objects listed in the column."""
        if self._kind in ("txt", "md"):
            whole = self._kind == "md" or self._format.fields.document in ("file", "paragraph")
            return {**self._from, "extract": {"fileProperty": "content" if whole else "lines"}}
        if self._kind == "json":  # one list of objects: first the object, so that a missing key shifts no row
            steps = [_key(column), *([_key(inner)] if inner else [])]
            return {
                **self._from,
                "extract": {"jsonPath": "$[*]"},
                "transform": [{"jsonPath": step} for step in steps],
            }
        source = {**self._from, "extract": {"column": column}}
        return {**source, "transform": {"jsonPath": _key(inner)}} if inner else source


def _key(name: str) -> str:
    """A key as a JSONPath, in quotes where it is no plain word."""
    return name if name.isidentifier() and name.isascii() else f"$['{name}']"
