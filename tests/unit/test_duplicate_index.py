"""The duplicate index on disk: memory stays bounded, files are cleaned up, a full disk is named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sovtune.data.dedup import WIDTH, Sketch
from sovtune.data.duplicate_index import DuplicateIndex, _disk, find_clusters
from sovtune.data.record_file import RecordFile
from sovtune.errors import EnvironmentFault


def random_rows(count: int, seed: int = 4) -> list[Sketch]:
    numbers = np.random.default_rng(seed)
    hashes = numbers.integers(0, 2**32, (count, WIDTH), dtype=np.uint32)
    return [Sketch(numbers.bytes(16), row.tobytes(), 900) for row in hashes]


class TestMemory:
    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        def peak(batches: int) -> int:
            tracemalloc.start()
            with DuplicateIndex(tmp_path / str(batches), memory_bytes=1 << 18) as index:
                for batch in range(batches):
                    for at, sketch in enumerate(random_rows(200, seed=batch % (batches - 1))):
                        index.add(200 * batch + at, sketch)  # the last batch repeats the first
                assert len(list(index.duplicates())) == 200
                stats = index.stats
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert stats.rows == stats.signed == 200 * batches
            assert stats.disk_bytes > 700 * stats.rows
            assert stats.passes >= 26 * (stats.rows * 48 // (1 << 18))  # spilled, read in several passes
            return used

        few, many = peak(10), peak(80)
        assert many - few < 0.2 * 70 * 200 * 700  # a fifth of what the further rows take on disk
        assert many < 4 << 20


class TestDisk:
    def test_files_are_removed(self, tmp_path: Path) -> None:
        with DuplicateIndex(tmp_path) as index:
            for row, sketch in enumerate(random_rows(3)):
                index.add(row, sketch)
            assert not list(index.duplicates())
            assert [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_no_rows(self, tmp_path: Path) -> None:
        assert list(find_clusters([], tmp_path)) == []

    def test_an_unusable_folder_is_a_named_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EnvironmentFault, match="duplicate index") as caught:
            DuplicateIndex(tmp_path / "file")
        assert str(tmp_path / "file") in str(caught.value)

    def test_a_full_disk_is_a_named_error(self) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("needs /dev/full")
        file: RecordFile[np.uint64] = RecordFile(full, np.dtype("<u8"))
        with pytest.raises(EnvironmentFault, match="No space left"), _disk(full):
            file.append(np.zeros(3, dtype=np.uint64))
