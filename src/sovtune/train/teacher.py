"""A teacher reads the rows of a run once: what it finds likely at each place that is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sovtune.fastpath.distil_loss import Taught, kept
from sovtune.fastpath.heap import give_back
from sovtune.fastpath.loss import IGNORE, chunks
from sovtune.fastpath.select import loss_blockers
from sovtune.fastpath.shapes import filled, hidden_states
from sovtune.recipe_distil import Distil
from sovtune.train.rows import FlatCollator, PaddedCollator, Row


def grouped(rows: Iterable[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows that the teacher reads together: consecutive ones of at most so many tokens, or a single longer one."""
    group: list[Row] = []
    held = 0
    for row in rows:
        size = len(row["input_ids"])
        if group and held + size > tokens:
            yield group
            group, held = [], 0
        group.append(row)
        held += size
    if group:
        yield group


class Teacher:
    """A loaded model that is asked and never trained.

    Args:
        model: the causal model, in evaluation mode.
        fast: which engine reads the rows.
        section: temperature and how many tokens are kept.
        words: size of the vocabulary of the model that learns; the teacher's may have more rows, which mean nothing.
    """

    def __init__(self, model: Any, *, fast: bool, section: Distil, words: int):
        self.model, self.fast, self.section = model, fast, section
        self.collate = FlatCollator() if fast else PaddedCollator(0)
        self.words = words
        head = model.get_output_embeddings()
        self.head: Tensor = head.weight
        self.whole_logits = bool(loss_blockers(model.config)) or getattr(head, "bias", None) is not None

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> Taught:
        """At the learnt places of the rows, one row after the other."""
        give_back()  # what loading and the last rows have left fits none of these
        batch: dict[str, Any] = {
            name: value.to(self.model.device) if isinstance(value, Tensor) else value
            for name, value in self.collate(rows).items()
        }
        labels = batch.pop("labels")
        places = labels[:, 1:] != IGNORE
        if self.whole_logits:
            logits = self.model(**batch, use_cache=False).logits[:, :-1][places]
            found = [self._kept(logits[start:end]) for start, end in chunks(len(logits))]
        else:
            states = self._states(batch)[:, :-1][places]
            found = [
                self._kept((filled(states[start:end]) @ self.head.t())[: end - start])
                for start, end in chunks(len(states))
            ]
        return Taught(torch.cat([one.ids for one in found]), torch.cat([one.log_probs for one in found]))

    def _states(self, batch: dict[str, Any]) -> Tensor:
        decoder = self.model.get_decoder()
        if self.fast:
            return hidden_states(decoder, **batch)
        states: Tensor = decoder(**batch, use_cache=False).last_hidden_state
        return states

    def _kept(self, logits: Tensor) -> Taught:
        return kept(logits[:, : self.words], self.section.top, self.section.temperature)
