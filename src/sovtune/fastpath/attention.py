"""Causal attention inside each document of a flat row: exact, without mask or padding.

Shape legend: N tokens of the row, H query heads, K key/value heads, G = H / K, D head size, L tokens of a document.

Why not `scaled_dot_product_attention`: on a CPU it computes the whole N x N square of a packed row, and its bf16
backward is the slow part (2.3 to 8.5 times slower than two batched products, scripts/bench_train.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NAME = "sovtune_documents"
"""Name under which transformers knows this attention (`attn_implementation`)."""

QUERY_BLOCK = 128
# A document longer than two blocks is walked in blocks of queries, so that most of the upper triangle, which the
# mask would throw away, is never computed.
_masks: dict[tuple[int, int, torch.dtype], Tensor] = {}
_MASKS_KEPT = 512


def _causal_mask(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """Additive mask for the last ``queries`` of ``keys`` positions: 0 where a query may look, -inf elsewhere."""
    key = (queries, keys, dtype)
    if key not in _masks:
        if len(_masks) >= _MASKS_KEPT:
            _masks.clear()
        _masks[key] = torch.full((queries, keys), float("-inf"), dtype=dtype).triu(keys - queries + 1)
    return _masks[key]


def _by_kv_head(x: Tensor, start: int, end: int, kv_heads: int) -> Tensor:
    """Tokens [start, end) of [N, H, D] as [K, G * tokens, D]: queries that share a key head stand in one matrix."""
    return x[start:end].transpose(0, 1).reshape(kv_heads, -1, x.shape[-1])


def _block_size(length: int) -> int:
    return length if length <= 2 * QUERY_BLOCK else QUERY_BLOCK


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
        for a, b in itertools.pairwise(bounds):
            kd, vd = _by_kv_head(k, a, b, kv_heads), _by_kv_head(v, a, b, kv_heads)
            step = _block_size(b - a)
            for i in range(a, b, step):
                e = min(i + step, b)
                seen = e - a
                scores = torch.bmm(_by_kv_head(q, i, e, kv_heads), kd[:, :seen].transpose(1, 2)).mul_(scale)
                scores = scores.view(kv_heads, group, e - i, seen).add_(
                    _causal_mask(e - i, seen, scores.dtype)
                )
                p = torch.softmax(scores, -1).view(kv_heads, -1, seen)  # the kernel accumulates in fp32
                out[i:e] = torch.bmm(p, vd[:, :seen]).view(heads, e - i, size).transpose(0, 1)
                if keep:
                    probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.bounds, ctx.scale = bounds, scale
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
        heads, size = q.shape[1:]
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for a, b in zip(ctx.bounds, ctx.bounds[1:], strict=False):
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
                ds = torch.bmm(gd, vd[:, :seen].transpose(1, 2))
                ds = torch.ops.aten._softmax_backward_data(ds, p, -1, p.dtype).mul_(ctx.scale)
                dq[i:e] = torch.bmm(ds, kd[:, :seen]).view(heads, e - i, size).transpose(0, 1)
                block_k, block_v = torch.bmm(ds.transpose(1, 2), qd), torch.bmm(p.transpose(1, 2), gd)
                if gk is None or gv is None:
                    gk, gv = block_k, block_v
                else:
                    gk[:, :seen] += block_k
                    gv[:, :seen] += block_v
            if gk is not None and gv is not None:
                dk[a:b], dv[a:b] = gk.transpose(0, 1).to(dk.dtype), gv.transpose(0, 1).to(dv.dtype)
        return dq, dk, dv, None, None


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
