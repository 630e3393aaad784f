"""Fit documents into rows of at most ``max_length`` tokens: best-fit packing, overlong documents, order of training."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sovtune.data.chat import IGNORE, Rendered
from sovtune.errors import DataRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Documents none of which is longer than a row, and what it took: counts by kind and tokens lost."""

    documents: list[Rendered]
    counts: dict[str, int]
    tokens_cut: int


def fit(
    documents: Sequence[Rendered], max_length: int, overlong: Literal["error", "drop", "split"]
) -> Fitted:
    """Deal with documents longer than a row.

    ``split`` cuts into pieces of ``max_length`` tokens, all of which stay; ``drop`` leaves the document out and
    counts its tokens; ``error`` refuses and names it.

    Raises:
        DataRefused: a document is too long and ``overlong`` is ``error``, or nothing is left.
    """
    kept: list[Rendered] = []
    counts = {"dropped": 0, "split": 0}
    cut = 0
    for document in documents:
        length = len(document.input_ids)
        if length <= max_length:
            kept.append(document)
        elif overlong == "error":
            longest = max(len(other.input_ids) for other in documents)
            raise DataRefused(
                f"this document has {length} tokens, a row holds {max_length}",
                where=document.where,
                why="cutting it silently would train on half an answer",
                fix=f"raise train.rows.max_length (the longest document has {longest}), or set train.rows.overlong",
            )
        elif overlong == "drop":
            counts["dropped"] += 1
            cut += length
        else:
            pieces = _split(document, max_length)
            kept.extend(pieces)
            counts["split"] += 1
            cut += length - sum(len(piece.input_ids) for piece in pieces)
    if not kept:
        raise DataRefused("no document is left to train on", why=f"all are longer than {max_length} tokens")
    return Fitted(
        documents=kept, counts={name: count for name, count in counts.items() if count}, tokens_cut=cut
    )


def _split(document: Rendered, max_length: int) -> list[Rendered]:
    pieces = []
    for start in range(0, len(document.input_ids), max_length):
        ids = document.input_ids[start : start + max_length]
        labels = document.labels[start : start + max_length]
        if len(ids) > 1 and any(label != IGNORE for label in labels[1:]):  # one token predicts nothing
            pieces.append(Rendered(input_ids=ids, labels=labels, where=document.where))
    return pieces


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Best-fit decreasing: each document, longest first, goes into the fullest row that still has room.

    Args:
        lengths: tokens of each document, all at most ``max_length``.
        max_length: tokens a row can hold.

    Returns:
        Rows as lists of document indices; each index occurs once. Ties keep the order of the input, so the
        result depends on the input only. Best-fit decreasing wastes little (arXiv 2404.10830 shows why it suits
        training rows).
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted: the first that fits is the fullest row
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(room, (lengths[index], -1))
        if place < len(room):
            free, row = room.pop(place)
        else:
            free, row = max_length, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (free - lengths[index], row))
    return rows


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
