"""Held-out comparisons: how often base and adapter find the chosen answer likelier than the rejected one."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sovtune.data.card import load_card, verify_files
from sovtune.data.chat import IGNORE, Rendered
from sovtune.data.judged import render_judged
from sovtune.data.sources import SourceRequest, read_documents
from sovtune.data.template import TextFormat
from sovtune.errors import DataRefused
from sovtune.evaluate.bits import Piece, piece_losses
from sovtune.recipe import HeldOut
from sovtune.records import PairScore

Floats = npt.NDArray[np.float64]
Z_95 = 1.959964
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPairs:
    """One held-out set of comparisons as tokens."""

    card_id: str
    title: str
    sha256: str
    pairs: list[Rendered]


def read_pairs(wish: HeldOut, text_format: TextFormat) -> HeldOutPairs:
    """Read a held-out set of comparisons through its card.

    Raises:
        DataRefused: the card does not fit, its rows are no comparisons, or the base has no chat template.
    """
    loaded = load_card(Path(wish.card))
    files = verify_files(loaded, None, for_training=False)
    if text_format.template is None:
        raise DataRefused(
            "the base has no chat template",
            where="evaluate.pairs",
            why="answers are compared as they would be given",
            fix="use the base's instruct variant, or leave evaluate.pairs out",
        )
    request = SourceRequest(split=None, max_rows=wish.max_documents, on_bad_row="error")
    pairs = []
    for document in read_documents(loaded, request, Counter()):
        if document.rejected is None:
            raise DataRefused(
                "this row is no comparison of two answers",
                where=document.where,
                why="evaluate.pairs measures which answer is likelier",
                fix="name a data card of kind preference; other held-out text belongs under evaluate.texts",
            )
        pairs.append(render_judged(document, "dpo", text_format.template, text_format.tokenizer))
    digest = hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()
    return HeldOutPairs(card_id=loaded.card.id, title=loaded.card.title, sha256=digest, pairs=pairs)


def score_pairs(model: Any, held_out: HeldOutPairs, tick: Callable[[str, int, int], None]) -> PairScore:
    """Compare base (adapter off) and adapter on the same pairs.

    Answers are compared by the mean log-probability of their tokens, so that length alone decides nothing. The
    reward is what training changed, log p(answer) under the adapter minus that under the base; no reference but the
    base is needed for it, whatever the method was.
    """
    model.eval()
    with torch.no_grad():
        with model.disable_adapter():
            before = _sums(model, held_out, tick, "base")
        after = _sums(model, held_out, tick, "adapter")
    sizes = np.array([_answer_sizes(pair) for pair in held_out.pairs], dtype=np.float64)
    leads = [_lead(sums / sizes) for sums in (before, after)]
    reward = _lead(after - before)
    number = len(held_out.pairs)
    rights = [int((lead > 0).sum()) for lead in (*leads, reward)]
    return PairScore(
        name=held_out.title,
        card_id=held_out.card_id,
        sha256=held_out.sha256,
        pairs=number,
        base=rights[0] / number,
        base_interval=wilson(rights[0], number),
        adapter=rights[1] / number,
        adapter_interval=wilson(rights[1], number),
        base_margin=float(leads[0].mean()),
        adapter_margin=float(leads[1].mean()),
        reward=rights[2] / number,
        reward_interval=wilson(rights[2], number),
        reward_margin=float(reward.mean()),
    )


def _lead(values: Floats) -> Floats:
    """Chosen minus rejected: [pairs, 2] -> [pairs]."""
    lead: Floats = values[:, 0] - values[:, 1]
    return lead


def _sides(pair: Rendered) -> Sequence[tuple[list[int], list[int]]]:
    """Ids and labels of the chosen and of the rejected dialogue."""
    cut = pair.parts[0]
    return ((pair.input_ids[:cut], pair.labels[:cut]), (pair.input_ids[cut:], pair.labels[cut:]))


def _answer_sizes(pair: Rendered) -> list[int]:
    return [sum(label != IGNORE for label in labels) for _, labels in _sides(pair)]


def _sums(model: Any, held_out: HeldOutPairs, tick: Callable[[str, int, int], None], which: str) -> Floats:
    """Log-probability in nats of every chosen and rejected answer, [pairs, 2]."""
    pieces = []
    for pair in held_out.pairs:
        for ids, labels in _sides(pair):
            answer = [at for at, label in enumerate(labels) if label != IGNORE]
            pieces.append(Piece(ids=ids[: answer[-1] + 1], first=answer[0] - 1))
    found = np.empty((len(held_out.pairs), 2))
    for place, losses in enumerate(piece_losses(model, pieces)):
        row, side = divmod(place, 2)
        found[row, side] = -float(losses.double().sum())
        if side:
            tick(f"{held_out.card_id} {which}", row + 1, len(held_out.pairs))
    return found


def wilson(right: int, number: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, which stays within 0 and 1 for few and for clear cases."""
    share, square = right / number, Z_95**2 / number
    middle = (share + square / 2) / (1 + square)
    half = Z_95 * math.sqrt(share * (1 - share) / number + square / (4 * number)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
