"""Log-probabilities of targets behind a frozen head, each with a gradient of its own, without keeping logits.

The same idea as ``fastpath.loss``: with p = softmax(h W^T) the gradient of log p[t] is dh = (onehot(t) - p) W, and it
is finished while the chunk's probabilities are at hand. There the sum is all that is wanted; here what each target
weighs is known only afterwards, so the finished rows wait and are scaled one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sovtune.fastpath.loss import chunks, work_off
from sovtune.fastpath.shapes import filled


class FrozenHeadLogProbs(torch.autograd.Function):
    """log softmax(h W^T)[t] of every row."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Hidden [R, E], head [V, E] (frozen), targets [R] -> fp32 [R] in nats."""
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        found = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for start, end in chunks(hidden.shape[0]):
            logits, wanted = filled(hidden[start:end]) @ head.t(), filled(targets[start:end, None])
            of_rows = work_off(logits, wanted, 0.0, 0.0, gradient=grad is not None)
            found[start:end] = of_rows[: end - start, 0]
            if grad is not None:
                grad[start:end] = (logits @ head)[: end - start].neg_()
            del logits  # or the next chunk would be made while this one is still held
        ctx.save_for_backward(grad)
        return found

    @staticmethod
    def backward(ctx: Any, grad_found: Tensor) -> tuple[Tensor, None, None]:
        """The finished gradients, each row scaled by its own."""
        (grad,) = ctx.saved_tensors
        return grad * grad_found[:, None].to(grad.dtype), None, None


def target_log_probs(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of targets: hidden [R, E], head [V, E] (frozen), targets [R] -> fp32 [R] in nats."""
    found: Tensor = FrozenHeadLogProbs.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return found
