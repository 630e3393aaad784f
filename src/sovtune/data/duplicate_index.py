"""The duplicate index on disk: rows stream in, clusters come out, memory does not grow with the text.

Rows with a signature and short rows (exact duplicates only) are two populations with a store each. A store is
a folder of append-only files of fixed-size records: rows (40 bytes), signatures (516 bytes), and one file of
8-byte keys per band. Record i of every file belongs to row i of the store, its *place*. Searching reads one
key file at a time, in as many passes as keep each within ``memory_bytes``, compares the places that share a
key, and joins them by union-find over 4 bytes a row: the only memory that grows with the input.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import merge
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sovtune.data.dedup import (
    BANDS,
    CROWDED,
    THRESHOLD,
    WIDTH,
    Duplicate,
    Member,
    Reason,
    Sketch,
    as_matrix,
    band_matrix,
    compare,
    exact_key,
    keep_best,
    pairs_in_bucket,
)
from sovtune.data.matching import Index
from sovtune.data.record_file import CHUNK, RecordFile, groups
from sovtune.errors import EnvironmentFault, UsageError

MEMORY_BYTES = 16 << 20
"""Default limit for the write buffer and for one pass over a key file."""

_ROW = np.dtype([("row", "<i8"), ("length", "<i8"), ("fingerprint", "V16"), ("held_out", "<i8")])
_VERDICT = np.dtype([("kept", "<i8"), ("similarity", "<f8"), ("reason", "<i8")])
_SIGNATURE = np.dtype(("<u4", (WIDTH,)))
_KEY = np.dtype("<u8")
_REASONS: tuple[Reason, ...] = (
    "exact_duplicate",
    "near_duplicate",
    "exact_duplicate_of_heldout",
    "near_duplicate_of_heldout",
)
_BUFFERED_ROW_BYTES = (
    2048  # signature, keys and record twice (objects, then arrays), and the objects' own size
)
_KEY_BYTES = 48  # key, place, sort order and the sorted copies
_BLOCK = 1024  # rows buffered, and pairs compared, at once at most: 1 MiB of signatures


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """What was done; ``signed`` rows have a signature, ``crowded`` are buckets (see ``pairs_in_bucket``)."""

    rows: int
    signed: int
    compared: int
    crowded: int
    passes: int
    disk_bytes: int


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot use the duplicate index: {error.strerror or error}",
            where=str(folder),
            why=f"near-duplicate search keeps about {4 * WIDTH + 8 * BANDS} bytes per row on disk",
            fix="free disk space there, or point the cache at a larger disk with SOVTUNE_HOME",
        ) from error


class Forest:
    """Union-find over places; the root of a tree is its smallest place."""

    def __init__(self, size: int):
        self.parent = array("I", range(size))
        self.view = np.frombuffer(self.parent, dtype=np.uint32)

    def roots(self, places: Index) -> Index:
        """The root of each place."""
        found = places
        while np.any((above := self.view[found].astype(np.int64)) != found):
            found = above
        return found

    def root(self, place: int) -> int:
        """The root of one place."""
        parent = self.parent
        while (above := parent[place]) != place:
            parent[place] = parent[above]  # path halving
            place = above
        return place

    def flatten(self) -> None:
        """Point every place at its root, so that ``roots`` stays one step."""
        for start in range(0, len(self.view), CHUNK):
            places = np.arange(start, min(start + CHUNK, len(self.view)))
            self.view[places] = self.roots(places)

    def join(self, first: int, second: int) -> None:
        """Make two places, and all that are joined with them, one tree."""
        low, high = sorted((self.root(first), self.root(second)))
        self.parent[high] = low


def join_alike(
    forest: Forest, first: Index, second: Index, alike: Callable[[Index, Index], npt.NDArray[np.bool_]]
) -> int:
    """Join the pairs that are alike; ``alike`` is asked about a bounded number at a time.

    Returns:
        Pairs that were compared: one already joined needs no comparing.
    """
    compared = 0
    for start in range(0, len(first), _BLOCK):
        one, other = first[start : start + _BLOCK], second[start : start + _BLOCK]
        apart = forest.roots(one) != forest.roots(other)
        one, other = one[apart], other[apart]
        if not len(one):
            continue
        compared += len(one)
        joined = alike(one, other)
        for a, b in zip(one[joined].tolist(), other[joined].tolist(), strict=True):
            forest.join(a, b)
    return compared


class _Store:
    """One population of rows, its files and its search."""

    def __init__(self, folder: Path, bands: int, memory_bytes: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.memory_bytes = memory_bytes
        self.rows: RecordFile[np.void] = RecordFile(folder / "rows", _ROW)
        self.verdicts: RecordFile[np.void] = RecordFile(folder / "verdicts", _VERDICT)
        self.signatures: RecordFile[np.uint32] | None = (
            RecordFile(folder / "signatures", _SIGNATURE) if bands else None
        )
        self.keys: list[RecordFile[np.uint64]] = [
            RecordFile(folder / f"keys-{n:02d}", _KEY) for n in range(1 + bands)
        ]
        self.compared = self.crowded = self.passes = 0

    def files(self) -> list[RecordFile[Any]]:
        return [self.rows, self.verdicts, *([self.signatures] if self.signatures else []), *self.keys]

    def append(self, members: list[Member]) -> None:
        records = [(m.row, m.sketch.length, m.sketch.fingerprint, m.held_out) for m in members]
        self.rows.append(np.array(records, dtype=_ROW))
        self.keys[0].append(np.array([exact_key(m.sketch.fingerprint) for m in members], dtype=_KEY))
        if self.signatures is not None:
            matrix = as_matrix([m.sketch.signature for m in members if m.sketch.signature is not None])
            self.signatures.append(matrix)
            for file, column in zip(self.keys[1:], band_matrix(matrix).T, strict=True):
                file.append(column)

    def search(self, threshold: float) -> Iterator[Duplicate]:
        forest = Forest(self.rows.records)
        for file in self.keys:
            for first, second in self._candidates(file):
                self.compared += join_alike(forest, first, second, partial(self._alike, threshold=threshold))
            forest.flatten()
        self.verdicts.resize(self.rows.records)
        for clusters in self._clusters(forest):
            self._decide(clusters, threshold)
        for start, verdicts in self.verdicts.chunks():
            dropped = np.flatnonzero(verdicts["reason"])
            rows = self.rows.read(start, len(verdicts))["row"][dropped]
            for row, (kept, alike, reason) in zip(rows.tolist(), verdicts[dropped].tolist(), strict=True):
                yield Duplicate(row, kept, _REASONS[reason - 1], alike)

    def _passes(self, records: int, bytes_each: int) -> int:
        passes = max(1, -(-records * bytes_each // self.memory_bytes))
        self.passes += passes
        return passes

    def _buckets(self, file: RecordFile[np.uint64]) -> Iterator[Index]:
        """The places that share a key, two or more each, in blocks ``[buckets, members]``."""
        passes = self._passes(file.records, _KEY_BYTES)
        for turn in range(passes):
            keys, places = [], []
            for start, chunk in file.chunks():
                mine = np.flatnonzero((chunk >> np.uint64(32)) % np.uint64(passes) == turn)
                keys.append(chunk[mine])
                places.append(mine + start)
            if keys:
                yield from groups(np.concatenate(keys), np.concatenate(places))

    def _candidates(self, file: RecordFile[np.uint64]) -> Iterator[tuple[Index, Index]]:
        """Pairs of places to compare."""
        for buckets in self._buckets(file):
            if buckets.shape[1] > CROWDED:  # which pairs are named then depends on the order: use the input's
                self.crowded += len(buckets)
                for bucket in buckets:
                    yield from pairs_in_bucket(bucket[np.argsort(self.rows.gather(bucket)["row"])])
            else:
                yield from pairs_in_bucket(buckets)

    def _alike(self, first: Index, second: Index, threshold: float) -> npt.NDArray[np.bool_]:
        if self.signatures is None:
            equal: npt.NDArray[np.bool_] = (
                self.rows.gather(first)["fingerprint"] == self.rows.gather(second)["fingerprint"]
            )
            return equal
        return compare(self.signatures.gather(first), self.signatures.gather(second), threshold)[1]

    def _clusters(self, forest: Forest) -> Iterator[Index]:
        size = self.rows.records
        ranges = [(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
        joined = sum(int((forest.view[a:b] != np.arange(a, b)).sum()) for a, b in ranges)
        passes = self._passes(joined, _KEY_BYTES)
        for turn in range(passes):
            roots, places = [], []
            for a, b in ranges:
                here = np.flatnonzero(forest.view[a:b] != np.arange(a, b)) + a
                tops = forest.roots(here)
                mine = tops % passes == turn
                roots.append(tops[mine])
                places.append(here[mine])
            if roots:
                tops, members = np.concatenate(roots), np.concatenate(places)
                heads = np.unique(tops)  # a root is a member of its own cluster
                yield from groups(np.concatenate((tops, heads)), np.concatenate((members, heads)))

    def _decide(self, clusters: Index, threshold: float) -> None:
        """Write the verdicts on clusters of one size, ``[clusters, members]``."""
        table = self.rows.gather(clusters.ravel()).reshape(clusters.shape)
        for places, records in zip(clusters, table, strict=True):
            order = np.lexsort((records["row"], -records["length"], -records["held_out"]))  # dedup.priority
            place_of = dict(zip(records["row"].tolist(), places.tolist(), strict=True))
            for gone in keep_best(self._members(places[order], records[order]), threshold):
                verdict = (gone.kept, gone.similarity, _REASONS.index(gone.reason) + 1)
                self.verdicts.write(place_of[gone.row], np.array([verdict], dtype=_VERDICT))

    def _members(self, places: Index, records: npt.NDArray[np.void]) -> Iterator[Member]:
        """Members in the given order; only their signatures are still to be read, one at a time."""
        for place, record in zip(places.tolist(), records.tolist(), strict=True):
            row, length, fingerprint, held_out = record
            signature = self.signatures.read(place).tobytes() if self.signatures is not None else None
            yield Member(row, Sketch(fingerprint, signature, length), bool(held_out))


class DuplicateIndex:
    """Rows in, duplicates out; a context manager that owns the files in ``folder``.

    Args:
        folder: where the files go, about 800 bytes per row with a signature and 70 per short row; made when
            absent, the files are removed on leaving.
        threshold: estimated Jaccard index from which rows are near-duplicates, 0.5 to 1.
        memory_bytes: limit for the write buffer and for one pass of the search. On top come 4 bytes a row,
            and one bucket (48 bytes per member) when that alone is larger.

    Raises:
        UsageError: the threshold is out of range: below 0.5 the bands would miss half of the pairs.
        EnvironmentFault: the folder cannot be written (also raised by every method).
    """

    def __init__(self, folder: Path, *, threshold: float = THRESHOLD, memory_bytes: int = MEMORY_BYTES):
        if not 0.5 <= threshold <= 1.0:
            raise UsageError(
                f"a near-duplicate threshold of {threshold} cannot be searched for",
                why="the search finds pairs whose 5-grams overlap by 0.5 or more",
                fix="set a threshold between 0.5 and 1.0; 0.7 is the default",
            )
        self.folder, self.threshold = folder, threshold
        memory_bytes = max(memory_bytes, 4096)  # below that, passes without end
        self._limit = max(1, min(_BLOCK, memory_bytes // _BUFFERED_ROW_BYTES))
        self._buffers: dict[bool, list[Member]] = {False: [], True: []}
        with _disk(folder):
            self._stores = {
                False: _Store(folder / "short", 0, memory_bytes),
                True: _Store(folder / "signed", BANDS, memory_bytes),
            }

    def __enter__(self) -> DuplicateIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, row: int, sketch: Sketch, *, held_out: bool = False) -> None:
        """Add one row; ``row`` is its place in the whole input, unique, in any order."""
        signed = sketch.signature is not None
        buffer = self._buffers[signed]
        buffer.append(Member(row, sketch, held_out))
        if len(buffer) >= self._limit:
            self._flush(signed)

    def _flush(self, signed: bool) -> None:
        if self._buffers[signed]:
            with _disk(self.folder):
                self._stores[signed].append(self._buffers[signed])
            self._buffers[signed] = []

    def duplicates(self) -> Iterator[Duplicate]:
        """Every row to drop; in the order of the input when rows were added in that order.

        The set does not depend on the order of adding or on ``memory_bytes``. Rows may be added afterwards,
        and the search repeated.
        """
        with _disk(self.folder):
            for signed in self._stores:
                self._flush(signed)
            searches = [store.search(self.threshold) for store in self._stores.values()]
            yield from merge(*searches, key=lambda gone: gone.row)

    @property
    def stats(self) -> IndexStats:
        """Counts so far."""
        short, signed = self._stores[False], self._stores[True]
        return IndexStats(
            rows=short.rows.records + signed.rows.records,
            signed=signed.rows.records,
            compared=short.compared + signed.compared,
            crowded=short.crowded + signed.crowded,
            passes=short.passes + signed.passes,
            disk_bytes=sum(file.size for store in self._stores.values() for file in store.files()),
        )

    def close(self) -> None:
        """Close and remove the files."""
        for store in self._stores.values():
            for file in store.files():
                file.remove()


def find_clusters(
    rows: Iterable[tuple[int, Sketch, bool]],
    folder: Path,
    *,
    threshold: float = THRESHOLD,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Duplicate]:
    """The rows to drop among ``(row, sketch, held out)``, each with the row that is kept in its stead.

    Raises:
        UsageError: see ``DuplicateIndex``.
        EnvironmentFault: see ``DuplicateIndex``.
    """
    with DuplicateIndex(folder, threshold=threshold, memory_bytes=memory_bytes) as index:
        for row, sketch, held_out in rows:
            index.add(row, sketch, held_out=held_out)
        yield from index.duplicates()
