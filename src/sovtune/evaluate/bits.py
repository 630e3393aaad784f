"""Bits a model needs for a text: every token scored once, long documents through an overlapping window."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sovtune.errors import DataRefused
from sovtune.fastpath import attention
from sovtune.fastpath.loss import token_losses
from sovtune.fastpath.shapes import hidden_states

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCost:
    """What one document costs: bits, UTF-8 bytes of its NFC text, scored tokens."""

    bits: float
    bytes: int
    tokens: int


Tick = Callable[[int, int], None]


def text_costs(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    start_token: int | None,
    max_length: int,
    tick: Tick,
) -> list[TextCost]:
    """Bits of each text under the model, with whatever adapter state it has.

    Bits per byte is the sum of bits divided by the sum of bytes: comparable across tokenizers, within a language.
    Texts are brought to NFC and taken whole; ``start_token`` (BOS or end-of-text) is context for the first token
    and is not scored. A text longer than ``max_length`` is read in windows that overlap by half, and each token is
    scored in the first window that contains it.

    Raises:
        DataRefused: a text has no tokens.
    """
    costs = []
    model.eval()
    with torch.no_grad():
        for index, text in enumerate(texts):
            normal = unicodedata.normalize("NFC", text)
            ids = tokenizer.encode(normal, add_special_tokens=False).ids
            if not ids:
                raise DataRefused("a text to evaluate on is empty", where=f"document {index + 1}")
            nats = _nats(model, ids, start_token, max_length)
            # Without a start token the first token has no context and is not scored: its bytes must not count.
            scored = ids if start_token is not None else ids[1:]
            covered = normal if start_token is not None else tokenizer.decode(scored)
            costs.append(TextCost(bits=nats / math.log(2), bytes=len(covered.encode()), tokens=len(scored)))
            tick(index + 1, len(texts))
    return costs


def _windows(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first scored position) of windows of ``size`` tokens that overlap by half."""
    start, scored = 0, 1
    while True:
        end = min(start + size, length)
        yield start, end, scored
        if end == length:
            return
        scored = end
        start = end - size // 2


def _nats(model: Any, ids: list[int], start_token: int | None, max_length: int) -> float:
    full = ([start_token] if start_token is not None else []) + ids
    total = 0.0
    for start, end, scored in _windows(len(full), max_length):
        window = torch.tensor([full[start:end]], device=model.device)
        targets = torch.tensor(full[scored:end], device=model.device)
        total += float(target_losses(model, window, scored - start - 1, targets).double().sum())
    return total


def target_losses(model: Any, window: Tensor, first: int, targets: Tensor) -> Tensor:
    """-log p of ``targets``, which follow positions ``first`` .. of the window [1, L]."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if causal.config._attn_implementation == attention.NAME:  # then logits are a plain product with the head
        positions = torch.arange(window.shape[1], device=window.device)[None]
        bounds = [0, window.shape[1]]
        decoder = causal.get_decoder()
        hidden = hidden_states(decoder, window, positions, bounds)
        return token_losses(hidden[0, first:-1], causal.get_output_embeddings().weight, targets)
    logits = model(input_ids=window, use_cache=False).logits[0, first:-1]
    return -torch.log_softmax(logits.float(), -1).gather(1, targets[:, None])[:, 0]
