"""A frozen linear layer and its LoRA update as one autograd function: y = x W^T + b + s (x A^T) B^T.

The adapter stays fp32 (AdamW in bf16 loses small updates), the products run in the dtype of x. What PEFT keeps for
the backward pass of the same layer (casts, copies of x, the dequantised weight) is not kept here: 1.25x on the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)


class LoraLinear(torch.autograd.Function):
    """Frozen weight W [out, in] given as a function that returns it, adapter A [r, in], B [out, r], scale s."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Any, bias: Tensor | None, scale: float
    ) -> Tensor:
        """X [..., in] -> [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(rows, weight(), bias)
        inner = rows @ a.to(x.dtype).t()
        y.addmm_(inner, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(rows, inner, a, b)
        ctx.weight, ctx.scale, ctx.shape = weight, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        """DB = s g^T (x A^T); dA = (s g B)^T x; dx = g W + (s g B) A. W is dequantised again instead of kept."""
        rows, inner, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        through = (g @ b.to(g.dtype)).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g @ ctx.weight()).addmm_(through, a.to(g.dtype)).view(ctx.shape)
        da = (through.t() @ rows).to(a.dtype)
        db = (g.t() @ inner).mul_(ctx.scale).to(b.dtype)
        return dx, da, db, None, None, None


def lora_linear(x: Tensor, a: Tensor, b: Tensor, weight: Any, bias: Tensor | None, scale: float) -> Tensor:
    """Call ``LoraLinear``; ``weight`` is a function without arguments that returns W in the dtype of x."""
    out: Tensor = LoraLinear.apply(x, a, b, weight, bias, scale)  # type: ignore[no-untyped-call]
    return out
