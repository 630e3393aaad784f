"""Files of fixed-size records, appended in batches, read at random; and grouping by key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from sovtune.data.matching import Index

CHUNK = 1 << 15
"""Records read at once when a file is read from end to end."""

BLOCK_PAIRS = 1 << 14
"""Bound on groups times members squared in a block of groups, unless one group alone is larger."""

S = TypeVar("S", bound=np.generic)


class RecordFile(Generic[S]):
    """Append-only file of fixed-size records, read at random but not mapped: mapped pages count as memory."""

    def __init__(self, path: Path, dtype: np.dtype[Any]):
        self.path, self.dtype, self.records = path, dtype, 0
        self.stream = path.open("w+b", buffering=0)

    def append(self, records: npt.NDArray[S]) -> None:
        """Write records at the end."""
        data = memoryview(records.tobytes())
        while data:
            data = data[self.stream.write(data) :]
        self.records += len(records)

    def read(self, start: int, count: int = 1) -> npt.NDArray[S]:
        """``count`` records from ``start`` on."""
        size = self.dtype.itemsize
        return np.frombuffer(os.pread(self.stream.fileno(), count * size, start * size), dtype=self.dtype)

    def gather(self, places: Index) -> npt.NDArray[S]:
        """The records at ``places``, each read once however often it is named."""
        distinct, back = np.unique(places, return_inverse=True)
        size, number = self.dtype.itemsize, self.stream.fileno()
        data = b"".join(os.pread(number, size, place * size) for place in distinct.tolist())
        records: npt.NDArray[S] = np.frombuffer(data, dtype=self.dtype)[back]
        return records

    def resize(self, records: int) -> None:
        """Empty the file and give it ``records`` zero records (a sparse file where the disk allows it)."""
        self.stream.truncate(0)
        self.stream.truncate(records * self.dtype.itemsize)
        self.records = records

    def write(self, place: int, record: npt.NDArray[S]) -> None:
        """Overwrite one record."""
        os.pwrite(self.stream.fileno(), record.tobytes(), place * self.dtype.itemsize)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.records * self.dtype.itemsize

    def remove(self) -> None:
        """Close and delete the file."""
        self.stream.close()
        self.path.unlink(missing_ok=True)

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[S]]]:
        """The whole file: place of the first record, records."""
        for start in range(0, self.records, CHUNK):
            yield start, self.read(start, min(CHUNK, self.records - start))


def groups(keys: npt.NDArray[Any], places: Index) -> Iterator[Index]:
    """``places`` grouped by equal key, in blocks ``[groups, members]`` of one size, two and more."""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
    sizes = np.diff(starts, append=len(keys))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    for size in np.unique(sizes).tolist():
        begins = starts[sizes == size]
        step = max(1, BLOCK_PAIRS // (size * size))
        for at in range(0, len(begins), step):
            yield places[begins[at : at + step, None] + np.arange(size)]
