"""Rendered documents on disk and rows gathered from them: nothing is lost, mixed up or held in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data import arrow_rows
from sovtune.data.arrow_rows import DocumentStore, load_rows, write_rows
from sovtune.data.chat import IGNORE, Rendered
from sovtune.data.pack import pack
from sovtune.errors import EnvironmentFault


def rendered(number: int, length: int, **more: object) -> Rendered:
    ids = [1000 * number + place for place in range(length)]
    return Rendered(
        input_ids=ids, labels=[IGNORE, *ids[1:]], where=f"a.jsonl:{number}", **more  # type: ignore[arg-type]
    )  # fmt: skip


def write(
    folder: Path, documents: list[Rendered], chosen: list[int], max_length: int
) -> list[dict[str, object]]:
    store = DocumentStore(folder, ["card"])
    for number, document in enumerate(documents):
        store.add(document, source=0, language="ko", row=number)
    table = store.documents()
    places = np.array(chosen, dtype=np.int64)
    write_rows(store, table, places, pack(table.lengths[places], max_length), folder / "rows.arrow")
    store.remove()
    return load_rows(folder / "rows.arrow").to_list()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.data())
def test_every_chosen_document_stands_in_the_rows_as_it_was_rendered(
    sizes: list[int], data: st.DataObject
) -> None:
    documents = [rendered(number, size) for number, size in enumerate(sizes)]
    chosen = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=40))
    with tempfile.TemporaryDirectory() as folder:
        rows = write(Path(folder), documents, chosen, 40)
    found = []
    for row in rows:
        start = 0
        for where, length in zip(row["where"], row["lengths"], strict=True):
            part = slice(start, start + length)
            found.append((where, row["input_ids"][part], row["labels"][part]))
            start += length
        assert start == len(row["input_ids"]) <= 40
    wanted = [
        (f"card/a.jsonl:{place}", documents[place].input_ids, documents[place].labels) for place in chosen
    ]
    assert sorted(found) == sorted(wanted)


def test_batches_and_buffers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [rendered(number, 3 + number % 7) for number in range(50)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = write(tmp_path / "a", documents, list(range(50)), 20)
    monkeypatch.setattr(arrow_rows, "_HELD_TOKENS", 7)
    monkeypatch.setattr(arrow_rows, "_HELD_ORIGINS", 3)
    assert write(tmp_path / "b", documents, list(range(50)), 20) == whole


def test_a_comparison_stays_together_and_a_verdict_stays_with_its_answer(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "judged").mkdir()
    pairs = [rendered(1, 9, parts=(5, 4)), rendered(2, 7, parts=(3, 4))]
    (row,) = write(tmp_path / "pairs", pairs, [0, 1], 16)
    assert row["lengths"] == [5, 4, 3, 4]
    assert row["where"] == ["card/a.jsonl:1", "card/a.jsonl:2"]
    assert "good" not in row
    (row,) = write(tmp_path / "judged", [rendered(1, 9, good=True), rendered(2, 7, good=False)], [0, 1], 16)
    assert (row["lengths"], row["good"]) == ([9, 7], [1, 0])


def test_documents_are_known_by_numbers(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path, ["card", "other"])
    store.add(rendered(4, 5), source=1, language="ko", row=9)
    store.add(rendered(5, 3), source=0, language="en", row=10)
    table = store.documents()
    assert (table.lengths.tolist(), table.supervised.tolist(), table.offsets.tolist()) == (
        [5, 3],
        [4, 2],
        [0, 5],
    )
    assert (table.sources.tolist(), table.rows.tolist(), table.tags) == ([1, 0], [9, 10], ("ko", "en"))
    assert store.origins(np.array([1, 0])) == [("card/a.jsonl:5", 0, -1), ("other/a.jsonl:4", 0, -1)]
    size = sum(column.itemsize for column in (table.lengths, table.supervised, table.sources, table.languages,
                                              table.rows, table.offsets))  # fmt: skip
    assert size == 24, "bytes a document that stay in memory"
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path, ["card"])
    store.add(rendered(1, 5), source=0, language="ko", row=0)
    table = store.documents()
    target = tmp_path / "rows.arrow"
    target.symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match="No space left"):
        write_rows(store, table, np.array([0] * 20_000), pack([5] * 20_000, 16), target)
