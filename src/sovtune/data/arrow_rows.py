"""Rendered documents on disk, and rows gathered from them as Arrow; only a few numbers a document stay in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sovtune.data.chat import IGNORE, Rendered
from sovtune.data.gate_shard import named_disk_faults
from sovtune.data.pack import Integers, Packed
from sovtune.data.record_file import RecordFile

if TYPE_CHECKING:
    from pyarrow import ListArray

_TOKEN = np.dtype([("id", "<i4"), ("label", "<i4")])
_ORIGIN = np.dtype([("file", "<i4"), ("row", "<i8"), ("first", "<i4"), ("good", "i1")])
"""Where a document came from; the length of its first part when it has two, else 0; the verdict on it, else -1."""
_HELD_TOKENS = 1 << 20
"""Tokens that wait to be written, and tokens in a batch of rows: 8 MB."""
_HELD_ORIGINS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What is known of every stored document, in the order in which they came; 24 bytes each.

    Attributes:
        lengths: tokens; the parts of a comparison together.
        supervised: tokens that carry loss.
        sources: place of its source in the recipe.
        languages: place of its main language in ``tags``.
        rows: number of the row it came from, over all sources; pieces of one text share it.
        offsets: place of its first token in the store.
        tags: the languages that turned up.
    """

    lengths: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.int32]
    sources: npt.NDArray[np.int16]
    languages: npt.NDArray[np.int16]
    rows: npt.NDArray[np.int32]
    offsets: Integers
    tags: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lengths)


