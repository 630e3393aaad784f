"""Learning from a teacher behind a frozen head: the loss of ``fastpath.loss`` with a teacher's probabilities beside it.

Of the teacher the k likeliest next tokens K are known at each place, with their probabilities q, and the probability
r of all others together. The model is looked at through the same k + 1 classes: with p = softmax(z / T) of its logits
z and m = 1 - sum_K p,

    D = sum_K q log(q / p) + r log(r / m),

which is 0 where they agree and never more than the Kullback-Leibler divergence over the whole vocabulary. Its gradient
is dD/dz = (p - t) / T, where t = q in K and r p / m elsewhere: among the others the model's own taste is left alone.

The loss is (1 - w) CE + w T^2 D with the cross entropy CE of the text at temperature 1; T^2 keeps the gradient's size
(arXiv 1503.02531, section 2). As in ``fastpath.loss`` no logits outlive a chunk, and the head must be frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sovtune.fastpath.loss import AT_ONCE, FrozenHeadLoss, Measure, supervised_rows


class Taught(NamedTuple):
    """A teacher at R places: ids [R, k] int64, log-probabilities [R, k + 1] fp32, the last one of all other tokens."""

    ids: Tensor
    log_probs: Tensor


class Shape(NamedTuple):
    """How the two parts are joined: the weight w of the teacher's and the temperature T."""

    weight: float
    temperature: float


def kept(logits: Tensor, top: int, temperature: float) -> Taught:
    """A teacher's likeliest tokens at R places, from its logits [R, V] in any dtype; ``top`` is less than V."""
    rows = max(1, AT_ONCE // logits.shape[1])
    found = []
    for start in range(0, len(logits), rows):
        log_p = torch.log_softmax(logits[start : start + rows].float() / temperature, -1)
        likeliest, ids = log_p.topk(top)
        found.append((ids, torch.cat([likeliest, _others(log_p, ids)], 1)))
    return Taught(torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found]))


def _others(log_p: Tensor, ids: Tensor) -> Tensor:
    """Log of the probability of all tokens but ``ids``, [R, 1]; not as 1 - sum, all rounding."""
    return log_p.scatter(1, ids, float("-inf")).logsumexp(-1, keepdim=True)


def divergence(log_p: Tensor, taught: Taught) -> Tensor:
    """D of each place [R] from log-probabilities [R, V] at the temperature; differentiable."""
    known, left = taught.log_probs[:, :-1], taught.log_probs[:, -1:]
    of_kept = (known.exp() * (known - log_p.gather(1, taught.ids))).sum(-1)
    return of_kept + (left.exp() * (left - _others(log_p, taught.ids)))[:, 0]


def _work_off(logits: Tensor, wanted: Tensor, taught: Taught, shape: Shape, *, gradient: bool) -> Tensor:
    """The loss of rows [R, V], a few of them in fp32 at a time; with ``gradient`` it takes the place of the logits."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    weight, temperature = shape
    rows = max(1, AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), rows):
        part, target = logits[start : start + rows], wanted[start : start + rows]
        here = Taught(taught.ids[start : start + rows], taught.log_probs[start : start + rows])
        log_p = torch.log_softmax(part.float(), -1)
        tempered = log_p if temperature == 1 else torch.log_softmax(part.float() / temperature, -1)
        total -= (1 - weight) * log_p.gather(1, target).sum()
        total += weight * temperature**2 * divergence(tempered, here).sum()
        if gradient:
            known, left = here.log_probs[:, :-1], here.log_probs[:, -1:]
            aim = (tempered + (left - _others(tempered, here.ids))).exp_().scatter_(1, here.ids, known.exp())
            slope = (tempered.exp() - aim).mul_(weight * temperature)
            slope.add_(log_p.exp_(), alpha=1 - weight)  # log_p is not read again
            slope.scatter_add_(1, target, torch.full_like(target, weight - 1, dtype=slope.dtype))
            part.copy_(slope)
            del aim, slope
        del log_p, tempered  # or the next rows would be made while these are still held
    return total


def distillation_loss(hidden: Tensor, head: Tensor, labels: Tensor, taught: Taught, shape: Shape) -> Tensor:
    """Sum of the losses of a flat row.

    Args:
        hidden: [1, N, E], output of the decoder.
        head: [V, E], frozen weight of the output layer.
        labels: [1, N]; -100 = no loss, as the first label of each document.
        taught: the teacher at the places with a label, in their order.
        shape: weight and temperature.
    """
    states, targets = supervised_rows(hidden, labels)

    def measure(gradient: bool) -> Measure:
        def add(logits: Tensor, start: int, end: int, total: Tensor) -> None:
            part = Taught(taught.ids[start:end], taught.log_probs[start:end])
            total += _work_off(
                logits[: end - start], targets[start:end, None], part, shape, gradient=gradient
            )

        return add

    total: Tensor = FrozenHeadLoss.apply(states, head, measure)  # type: ignore[no-untyped-call]
    return total
