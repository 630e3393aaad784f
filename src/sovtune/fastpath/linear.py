"""A frozen linear layer and its LoRA update as one autograd function: y = x W^T + b + s (x A^T) B^T.

The adapter stays fp32 (AdamW in bf16 loses small updates), the products run in the dtype of x. What PEFT keeps for
the backward pass of the same layer (casts, copies of x, the dequantised weight) is not kept here: 1.25x on the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)


class Frozen(NamedTuple):
    """What does not learn: a function that returns the weight [out, in] in the dtype of x, the bias, the scale s."""

    weight: Callable[[], Tensor]
    bias: Tensor | None
    scale: float


class Part(NamedTuple):
    """A linear layer with its update: adapter A [r, in], B [out, r]; both None where it has none."""

    a: Tensor | None
    b: Tensor | None
    frozen: Frozen


def product(rows: Tensor, a: Tensor | None, b: Tensor | None, frozen: Frozen) -> tuple[Tensor, Tensor | None]:
    """Rows [N, in] -> y [N, out] and x A^T [N, r], which the backward pass wants."""
    y = F.linear(rows, frozen.weight(), frozen.bias)
    if a is None or b is None:
        return y, None
    inner = rows @ a.to(rows.dtype).t()
    y.addmm_(inner, b.to(rows.dtype).t(), alpha=frozen.scale)
    return y, inner


def adapter_gradients(
    g: Tensor, rows: Tensor, inner: Tensor | None, a: Tensor | None, b: Tensor | None, scale: float
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """S g B [N, r], which dx needs too; dA = (s g B)^T x; dB = s g^T (x A^T)."""
    if inner is None or a is None or b is None:
        return None, None, None
    through = (g @ b.to(g.dtype)).mul_(scale)
    da = (through.t() @ rows).to(a.dtype)
    db = (g.t() @ inner).mul_(scale).to(b.dtype)
    return through, da, db


def add_input_gradient(
    dx: Tensor | None, g: Tensor, through: Tensor | None, a: Tensor | None, frozen: Frozen
) -> Tensor:
    """Dx + g W + (s g B) A. W is dequantised again instead of kept."""
    dx = g @ frozen.weight() if dx is None else dx.addmm_(g, frozen.weight())
    return dx if through is None or a is None else dx.addmm_(through, a.to(g.dtype))


class LoraLinear(torch.autograd.Function):
    """Product and gradients of one layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, frozen: Frozen) -> Tensor:
        """X [..., in] -> [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        y, inner = product(rows, a, b, frozen)
        ctx.save_for_backward(rows, inner, a, b)
        ctx.frozen, ctx.shape = frozen, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """As in ``adapter_gradients`` and ``add_input_gradient``."""
        rows, inner, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        through, da, db = adapter_gradients(g, rows, inner, a, b, ctx.frozen.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = add_input_gradient(None, g, through, a, ctx.frozen).view(ctx.shape)
        return dx, da, db, None


def lora_linear(x: Tensor, part: Part) -> Tensor:
    """Call ``LoraLinear``."""
    out: Tensor = LoraLinear.apply(x, *part)  # type: ignore[no-untyped-call]
    return out
