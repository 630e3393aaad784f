"""Bits a model needs for a text: every token scored once, long documents through an overlapping window."""

from __future__ import annotations

import itertools
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

TOGETHER = 1024
"""Tokens up to which short pieces are measured in one row: each row restores every 4-bit weight, however short it is,
and products of fewer tokens do not reach a CPU's speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens to read, of which those after position ``first`` are scored."""

    ids: list[int]
    first: int


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
    pieces: list[Piece] = []
    owners: list[int] = []
    sizes: list[tuple[int, int]] = []
    for index, text in enumerate(texts):
        normal = unicodedata.normalize("NFC", text)
        ids = tokenizer.encode(normal, add_special_tokens=False).ids
        if not ids:
            raise DataRefused("a text to evaluate on is empty", where=f"document {index + 1}")
        # Without a start token the first token has no context and is not scored: its bytes must not count.
        scored = ids if start_token is not None else ids[1:]
        covered = normal if start_token is not None else tokenizer.decode(scored)
        sizes.append((len(covered.encode()), len(scored)))
        full = ids if start_token is None else [start_token, *ids]
        found = [Piece(ids=full[a:b], first=c - a - 1) for a, b, c in _windows(len(full), max_length)]
        pieces += found
        owners += [index] * len(found)
    nats = [0.0] * len(texts)
    for place, losses in enumerate(piece_losses(model, pieces)):
        owner = owners[place]
        nats[owner] += float(losses.double().sum())
        if owners[place + 1 : place + 2] != [owner]:
            tick(owner + 1, len(texts))
    return [
        TextCost(bits=bits / math.log(2), bytes=num_bytes, tokens=tokens)
        for bits, (num_bytes, tokens) in zip(nats, sizes, strict=True)
    ]


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


@torch.no_grad()
def piece_losses(model: Any, pieces: Sequence[Piece]) -> Iterator[Tensor]:
    """-log p in nats of the scored tokens of each piece, fp32 [scored tokens], one piece after the other.

    With the fast path's attention short pieces share a row as documents that do not see each other.
    """
    model.eval()
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if causal.config._attn_implementation == attention.NAME:  # then logits are a plain product with the head
        for group in _groups(pieces):
            yield from _row_losses(causal, group, model.device)
        return
    for piece in pieces:
        ids = torch.tensor([piece.ids], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, piece.first : -1]
        yield -torch.log_softmax(logits.float(), -1).gather(1, ids[0, piece.first + 1 :, None])[:, 0]


def _groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Neighbours with at most ``TOGETHER`` tokens; a longer piece is alone."""
    group: list[Piece] = []
    for piece in pieces:
        if group and sum(len(other.ids) for other in group) + len(piece.ids) > TOGETHER:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _row_losses(causal: Any, group: Sequence[Piece], device: torch.device) -> Sequence[Tensor]:
    bounds = [0, *itertools.accumulate(len(piece.ids) for piece in group)]
    ids = torch.tensor([[token for piece in group for token in piece.ids]], device=device)
    positions = torch.cat([torch.arange(len(piece.ids), device=device) for piece in group])[None]
    hidden = hidden_states(causal.get_decoder(), ids, positions, bounds)
    spans = [
        (start + piece.first, end - 1)
        for piece, (start, end) in zip(group, itertools.pairwise(bounds), strict=True)
    ]
    before = torch.cat([torch.arange(*span, device=device) for span in spans])
    losses = token_losses(hidden[0, before], causal.get_output_embeddings().weight, ids[0, before + 1])
    return torch.split(losses, [last - first for first, last in spans])
