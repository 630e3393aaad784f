"""PiSSA on a base that stays as it is: W + s (B A - B0 A0), with A0 and B0 the start of A and B.

PiSSA (arXiv 2404.02948) starts A and B at the principal singular vectors of W and trains W - s B0 A0 + s B A with the
first two terms frozen. Writing the difference into the adapter instead of the weight changes no value and no gradient,
and leaves three things whole that the usual way breaks: the adapter switched off is the base, the adapter at step 0
is the base, and [A; A0], [B, -B0] is a LoRA of twice the rank for the base as it was published, also in 4 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor

EXACT_SVD = 1024
"""Up to this smaller side of a weight all singular values are computed; above, the largest by random projection."""
OVERSAMPLING, POWER_STEPS = 8, 16
"""Of that projection (Halko et al., arXiv 0909.4061); PiSSA's authors take 16 power steps too."""


class PrincipalStart(LoraVariant):  # type: ignore[misc]
    """A variant of a PEFT LoRA layer that subtracts its own start.

    Args:
        a: A at the start [r, in].
        b: B at the start [out, r].
    """

    def __init__(self, a: Tensor, b: Tensor):
        self.a, self.b = a.detach().clone(), b.detach().clone()

    def joined(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """A [2r, in] and B [out, 2r] of the plain LoRA with the same effect; the start gets no gradient."""
        return torch.cat([a, self.a]), torch.cat([b, -self.b], 1)

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """X [..., in], output of the base [..., out] -> [..., out], as PEFT's own forward asks for it."""
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        moved: Tensor = b(a(module.lora_dropout[active_adapter](x)))
        start = torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)
        scale: float = module.scaling[active_adapter]
        return result + (moved - start) * scale


@torch.no_grad()
def principal_vectors(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] in fp32 with s B A = U S V^T of the ``rank`` largest singular values of W [out, in].

    The singular values are shared evenly: A = sqrt(S / s) V^T, B = U sqrt(S / s).
    """
    weight = weight.float()
    if min(weight.shape) <= EXACT_SVD:
        u, values, vt = torch.linalg.svd(weight, full_matrices=False)
    else:
        size = min(rank + OVERSAMPLING, *weight.shape)
        u, values, v = torch.svd_lowrank(weight, q=size, niter=POWER_STEPS)
        vt = v.t()
    root = torch.sqrt(values[:rank] / scale)
    return (root[:, None] * vt[:rank]).contiguous(), (u[:, :rank] * root).contiguous()