class DocumentStore:
    """Rendered documents in files of a folder: appended one by one, read at random.

    Args:
        folder: where the files lie.
        names: ids of the data cards, which begin the name of every document's origin.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, tuple(names)
        with named_disk_faults(folder):
            self._tokens = RecordFile[np.void](folder / "tokens.bin", _TOKEN)
            self._origins = RecordFile[np.void](folder / "origins.bin", _ORIGIN)
        self._held: list[npt.NDArray[np.void]] = []
        self._held_tokens = 0
        self._held_origins: list[tuple[int, int, int, int]] = []
        self._lengths, self._supervised, self._rows = array("i"), array("i"), array("i")
        self._sources, self._languages = array("h"), array("h")
        self._tags: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def add(self, rendered: Rendered, *, source: int, language: str, row: int) -> None:
        """Append a document (or a piece of one).

        Args:
            rendered: its tokens.
            source: place of its source in the recipe.
            language: its main language.
            row: number of the row it came from, over all sources.
        """
        tokens = np.empty(len(rendered.input_ids), dtype=_TOKEN)
        tokens["id"], tokens["label"] = rendered.input_ids, rendered.labels
        file, _, number = rendered.where.rpartition(":")
        name = self.names[source]
        shown = file if file.startswith(f"{name}/") else f"{name}/{file}"
        first = rendered.parts[0] if rendered.parts else 0
        good = -1 if rendered.good is None else int(rendered.good)
        place = self._files.setdefault(shown, len(self._files))
        self._held.append(tokens)
        self._held_tokens += len(tokens)
        self._held_origins.append((place, int(number), first, good))
        self._lengths.append(len(tokens))
        self._supervised.append(int(np.count_nonzero(tokens["label"][1:] != IGNORE)))
        self._sources.append(source)
        self._languages.append(self._tags.setdefault(language, len(self._tags)))
        self._rows.append(row)
        if self._held_tokens >= _HELD_TOKENS or len(self._held_origins) >= _HELD_ORIGINS:
            self._write_held()

    def _write_held(self) -> None:
        if self._held:
            with named_disk_faults(self.folder):
                self._tokens.append(np.concatenate(self._held))
                self._origins.append(np.array(self._held_origins, dtype=_ORIGIN))
        self._held, self._held_origins, self._held_tokens = [], [], 0

    def documents(self) -> Documents:
        """What is known of every document so far; nothing may be added while this is held."""
        self._write_held()
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        offsets = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], out=offsets[1:])
        return Documents(
            lengths=lengths,
            supervised=np.frombuffer(self._supervised, dtype=np.int32),
            sources=np.frombuffer(self._sources, dtype=np.int16),
            languages=np.frombuffer(self._languages, dtype=np.int16),
            rows=np.frombuffer(self._rows, dtype=np.int32),
            offsets=offsets,
            tags=tuple(self._tags),
        )

    def tokens(self, offset: int, length: int) -> npt.NDArray[np.void]:
        """Tokens from a place on: records of ``id`` and ``label``."""
        return self._tokens.read(offset, length)

    def origins(self, members: Integers) -> list[tuple[str, int, int]]:
        """(``card/file:row``, length of the first part or 0, verdict or -1) of some documents."""
        files = list(self._files)
        found = self._origins.gather(members).tolist()
        return [(f"{files[file]}:{row}", first, good) for file, row, first, good in found]

    def remove(self) -> None:
        """Delete the files."""
        self._tokens.remove()
        self._origins.remove()


def write_rows(
    store: DocumentStore, documents: Documents, chosen: Integers, packed: Packed, path: Path
) -> None:
    """Write packed rows as an Arrow stream, a bounded number of tokens at a time.

    Columns: ``input_ids`` and ``labels``, ``lengths`` of the documents (of both parts of a comparison), ``where`` each
    document came from, and ``good`` when answers were judged.

    Args:
        store: the documents.
        documents: their numbers.
        chosen: the documents of the mixture, one that is seen twice stands twice.
        packed: rows of places in ``chosen``.
        path: the file to write.

    Raises:
        EnvironmentFault: the disk is full, or the folder cannot be written.
    """
    import pyarrow as pa

    integers = pa.list_(pa.int32())
    judged = len(documents) > 0 and store.origins(np.zeros(1, dtype=np.int64))[0][2] >= 0
    fields = [("input_ids", integers), ("labels", integers), ("lengths", integers)]
    fields += [("where", pa.list_(pa.string()))] + ([("good", integers)] if judged else [])
    schema = pa.schema(fields)
    with (
        named_disk_faults(path.parent),
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        for begin, end in _batches(documents.lengths[chosen[packed.members]], packed.starts):
            rows = packed.starts[begin : end + 1]
            members = chosen[packed.members[rows[0] : rows[-1]]]
            columns = _columns(store, documents, members, rows - rows[0], judged)
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _batches(lengths: npt.NDArray[np.int32], starts: Integers) -> Iterator[tuple[int, int]]:
    """Bounds of groups of rows that hold about ``_HELD_TOKENS`` each, and one row at least."""
    ends = np.cumsum(lengths, dtype=np.int64)[starts[1:] - 1]
    begin, done = 0, 0
    while begin < len(ends):
        end = max(begin + 1, int(np.searchsorted(ends, done + _HELD_TOKENS, side="right")))
        yield begin, end
        begin, done = end, int(ends[end - 1])


def _columns(
    store: DocumentStore, documents: Documents, members: Integers, starts: Integers, judged: bool
) -> list[ListArray[Any]]:
    """The columns of some rows; ``starts`` are bounds of the rows in ``members``."""
    import pyarrow as pa

    pairs = zip(documents.offsets[members].tolist(), documents.lengths[members].tolist(), strict=True)
    tokens = np.concatenate([store.tokens(offset, length) for offset, length in pairs])
    ends = np.concatenate(([0], np.cumsum(documents.lengths[members], dtype=np.int64)))
    origins = store.origins(members)
    lengths: list[int] = []
    parts = [0]  # lengths before each member
    for (_, first, _), length in zip(origins, documents.lengths[members].tolist(), strict=True):
        lengths += [first, length - first] if first else [length]
        parts.append(len(lengths))

    def column(values: Any, bounds: Any) -> ListArray[Any]:
        return pa.ListArray.from_arrays(pa.array(bounds, type=pa.int32()), values)

    found = [
        column(pa.array(np.ascontiguousarray(tokens["id"])), ends[starts]),
        column(pa.array(np.ascontiguousarray(tokens["label"])), ends[starts]),
        column(pa.array(lengths, type=pa.int32()), np.array(parts)[starts]),
        column(pa.array([where for where, _, _ in origins], type=pa.string()), starts),
    ]
    verdicts = [good for _, _, good in origins]
    return [*found, column(pa.array(verdicts, type=pa.int32()), starts)] if judged else found


def load_rows(path: Path) -> Any:
    """The rows as a `datasets.Dataset` (memory-mapped): input_ids, labels, lengths, where, and good for kto."""
    from datasets import Dataset

    return Dataset.from_file(str(path))
