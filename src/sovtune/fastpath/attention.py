"""Causal attention inside each document of a flat row: exact, without mask or padding.

Shape legend: N tokens of the row, H query heads, K key/value heads, G = H / K, D head size, L tokens of a document.

Why not `scaled_dot_product_attention`: on a CPU it computes the whole N x N square of a packed row, and its bf16
backward is the slow part (2.3 to 8.5 times slower than two batched products, scripts/bench_train.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

NAME = "sovtune_documents"
"""Name under which transformers knows this attention (`attn_implementation`)."""

QUERY_BLOCK = 128
# A document longer than two blocks is walked in blocks of queries, so that most of the upper triangle, which the
# mask would throw away, is never computed.
LENGTH_STEP = 32
"""Documents whose lengths round up to the same multiple of this are computed together: a row of short dialogues is a
few batches then, where one by one most of the time went into starting small products, each of a shape of its own
(fastpath.shapes says what that costs)."""


@lru_cache(maxsize=512)
def _causal_mask(queries: int, dtype: torch.dtype) -> Tensor:
    """Additive mask of queries over their own positions: 0 where one may look, -inf elsewhere."""
    return torch.full((queries, queries), float("-inf"), dtype=dtype).triu(1)


def _by_kv_head(x: Tensor, start: int, end: int, kv_heads: int) -> Tensor:
    """Tokens [start, end) of [N, H, D] as [K, G * tokens, D]: queries that share a key head stand in one matrix."""
    return x[start:end].transpose(0, 1).reshape(kv_heads, -1, x.shape[-1])


def _block_size(length: int) -> int:
    return length if length <= 2 * QUERY_BLOCK else QUERY_BLOCK


@dataclass(frozen=True, slots=True)
class Together:
    """Short documents of nearly equal length, computed as one batch in which each is padded at its end to ``length``.

    Padding needs no mask of its own: it comes after the document, so causality hides it from every query that counts.

    ``gather`` are the tokens of the row that stand in the padded batch [documents * length], any token where there is
    padding (``pads``); ``slots`` are the places of the ``tokens`` in it.
    """

    documents: int
    length: int
    gather: Tensor
    pads: Tensor
    slots: Tensor
    tokens: Tensor

    def lay(self, x: Tensor, kv_heads: int) -> Tensor:
        """[N, H, D] -> [documents * K, H / K * length, D]."""
        return self._by_head(x.index_select(0, self.gather), kv_heads)

    def lay_gradient(self, x: Tensor, kv_heads: int) -> Tensor:
        """As ``lay``, with zeros where there is padding."""
        return self._by_head(x.index_select(0, self.gather).index_fill_(0, self.pads, 0), kv_heads)

    def _by_head(self, padded: Tensor, kv_heads: int) -> Tensor:
        heads, size = padded.shape[1:]
        by_document = padded.view(self.documents, self.length, kv_heads, heads // kv_heads, size)
        return by_document.permute(0, 2, 3, 1, 4).reshape(self.documents * kv_heads, -1, size)

    def put(self, out: Tensor, laid: Tensor, kv_heads: int) -> None:
        """The inverse of ``lay``: into the rows of ``out`` [N, H, D] that belong to these documents."""
        heads, size = out.shape[1:]
        by_head = laid.view(self.documents, kv_heads, heads // kv_heads, self.length, size)
        padded = by_head.permute(0, 3, 1, 2, 4).reshape(-1, heads, size)
        out.index_copy_(0, self.tokens, padded.index_select(0, self.slots))


@lru_cache(maxsize=4)
def arranged(bounds: tuple[int, ...]) -> tuple[tuple[Together, ...], tuple[tuple[int, int], ...]]:
    """Documents of a row: batches of short ones, and spans of long ones, which are computed alone.

    Every layer asks for the same row, forwards and backwards.
    """
    by_length: dict[int, list[tuple[int, int]]] = {}
    for a, b in itertools.pairwise(bounds):
        by_length.setdefault(-(-(b - a) // LENGTH_STEP) * LENGTH_STEP, []).append((a, b))
    batches: list[Together] = []
    alone: list[tuple[int, int]] = []
    for length, documents in by_length.items():
        if length > 2 * QUERY_BLOCK:
            alone += documents
            continue
        starts = torch.tensor([a for a, _ in documents])[:, None]
        sizes = torch.tensor([b - a for a, b in documents])[:, None]
        places = torch.arange(length)[None]
        real = (places < sizes).view(-1)
        gather = (starts + torch.minimum(places, sizes - 1)).view(-1)
        slots = real.nonzero().view(-1)
        pads = (~real).nonzero().view(-1)
        batches.append(Together(len(documents), length, gather, pads, slots, gather[slots]))
    return tuple(batches), tuple(sorted(alone))


class DocumentAttention(torch.autograd.Function):
    """softmax(scale * Q K^T + causal) V for each document [bounds[i], bounds[i+1]) on its own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds: Sequence[int], scale: float) -> Tensor:
        """Q [N, H, D], K and V [N, K, D] -> [N, H, D]."""
        tokens, heads, size = q.shape
        kv_heads = k.shape[1]
        group = heads // kv_heads
        out = q.new_empty(tokens, heads, size)
        keep = any(ctx.needs_input_grad)
        probabilities: list[Tensor] = []
        batches, alone = arranged(tuple(bounds))
        for batch in batches:
            kd, vd = batch.lay(k, kv_heads), batch.lay(v, kv_heads)
            p = _probabilities(batch.lay(q, kv_heads), kd, group, scale)
            batch.put(out, torch.bmm(p, vd), kv_heads)
            if keep:
                probabilities.append(p)
        for a, b in alone:
            kd, vd = _by_kv_head(k, a, b, kv_heads), _by_kv_head(v, a, b, kv_heads)
            step = _block_size(b - a)
            for i in range(a, b, step):
                e = min(i + step, b)
                p = _probabilities(_by_kv_head(q, i, e, kv_heads), kd[:, : e - a], group, scale)
                out[i:e] = torch.bmm(p, vd[:, : e - a]).view(heads, e - i, size).transpose(0, 1)
                if keep:
                    probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.bounds, ctx.scale = tuple(bounds), scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of softmax attention.

        With S = scale Q K^T, P = softmax(S) and dP = dO V^T: dV = P^T dO, dS = P * (dP - rowsum(dP * P)),
        dQ = scale dS K, dK = scale dS^T Q.
        """
        q, k, v, *probabilities = ctx.saved_tensors
        blocks = iter(probabilities)
        kv_heads = k.shape[1]
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        batches, alone = arranged(ctx.bounds)
        for batch in batches:
            p = next(blocks)
            qd, kd, vd = (batch.lay(x, kv_heads) for x in (q, k, v))
            gd = batch.lay_gradient(grad, kv_heads)
            ds = _score_gradient(gd, vd, p, ctx.scale)
            laid = torch.bmm(ds, kd), torch.bmm(ds.transpose(1, 2), qd), torch.bmm(p.transpose(1, 2), gd)
            for whole, part in zip(gradients, laid, strict=True):
                batch.put(whole, part, kv_heads)
        for a, b in alone:
            _backward_alone(q, k, v, grad, blocks, (a, b), ctx.scale, gradients)
        return *gradients, None, None


def _probabilities(q: Tensor, k: Tensor, group: int, scale: float) -> Tensor:
    """Of queries [B, G * queries, D] that are the last of the keys [B, keys, D]: [B, G * queries, keys]."""
    keys = k.shape[1]
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale).view(len(q), group, -1, keys)
    queries = scores.shape[2]
    scores[..., keys - queries :].add_(_causal_mask(queries, scores.dtype))  # all may look at earlier keys
    return torch.softmax(scores, -1).view(len(q), -1, keys)  # the kernel accumulates in fp32


def _score_gradient(grad: Tensor, v: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of Q K^T from that of the output."""
    dp = torch.bmm(grad, v.transpose(1, 2))
    ds: Tensor = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    return ds.mul_(scale)


