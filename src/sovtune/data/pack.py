"""Fit documents into rows of at most ``max_length`` tokens: overlong documents, best-fit packing, order of training."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sovtune.data.chat import Rendered
from sovtune.errors import DataRefused

Integers = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Tokens of each of some documents."""
_AT_ONCE = 1 << 16
"""Documents whose lengths are Python integers at one time."""


class RowLimit:
    """Holds documents to the length of a row, one by one, and counts what that took.

    ``counts`` says how many documents were dropped and split, ``tokens_cut`` how many tokens were lost.

    Args:
        max_length: tokens a row holds.
        overlong: what becomes of a longer document: refused, or dropped and counted. (``split`` cuts running text
            before it comes here, see ``data.split``; nothing else may be cut.)
    """

    def __init__(self, max_length: int, overlong: Literal["error", "drop", "split"]):
        self.max_length, self.overlong = max_length, overlong
        self.counts: Counter[str] = Counter()
        self.tokens_cut = 0
        self._first = ("", 0)
        self._refused = 0
        self._longest = 0

    def admits(self, document: Rendered) -> bool:
        """Whether the document fits; one that does not is counted."""
        length = len(document.input_ids)
        if length <= self.max_length:
            return True
        if self.overlong == "drop":
            self.counts["dropped"] += 1
            self.tokens_cut += length
            return False
        if not self._refused:
            self._first = (document.where, length)
        self._refused += 1
        self._longest = max(self._longest, length)
        return False

    def close(self) -> None:
        """Refuse documents that were too long, all at once, when the last one has been seen.

        Raises:
            DataRefused: ``overlong`` is ``error`` and a document was too long.
        """
        if not self._refused:
            return
        where, length = self._first
        more = f"; {self._refused - 1:,} more are too long" if self._refused > 1 else ""
        raise DataRefused(
            f"this document has {length} tokens, a row holds {self.max_length}{more}",
            where=where,
            why="cutting them silently would train on half an answer",
            fix=f"raise train.rows.max_length (the longest document has {self._longest}), "
            "or set train.rows.overlong",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Rows as groups of documents: row ``i`` holds ``members[starts[i]:starts[i + 1]]``.

    Attributes:
        members: document indices, row after row.
        starts: where each row begins in ``members``, and their number at the end; shape (rows + 1,).
    """

    members: Integers
    starts: Integers

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        """The rows one by one."""
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.members[start:end].tolist()


def pack(lengths: Sequence[int] | Lengths, max_length: int) -> Packed:
    """Best-fit decreasing: each document, longest first, goes into the fullest row that still has room.

    Args:
        lengths: tokens of each document, all at most ``max_length``.
        max_length: tokens a row can hold.

    Returns:
        Rows in which each document occurs once. Ties keep the order of the input, so the result depends on the
        input only. Best-fit decreasing wastes little (arXiv 2404.10830 shows why it suits training rows).
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    row_of = np.empty(len(sizes), dtype=np.int64)  # by place in ``order``
    free: list[int] = []  # the distinct numbers of free tokens that some row has, ascending
    rows_with: dict[int, list[int]] = {}  # free tokens -> heap of rows
    count = 0
    for begin in range(0, len(order), _AT_ONCE):
        for place, length in enumerate(sizes[order[begin : begin + _AT_ONCE]].tolist(), begin):
            found = bisect_left(free, length)
            if found < len(free):
                room = free[found]
                row = heapq.heappop(rows_with[room])
                if not rows_with[room]:
                    del rows_with[room], free[found]
            else:
                room, row = max_length, count
                count += 1
            row_of[place] = row
            left = room - length
            if left in rows_with:
                heapq.heappush(rows_with[left], row)
            elif left:
                rows_with[left] = [row]
                insort(free, left)
    starts = np.concatenate(([0], np.cumsum(np.bincount(row_of, minlength=count))))
    return Packed(members=order[np.argsort(row_of, kind="stable")], starts=starts)


def one_each(documents: int) -> Packed:
    """Rows without packing: each document alone."""
    return Packed(members=np.arange(documents), starts=np.arange(documents + 1))


def training_order(rows: int, wanted: int, seed: int) -> list[int]:
    """Row indices in the order of training: a fresh permutation for each pass, cut after ``wanted`` rows.

    The order is written down before training, so that a resumed run reads exactly what a straight one reads.
    """
    order: list[int] = []
    generator = random.Random(seed)  # noqa: S311  (an order, not a secret)
    while len(order) < wanted:
        one_pass = list(range(rows))
        generator.shuffle(one_pass)
        order.extend(one_pass)
    return order[:wanted]
