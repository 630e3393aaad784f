"""Cross entropy behind a frozen head: only supervised rows, in chunks, no logits kept.

With p = softmax(h W^T) and target t the gradient is dh = (p - onehot(t)) W. It is finished in the forward pass while
the chunk's probabilities are at hand, so that nothing of size rows x vocabulary outlives a chunk (the usual path
keeps logits and their fp32 copy: rows x vocabulary x 10 bytes). Within a chunk a few rows at a time become fp32, and
their probabilities take the place of their logits. The head gets no gradient: it must be frozen.

With label smoothing e the target is q = (1 - e) onehot(t) + e / V, with a z-loss of weight z the loss gains
z log(Z)^2, Z = sum of exp(logits). As dlog(Z)/dlogits = p, the gradient of the logits is p (1 + 2 z log Z) - q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sovtune.fastpath.shapes import filled

IGNORE = -100
CHUNK = 256
"""Rows of a chunk: enough for an efficient product with the head."""
AT_ONCE = 1 << 19
"""Logits that are fp32 at a time, about: 2 MB, which stay in the second-level caches while they are worked on. A whole
chunk in fp32 takes six times its memory, and the loss up to a tenth longer."""


Measure = Callable[[Tensor, int, int, Tensor], None]
"""Of a chunk: its logits [R, V], its first row, the one behind its last, and the sum so far, to which it adds its loss.
Where a gradient is wanted that of the logits takes their place. Rows of the logits beyond the chunk's fill it up."""


class FrozenHeadLoss(torch.autograd.Function):
    """A sum of losses of rows behind a frozen head, in chunks."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, measure: Callable[[bool], Measure]) -> Tensor:
        """Hidden [R, E], head [V, E] (frozen) -> fp32 scalar; ``measure`` is told whether a gradient is wanted."""
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        add = measure(grad is not None)
        for start, end in chunks(hidden.shape[0]):
            logits = filled(hidden[start:end]) @ head.t()
            add(logits, start, end, total)
            if grad is not None:
                grad[start:end] = (logits @ head)[: end - start]
            del logits  # or the next chunk would be made while this one is still held
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None]:
        """The finished gradient, scaled."""
        (grad,) = ctx.saved_tensors
        return grad * grad_total.to(grad.dtype), None, None


def supervised_rows(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """States [R, E] that predict something, and what: targets [R]; of hidden [1, N, E] and labels [1, N]."""
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1)
    rows = (targets != IGNORE).nonzero().view(-1)
    return states[rows], targets[rows]


def chunks(rows: int) -> Iterator[tuple[int, int]]:
    """First row of each chunk, and the one behind its last."""
    for start in range(0, rows, CHUNK):
        yield start, min(start + CHUNK, rows)


def work_off(logits: Tensor, wanted: Tensor, smoothing: float, z_weight: float, *, gradient: bool) -> Tensor:
    """What the loss needs of each row, a few rows at a time; with ``gradient`` that of the logits takes their place.

    Args:
        logits: [R, V].
        wanted: [R, 1], the targets.
        smoothing: e of the module's first lines.
        z_weight: z of them.
        gradient: whether to overwrite the logits.

    Returns:
        fp32 [R, 3]: log p of the target, mean of log p over the vocabulary (with smoothing), log Z.
    """
    vocabulary = logits.shape[1]
    at_once = max(torch.get_num_threads(), AT_ONCE // vocabulary)
    found = torch.empty(logits.shape[0], 3, dtype=torch.float32, device=logits.device)
    for start in range(0, logits.shape[0], at_once):
        part, target, row = (x[start : start + at_once] for x in (logits, wanted, found))
        log_p = torch.log_softmax(part, -1, dtype=torch.float32)
        row[:, :1] = log_p.gather(1, target)
        row[:, 2:] = part.gather(1, target).float() - row[:, :1]
        if smoothing:
            row[:, 1] = log_p.mean(-1)
        if gradient:
            p = log_p.exp_()
            if z_weight:
                p *= 1 + 2 * z_weight * row[:, 2:]
            if smoothing:
                p -= smoothing / vocabulary
            part.copy_(p)
            del p
        del log_p  # or the next rows would be made while these are still held
    if gradient:  # scatter_ and scatter_add_ would go through an fp32 copy of all logits and back
        of_targets = torch.arange(len(logits), device=logits.device), wanted[:, 0]
        logits[of_targets] = logits[of_targets] + logits.new_tensor(smoothing - 1)
    return found


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
    states, targets = supervised_rows(hidden, labels)

    def measure(gradient: bool) -> Measure:
        def add(logits: Tensor, start: int, end: int, total: Tensor) -> None:
            # What fills rows and targets up is there for the number of rows only: it is left out of every sum.
            wanted = filled(targets[start:end, None])
            found = work_off(logits, wanted, smoothing, z_weight, gradient=gradient)
            of_target, mean, log_z = found[: end - start].unbind(1)
            total -= (1 - smoothing) * of_target.sum()
            if smoothing:
                total -= smoothing * mean.sum()
            if z_weight:
                total += z_weight * log_z.square().sum()

        return add

    total: Tensor = FrozenHeadLoss.apply(states, head, measure)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target in nats, fp32 [R], for evaluation: hidden [R, E], head [V, E], targets [R]."""
    parts = []
    for start, end in chunks(hidden.shape[0]):
        logits, wanted = filled(hidden[start:end]) @ head.t(), filled(targets[start:end, None])
        parts.append(-work_off(logits, wanted, 0.0, 0.0, gradient=False)[: end - start, 0])
    return torch.cat(parts) if parts else torch.zeros(0)