def _backward_alone(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    blocks: Iterator[Tensor],
    span: tuple[int, int],
    scale: float,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """The part of one document, in the blocks of queries of the forward pass; written into ``gradients``."""
    a, b = span
    dq, dk, dv = gradients
    kv_heads = k.shape[1]
    heads, size = q.shape[1:]
    kd, vd = _by_kv_head(k, a, b, kv_heads), _by_kv_head(v, a, b, kv_heads)
    step = _block_size(b - a)
    # Sums over query blocks are kept in fp32; a document of one block needs no sum.
    gk = torch.zeros(kd.shape, dtype=torch.float32) if step < b - a else None
    gv = torch.zeros(vd.shape, dtype=torch.float32) if step < b - a else None
    for i in range(a, b, step):
        e = min(i + step, b)
        seen = e - a
        p = next(blocks)
        qd, gd = _by_kv_head(q, i, e, kv_heads), _by_kv_head(grad, i, e, kv_heads)
        ds = _score_gradient(gd, vd[:, :seen], p, scale)
        dq[i:e] = torch.bmm(ds, kd[:, :seen]).view(heads, e - i, size).transpose(0, 1)
        block_k, block_v = torch.bmm(ds.transpose(1, 2), qd), torch.bmm(p.transpose(1, 2), gd)
        if gk is None or gv is None:
            gk, gv = block_k, block_v
        else:
            gk[:, :seen] += block_k
            gv[:, :seen] += block_v
    if gk is not None and gv is not None:
        dk[a:b], dv[a:b] = gk.transpose(0, 1).to(dk.dtype), gv.transpose(0, 1).to(dv.dtype)


def document_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    document_bounds: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls: query [1, H, N, D], key and value [1, K, N, D] -> ([1, N, H, D], None).

    Raises:
        ValueError: no document bounds. Without them documents of a row would see each other, and the loss would
            look better than it is.
    """
    if document_bounds is None:
        raise ValueError(f"{NAME} needs document_bounds; call the decoder with them or set another attention")
    rows, heads, tokens, size = query.shape

    def flat(x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(rows * tokens, x.shape[1], size)

    scale = scaling if scaling is not None else size**-0.5
    out: Tensor = DocumentAttention.apply(flat(query), flat(key), flat(value), document_bounds, scale)  # type: ignore[no-untyped-call]
    return out.view(rows, tokens, heads, size), None


def register() -> None:
    """Make the attention known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """Causality is inside the attention: no mask is built."""
