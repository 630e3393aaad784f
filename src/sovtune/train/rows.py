"""Packed rows on disk -> batches: one flat row for the fast path, padded documents for the plain one."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sovtune.data.chat import IGNORE

Row = dict[str, list[int]]
"""One packed row: ``input_ids`` and ``labels`` of all its documents in sequence, ``lengths`` of the documents."""


def digest(row: Row) -> str:
    """What a row is, for what was measured on it and is kept: ids, labels and lengths as 32 hex digits."""
    content = hashlib.blake2b(digest_size=16)
    for name in ("input_ids", "labels", "lengths"):
        values = array("q", row[name])
        content.update(len(values).to_bytes(8, "little") + values.tobytes())
    return content.hexdigest()


def mask_first_tokens(labels: list[int], lengths: Sequence[int]) -> list[int]:
    """The first token of a document is predicted by nothing (in a flat row: by the document before it)."""
    masked = list(labels)
    start = 0
    for length in lengths:
        masked[start] = IGNORE
        start += length
    return masked


class FlatCollator:
    """Rows -> one row [1, N] with positions that restart and the bounds of its documents."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Returns input_ids, labels, position_ids [1, N] and document_bounds (documents + 1 integers)."""
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        bounds = [0]
        for row in rows:
            ids += row["input_ids"]
            labels += mask_first_tokens(row["labels"], row["lengths"])
            for length in row["lengths"]:
                positions += range(length)
                bounds.append(bounds[-1] + length)
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([positions]),
            "document_bounds": bounds,
        }


class PaddedCollator:
    """Rows -> their documents one below the other [B, longest], padded on the right and masked.

    Args:
        pad: id written into padding; it is masked by position, so any id does, also the end-of-text token.
    """

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Returns input_ids, labels, attention_mask [B, longest]."""
        documents: list[tuple[list[int], list[int]]] = []
        for row in rows:
            labels = mask_first_tokens(row["labels"], row["lengths"])
            start = 0
            for length in row["lengths"]:
                documents.append((row["input_ids"][start : start + length], labels[start : start + length]))
                start += length
        longest = max(len(ids) for ids, _ in documents)
        shape = (len(documents), longest)
        ids_out = torch.full(shape, self.pad)
        labels_out = torch.full(shape, IGNORE)
        mask = torch.zeros(shape, dtype=torch.long)
        for index, (ids, labels) in enumerate(documents):
            ids_out[index, : len(ids)] = torch.tensor(ids)
            labels_out[index, : len(labels)] = torch.tensor(labels)
            mask[index, : len(ids)] = 1
        return {"input_ids": ids_out, "labels": labels_out, "attention_mask": mask}
