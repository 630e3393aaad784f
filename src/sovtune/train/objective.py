"""What the loss is besides cross entropy: label smoothing, z-loss, a teacher, and noise on embeddings (NEFTune)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from sovtune.fastpath.distil_loss import Shape, Taught, divergence


def logits_loss(logits: Tensor, labels: Tensor, *, smoothing: float, z_weight: float) -> Tensor:
    """Sum of next-token losses from logits, for the plain engine; ``fastpath.loss`` has the formula.

    Args:
        logits: [B, L, V], in any dtype; sums are made in fp32.
        labels: [B, L]; -100 = no loss.
        smoothing: share of the target probability spread over the vocabulary.
        z_weight: weight of log(Z)^2.
    """
    targets = labels[:, 1:].reshape(-1)
    supervised = targets != -100
    scores = logits[:, :-1].reshape(-1, logits.shape[-1])[supervised].float()
    total = F.cross_entropy(scores, targets[supervised], reduction="sum", label_smoothing=smoothing)
    if z_weight:
        total = total + z_weight * torch.logsumexp(scores, -1).square().sum()
    return total


def logits_distillation(logits: Tensor, labels: Tensor, taught: Taught, shape: Shape) -> Tensor:
    """Sum of the losses with a teacher from logits, for the plain engine; ``fastpath.distil_loss`` has the formula.

    Args:
        logits: [B, L, V], in any dtype; sums are made in fp32.
        labels: [B, L]; -100 = no loss.
        taught: the teacher at the places with a label, in their order.
        shape: weight and temperature.
    """
    targets = labels[:, 1:].reshape(-1)
    supervised = targets != -100
    scores = logits[:, :-1].reshape(-1, logits.shape[-1])[supervised].float()
    of_text = F.cross_entropy(scores, targets[supervised], reduction="sum")
    of_teacher = divergence(torch.log_softmax(scores / shape.temperature, -1), taught).sum()
    return (1 - shape.weight) * of_text + shape.weight * shape.temperature**2 * of_teacher


def document_lengths(inputs: dict[str, Any]) -> Tensor:
    """Tokens of the document each position belongs to, fp32 [B, L] or [B, 1], of a flat or a padded batch."""
    bounds: Sequence[int] | None = inputs.get("document_bounds")
    if bounds is None:
        lengths: Tensor = inputs["attention_mask"].sum(1, keepdim=True).float()
        return lengths
    sizes = torch.tensor(bounds, device=inputs["input_ids"].device).diff()
    return sizes.repeat_interleave(sizes)[None].float()


@contextmanager
def noise_on_embeddings(embedding: torch.nn.Module, lengths: Tensor, alpha: float) -> Iterator[None]:
    """Within the block the embedding's output gets uniform noise of at most alpha / sqrt(length x width).

    NEFTune (arXiv 2310.05914) says so for one document; here every document of a row keeps its own length, so that
    packing and padding do not change the size of the noise. Evaluation mode has none. The noise comes from torch's
    generator, whose state checkpoints keep.

    Args:
        embedding: the input embedding.
        lengths: tokens of the document of each position, [B, L] or [B, 1].
        alpha: size of the noise.
    """

    def add(module: torch.nn.Module, _: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        size = alpha / torch.sqrt(lengths * output.shape[-1])
        batch, tokens, width = output.shape
        filled = tokens - lengths.shape[1] if lengths.shape[1] > 1 else 0  # fastpath.shapes fills rows up
        noise = torch.rand(batch, tokens - filled, width, device=output.device) * 2 - 1
        return output + F.pad(noise * size[..., None], (0, 0, 0, filled)).to(output.dtype)

    handle = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
