"""Numbers of rows rounded up, so that a run meets few of them: every new one costs memory for good.

oneDNN compiles a bf16 product for its shape and keeps part of that whatever its cache forgets: a thousand numbers of
rows let a process grow by 0.7 to 2.0 GB for each shape of a layer, rounded up as here by a tenth of that
(scripts/bench_shapes.py). With rows of varying length nearly every step would be a new number, and memory would rise as
long as the run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

STEPS_PER_OCTAVE = 32
"""At least so many sizes between a number and its double: at most 3 % more tokens, 1 % on average."""
HEAD_ROWS = 16
"""Multiple to which the last rows of a product with the head are filled up."""


def rounded(count: int) -> int:
    """The next number at or above ``count`` that is a multiple of a power of two of about 1/32 of it."""
    step = 1 << max(0, (count // STEPS_PER_OCTAVE).bit_length() - 1)
    return -(-count // step) * step


def hidden_states(
    decoder: Any, input_ids: Tensor, position_ids: Tensor, document_bounds: Sequence[int]
) -> Tensor:
    """Run a decoder on a flat row [1, N]; its last hidden state [1, N, E].

    What fills the row up is a document of its own at the end, which no other one sees.
    """
    tokens = input_ids.shape[1]
    extra = rounded(tokens) - tokens
    bounds = list(document_bounds)
    if extra:
        input_ids = F.pad(input_ids, (0, extra))
        filling = torch.arange(extra, device=position_ids.device)[None]
        position_ids = torch.cat([position_ids, filling], 1)
        bounds.append(tokens + extra)
    out: Tensor = decoder(
        input_ids=input_ids, position_ids=position_ids, document_bounds=bounds, use_cache=False
    ).last_hidden_state
    return out[:, :tokens]


def filled(rows: Tensor) -> Tensor:
    """``rows`` [R, ...] with zeros below, so that R is a multiple of ``HEAD_ROWS``: before the product with the head.

    Only what goes in is copied; a copy of what comes out would be as wide as the vocabulary.
    """
    extra = -rows.shape[0] % HEAD_ROWS
    return F.pad(rows, (*[0, 0] * (rows.dim() - 1), 0, extra)) if extra else rows
