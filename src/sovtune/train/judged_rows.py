"""Rows of comparisons or judged answers with what their losses need beside them: verdicts, reference, mismatches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from sovtune.errors import DataRefused
from sovtune.fastpath.loss import IGNORE
from sovtune.train.rows import FlatCollator, PaddedCollator, Row, digest

MANY_WITHOUT = 0.5
"""Share of the steps from which answers to a single prompt are no accident of the data."""

JudgedRow = dict[str, Any]
"""A ``Row`` with ``good`` (kto), ``reference`` (log-probabilities of its answers) and ``mismatched`` (kto)."""


class JudgedRows(Dataset[JudgedRow]):
    """The rows of a run in training order, read as the collator wants them.

    Args:
        rows: rows in training order.
        rows_per_step: consecutive rows that make an optimizer step; the last step takes what is left.
        mismatches: whether each answer is also to be paired with another prompt of its step (kto).
    """

    def __init__(self, rows: Sequence[Row], *, rows_per_step: int, mismatches: bool):
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.mismatches = mismatches
        self.reference: Mapping[str, Sequence[float]] = {}
        self._step: tuple[int, list[Row | None]] = (-1, [])

    def __len__(self) -> int:
        """Rows of all steps."""
        return len(self.rows)

    def __getitem__(self, index: int) -> JudgedRow:
        """A row with its reference log-probabilities, as far as there are any."""
        row: JudgedRow = dict(self.rows[index])
        row["reference"] = self._known(self.rows[index])
        other = self.mismatched(index)
        row["mismatched"] = None if other is None else {**other, "reference": self._known(other)}
        return row

    def _known(self, row: Row) -> Sequence[float]:
        return self.reference[digest(row)] if self.reference else [0.0] * len(row["lengths"])

    def mismatched(self, index: int) -> Row | None:
        """The prompts of a row with answers to other prompts of the same step; None when there are none."""
        if not self.mismatches:
            return None
        step, place = divmod(index, self.rows_per_step)
        if self._step[0] != step:
            first = step * self.rows_per_step
            last = min(first + self.rows_per_step, len(self.rows))
            self._step = (step, mismatched([self.rows[at] for at in range(first, last)]))
        return self._step[1][place]

    def all_rows(self) -> Iterator[Row]:
        """Every row of the run, and every mismatched one."""
        for index in range(len(self.rows)):
            yield self.rows[index]
            other = self.mismatched(index)
            if other is not None:
                yield other

    def refuse_single_prompts(self) -> None:
        """Refuse a run in which answers could hardly ever meet another prompt.

        Raises:
            DataRefused: in half of the steps or more.
        """
        steps = range(0, len(self.rows), self.rows_per_step)
        without = sum(self.mismatched(first) is None for first in steps)
        if self.mismatches and without >= MANY_WITHOUT * len(steps):
            raise DataRefused(
                f"{without} of {len(steps)} steps hold answers to one prompt only",
                where="train.batch_tokens",
                why="kto measures how far the model has moved on answers paired with other prompts of the same step",
                fix="raise train.batch_tokens, so that several answers make a step, or set train.rows.packing: true",
            )


def mismatched(step: Sequence[Row]) -> list[Row | None]:
    """Each prompt of a step followed by an answer to another prompt of the step, row by row.

    The answer is that of the next document, counted in a circle as in the KTO paper (arXiv 2402.01306, sec. 4.1);
    documents with the same prompt are passed over, since their answers do fit. A prompt without another one in the
    step has no pair, a row without any pair is None.
    """
    documents = [(place, *parts) for place, row in enumerate(step) for parts in _prompts_and_answers(row)]
    found: list[Row] = [{"input_ids": [], "labels": [], "lengths": []} for _ in step]
    for at, (place, prompt, _) in enumerate(documents):
        others = (*documents[at + 1 :], *documents[:at])
        answer = next((theirs for _, other, theirs in others if other != prompt), None)
        if answer is not None:
            found[place]["input_ids"] += prompt + answer
            found[place]["labels"] += [IGNORE] * len(prompt) + answer
            found[place]["lengths"].append(len(prompt) + len(answer))
    return [row if row["lengths"] else None for row in found]


def _prompts_and_answers(row: Row) -> list[tuple[list[int], list[int]]]:
    """Ids of the prompt and of the answer of each document; what follows an answer is left out."""
    found, start = [], 0
    for length in row["lengths"]:
        ids, labels = row["input_ids"][start : start + length], row["labels"][start : start + length]
        learnt = [index for index in range(1, length) if labels[index] != IGNORE]
        found.append((ids[: learnt[0]], ids[learnt[0] : learnt[-1] + 1]))
        start += length
    return found


class JudgedCollator:
    """Rows of ``JudgedRows`` -> a batch of the engine's collator with what the losses need.

    That is ``reference`` fp32 [documents] and, for kto, ``good`` bool [documents] and ``mismatched``, itself such a
    batch, or None.
    """

    def __init__(self, inner: FlatCollator | PaddedCollator):
        self.inner = inner

    def __call__(self, rows: Sequence[JudgedRow]) -> dict[str, Any]:
        """Rows as ``JudgedRows`` gives them."""
        batch: dict[str, Any] = dict(self.inner(rows))
        batch["reference"] = torch.tensor([value for row in rows for value in row["reference"]])
        if "good" in rows[0]:
            batch["good"] = torch.tensor([bool(verdict) for row in rows for verdict in row["good"]])
            others = [row["mismatched"] for row in rows if row["mismatched"] is not None]
            batch["mismatched"] = JudgedCollator(self.inner)(others) if others else None
        return batch
