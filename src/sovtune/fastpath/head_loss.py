"""The next-token loss on GPUs by kernels that make logits in pieces: cut cross-entropy, Liger."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sovtune.fastpath.loss import IGNORE


def head_loss(
    kernel: Literal["cut", "liger"],
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    z_weight: float = 0.0,
) -> Tensor:
    """Sum of next-token losses in nats.

    Args:
        kernel: whose kernel.
        hidden: [B, L, E], output of the decoder.
        head: [V, E], frozen weight of the output layer.
        labels: [B, L]; -100 = no loss.
        smoothing: share of the target probability spread over the vocabulary; Liger only.
        z_weight: weight of log(Z)^2; Liger only.
    """
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1)
    if kernel == "cut":
        from cut_cross_entropy import linear_cross_entropy

        cut: Tensor = linear_cross_entropy(states, head, targets, ignore_index=IGNORE, reduction="sum")
        return cut
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    measure = LigerFusedLinearCrossEntropyLoss(
        ignore_index=IGNORE, label_smoothing=smoothing, lse_square_scale=z_weight, reduction="sum"
    )
    fused: Tensor = measure(head, states, targets)
    return fused


def liger_model_types() -> frozenset[str]:
    """Model types whose layers Liger Kernel can replace; it passes over all others without a word."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return frozenset(MODEL_TYPE_TO_APPLY_LIGER_FN)
