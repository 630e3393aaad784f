"""Feed-forward block and norm that keep less for the backward pass; they take the place of a base's own modules.

Per token a llama layer keeps four rows of the feed-forward width (gate, silu(gate), up, their product) and two fp32
rows of the model's: here it is gate and up, and the input of each norm as it is. The rest is made again from those,
which costs less than writing and reading it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from sovtune.fastpath.linear import Frozen, adapter_gradients, add_input_gradient, product
from sovtune.fastpath.peft_layers import part_of


class GatedProduct(torch.autograd.Function):
    """y = (silu(x Wg^T) * (x Wu^T)) Wd^T, the three products with LoRA updates or without."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: tuple[Frozen, Frozen, Frozen], *adapters: Tensor | None
    ) -> Tensor:
        """X [..., E] -> [..., E]; ``adapters`` are A and B of gate, of up and of down."""
        gate_a, gate_b, up_a, up_b, down_a, down_b = adapters
        rows = x.reshape(-1, x.shape[-1])
        gate, gate_inner = product(rows, gate_a, gate_b, frozen[0])
        up, up_inner = product(rows, up_a, up_b, frozen[1])
        y, down_inner = product(F.silu(gate).mul_(up), down_a, down_b, frozen[2])
        wanted = rows if gate_a is not None or up_a is not None else None
        ctx.save_for_backward(wanted, gate, up, gate_inner, up_inner, down_inner, *adapters)
        ctx.frozen, ctx.shape = frozen, x.shape
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With h = silu(gate) * up and dh its gradient: dup = dh silu(gate), dgate = dh up silu'(gate).

        The rest is in ``linear.adapter_gradients`` and ``add_input_gradient``; dx is the sum over gate and up.
        """
        rows, gate, up, gate_inner, up_inner, down_inner, *adapters = ctx.saved_tensors
        gate_a, gate_b, up_a, up_b, down_a, down_b = adapters
        of_gate, of_up, of_down = ctx.frozen
        g = grad.reshape(-1, grad.shape[-1])
        active = F.silu(gate)
        through, *down = adapter_gradients(g, active * up, down_inner, down_a, down_b, of_down.scale)
        dh = add_input_gradient(None, g, through, down_a, of_down)
        d_up = active.mul_(dh)
        d_gate = torch.ops.aten.silu_backward(dh.mul_(up), gate)
        from_gate, *gates = adapter_gradients(d_gate, rows, gate_inner, gate_a, gate_b, of_gate.scale)
        from_up, *ups = adapter_gradients(d_up, rows, up_inner, up_a, up_b, of_up.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = add_input_gradient(None, d_gate, from_gate, gate_a, of_gate)
            dx = add_input_gradient(dx, d_up, from_up, up_a, of_up).view(ctx.shape)
        return dx, None, *gates, *ups, *down


class GatedFeedForward(nn.Module):
    """``down_proj(silu(gate_proj(x)) * up_proj(x))`` of the base's own layers, under their own names."""

    def __init__(self, block: Any):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = block.gate_proj, block.up_proj, block.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """X [..., E] -> [..., E]; layer by layer where one of the three does something else (DoRA, dropout)."""
        found = [part_of(layer, x) for layer in (self.gate_proj, self.up_proj, self.down_proj)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
            return out
        frozen = tuple(part.frozen for part in parts)
        adapters = [matrix for part in parts for matrix in (part.a, part.b)]
        fused: Tensor = GatedProduct.apply(x, frozen, *adapters)  # type: ignore[no-untyped-call]
        return fused


class FrozenNorm(torch.autograd.Function):
    """y = w * (x / sqrt(mean(x^2) + eps)), w frozen; computed in fp32 and rounded before w, as transformers does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """X [..., E] -> [..., E]."""
        exact = x.float()
        inverse = exact.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return weight * (exact * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """With n = x i, i the inverse root and g' = g w: dx = i (g' - n mean(g' n))."""
        x, inverse, weight = ctx.saved_tensors
        normal = x.float() * inverse
        g = (grad * weight).float()
        along = (g * normal).mean(-1, keepdim=True)
        return g.sub_(normal.mul_(along)).mul_(inverse).to(x.dtype), None, None


class LeanNorm(nn.Module):
    """A base's RMS norm with a frozen weight."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """X [..., E] -> [..., E]."""
        out: Tensor = FrozenNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return out


def replace_blocks(model: nn.Module) -> None:
    """Put the lean modules in the place of a base's own, which they equal (tests/tiny/test_fastpath.py)."""
    for name, module in list(model.named_modules()):
        if _is_gated(module):
            model.set_submodule(name, GatedFeedForward(module))
        elif _is_norm(module):
            model.set_submodule(name, LeanNorm(module))


_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_SILU = ("SiLUActivation", "SiLU")
"""transformers' class and torch's."""


def _is_gated(module: nn.Module) -> bool:
    """A feed-forward block of llama's kind: transformers names the parts alike in all of them."""
    parts = dict(module.named_children())
    return parts.keys() == _GATED and type(parts["act_fn"]).__name__ in _SILU


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")
        and isinstance(weight, nn.Parameter)
        and not weight.requires_grad
    )
