"""Cross entropy behind a frozen head: only supervised rows, in chunks, no logits kept.

With p = softmax(h W^T) and target t the gradient is dh = (p - onehot(t)) W. It is finished in the forward pass while
the chunk's probabilities are at hand, so that nothing of size rows x vocabulary outlives a chunk (the usual path
keeps logits and their fp32 copy: rows x vocabulary x 10 bytes). The head gets no gradient: it must be frozen.

With label smoothing e the target is q = (1 - e) onehot(t) + e / V, with a z-loss of weight z the loss gains
z log(Z)^2, Z = sum of exp(logits). As dlog(Z)/dlogits = p, the gradient of the logits is p (1 + 2 z log Z) - q.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sovtune.fastpath.shapes import filled

IGNORE = -100
# Rows of a chunk: large enough for an efficient product, small enough to stay in cache; 256 and more pays from
# vocabularies of about 100,000 (facts measured with scripts/bench_train.py).
CHUNK, CHUNK_LARGE_VOCABULARY, LARGE_VOCABULARY = 128, 256, 100_000


class FrozenHeadLoss(torch.autograd.Function):
    """Sum over rows of -sum_v q_v log softmax(h W^T)_v + z log(Z)^2; q and z as said at the top."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, smoothing: float, z_weight: float
    ) -> Tensor:
        """Hidden [R, E], head [V, E] (frozen), targets [R] -> fp32 scalar in nats."""
        chunk = CHUNK_LARGE_VOCABULARY if head.shape[0] >= LARGE_VOCABULARY else CHUNK
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            end = min(start + chunk, hidden.shape[0])
            count, wanted = end - start, filled(targets[start:end, None])
            # Rows from count on are there for their number only: they are left out of every sum.
            logits = filled(hidden[start:end]) @ head.t()
            log_p = torch.log_softmax(logits, -1, dtype=torch.float32)
            of_target = log_p.gather(1, wanted)
            total -= (1 - smoothing) * of_target[:count].sum()
            if smoothing:
                total -= smoothing * log_p[:count].mean(-1).sum()
            log_z = logits.gather(1, wanted).float() - of_target  # [rows, 1]
            if z_weight:
                total += z_weight * log_z[:count].square().sum()
            if grad is not None:
                p = log_p.exp_()
                if z_weight:
                    p *= 1 + 2 * z_weight * log_z
                if smoothing:
                    p -= smoothing / head.shape[0]
                p = p.to(hidden.dtype)
                p.scatter_add_(1, wanted, p.new_full(wanted.shape, smoothing - 1))
                grad[start:end] = (p @ head)[:count]
                del p
            del logits, log_p  # or the next chunk would be made while this one is still held
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The finished gradient, scaled."""
        (grad,) = ctx.saved_tensors
        return grad * grad_total.to(grad.dtype), None, None, None, None


def next_token_loss(
    hidden: Tensor, head: Tensor, labels: Tensor, *, smoothing: float = 0.0, z_weight: float = 0.0
) -> Tensor:
    """Sum of next-token losses of a flat row.

    Args:
        hidden: [1, N, E], output of the decoder.
        head: [V, E], frozen weight of the output layer.
        labels: [1, N]; -100 = no loss. The first label of each document must be -100, or it would be predicted
            from the document before it.
        smoothing: share of the target probability spread over the vocabulary.
        z_weight: weight of log(Z)^2.
    """
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1)
    rows = (targets != IGNORE).nonzero().view(-1)
    total: Tensor = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
        states[rows], head, targets[rows], smoothing, z_weight
    )
    return total


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target in nats, fp32 [R], for evaluation: hidden [R, E], head [V, E], targets [R]."""
    chunk = CHUNK_LARGE_VOCABULARY if head.shape[0] >= LARGE_VOCABULARY else CHUNK
    parts = []
    for start in range(0, hidden.shape[0], chunk):
        rows, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
        log_p = torch.log_softmax(filled(rows) @ head.t(), -1, dtype=torch.float32)
        parts.append(-log_p.gather(1, filled(wanted))[: len(rows), 0])
    return torch.cat(parts) if parts else torch.zeros(0)
