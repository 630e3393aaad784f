"""Packing loses nothing, doubles nothing, overfills nothing, and depends on its input only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.chat import Rendered
from sovtune.data.pack import RowLimit, one_each, pack, training_order
from sovtune.errors import DataRefused

lengths = st.lists(st.integers(1, 64), max_size=60)


@settings(max_examples=50, derandomize=True)
@given(lengths)
def test_every_document_is_in_exactly_one_row_and_rows_hold(sizes):
    rows = pack(sizes, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in row) <= 64 for row in rows)
    assert list(rows) == list(pack(list(sizes), 64))
    assert len(rows) == len(list(rows))


@settings(max_examples=50, derandomize=True)
@given(lengths)
def test_no_two_rows_could_be_one(sizes):
    filled = [sum(sizes[index] for index in row) for row in pack(sizes, 64)]
    assert all(a + b > 64 for i, a in enumerate(filled) for b in filled[:i])


@settings(max_examples=50, derandomize=True)
@given(lengths)
def test_rows_are_those_of_the_plain_algorithm(sizes):
    """Longest first, each into the row with the least room that holds it, the first of equal rows."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        fitting = [row for row in range(len(rows)) if room[row] >= sizes[index]]
        if not fitting:
            rows.append([])
            room.append(64)
        row = min(fitting, key=lambda row: (room[row], row)) if fitting else len(rows) - 1
        rows[row].append(index)
        room[row] -= sizes[index]
    assert list(pack(sizes, 64)) == rows


def test_best_fit_takes_the_fullest_row_that_has_room():
    assert list(pack([6, 5, 4, 3], 10)) == [[0, 2], [1, 3]]


@settings(max_examples=50, derandomize=True)
@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 9))
def test_training_order_sees_every_row_once_a_pass(rows, wanted, seed):
    order = training_order(rows, wanted, seed)
    assert len(order) == wanted
    for start in range(0, wanted - rows + 1, rows):
        assert sorted(order[start : start + rows]) == list(range(rows))
    assert order == training_order(rows, wanted, seed)


def document(length: int) -> Rendered:
    return Rendered(input_ids=list(range(length)), labels=list(range(length)), where=f"f:{length}")


def test_too_long_documents_are_counted_or_refused_all_at_once():
    limit = RowLimit(10, "drop")
    assert [limit.admits(document(length)) for length in (5, 23, 10, 11)] == [True, False, True, False]
    limit.close()
    assert (limit.counts, limit.tokens_cut) == ({"dropped": 2}, 34)
    strict = RowLimit(10, "error")
    assert [strict.admits(document(length)) for length in (5, 23, 40)] == [True, False, False]
    with pytest.raises(DataRefused, match="23 tokens, a row holds 10; 1 more are too long") as caught:
        strict.close()
    assert caught.value.where == "f:23"
    assert "longest document has 40" in str(caught.value)


def test_documents_that_fit_are_not_refused():
    limit = RowLimit(10, "error")
    assert limit.admits(document(10))
    limit.close()


def test_without_packing_each_document_has_a_row():
    assert list(one_each(3)) == [[0], [1], [2]]
