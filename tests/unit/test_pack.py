"""Packing loses nothing, doubles nothing, overfills nothing, and depends on its input only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.chat import IGNORE, Rendered
from sovtune.data.pack import fit, pack, training_order
from sovtune.errors import DataRefused

lengths = st.lists(st.integers(1, 64), max_size=60)


@settings(max_examples=50, derandomize=True)
@given(lengths)
def test_every_document_is_in_exactly_one_row_and_rows_hold(sizes):
    rows = pack(sizes, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in row) <= 64 for row in rows)
    assert rows == pack(list(sizes), 64)


@settings(max_examples=50, derandomize=True)
@given(lengths)
def test_no_two_rows_could_be_one(sizes):
    filled = [sum(sizes[index] for index in row) for row in pack(sizes, 64)]
    assert all(a + b > 64 for i, a in enumerate(filled) for b in filled[:i])


def test_best_fit_takes_the_fullest_row_that_has_room():
    assert pack([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


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


def test_overlong_documents_are_refused_dropped_or_split_and_counted():
    documents = [document(5), document(23)]
    with pytest.raises(DataRefused, match="23 tokens, a row holds 10") as caught:
        fit(documents, 10, "error")
    assert caught.value.where == "f:23"
    dropped = fit(documents, 10, "drop")
    assert (len(dropped.documents), dropped.counts, dropped.tokens_cut) == (1, {"dropped": 1}, 23)
    split = fit(documents, 10, "split")
    assert [len(piece.input_ids) for piece in split.documents] == [5, 10, 10, 3]
    assert (split.counts, split.tokens_cut) == ({"split": 1}, 0)


def test_a_split_piece_without_loss_is_left_out_and_its_tokens_counted():
    long = Rendered(input_ids=list(range(20)), labels=[IGNORE] * 10 + list(range(10)), where="f:1")
    result = fit([long], 10, "split")
    assert len(result.documents) == 1
    assert result.tokens_cut == 10


def test_nothing_left_is_an_error():
    with pytest.raises(DataRefused, match="no document is left"):
        fit([document(50)], 10, "drop")
