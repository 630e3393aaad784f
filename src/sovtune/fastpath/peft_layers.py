"""PEFT adapter layers that compute base and update in one function; anything unusual goes PEFT's own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes.functional as bnb_functional
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from peft.tuners.lora.bnb import Linear8bitLt as PeftLinear8bit
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor

from sovtune.fastpath.linear import lora_linear
from sovtune.fastpath.principal import PrincipalStart


def frozen_weight(base_layer: Any) -> Tensor:
    """The weight [out, in] of a base layer, restored from 4 or 8 bits where it is stored so.

    int8 keeps 127ths of each row's largest weight.
    """
    stored: Tensor = base_layer.weight
    if isinstance(base_layer, Linear4bit):
        restored: Tensor = bnb_functional.dequantize_4bit(stored.data, base_layer.weight.quant_state)
        return restored
    if isinstance(base_layer, Linear8bitLt):
        scales: Tensor = base_layer.weight.SCB if base_layer.state.SCB is None else base_layer.state.SCB
        return stored.data * (scales / 127)[:, None]
    return stored


SMALL_LAYER = 1 << 22
"""Weights up to which a 4-bit layer keeps its scales restored (1/16 byte a weight): below it, restoring the 8-bit
scales of double quantisation takes more than half as long as restoring the weights."""


def _scales(state: Any) -> Tensor:
    """The fp32 scales of a 4-bit weight, one a block."""
    stored: Tensor = state.absmax
    if state.nested:
        stored = bnb_functional.dequantize_blockwise(stored, state.state2) + state.offset
    return stored.float()


def _applies(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """One active, unmerged adapter without dropout, of a kind that ``_fused`` knows."""
    active = layer.active_adapters
    return bool(
        not args
        and not kwargs
        and not layer.merged
        and len(active) == 1
        and isinstance(layer.lora_variant.get(active[0]), PrincipalStart | DoraLinearVariant | None)
        and isinstance(layer.lora_dropout[active[0]], torch.nn.Identity)
    )


def _fused(layer: Any, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
    bias = layer.base_layer.bias
    if bias is not None and bias.dtype != x.dtype:  # bitsandbytes casts it too
        bias = bias.to(x.dtype)
    if layer.disable_adapters:
        return torch.nn.functional.linear(x, weight(), bias)
    (name,) = layer.active_adapters
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    variant = layer.lora_variant.get(name)
    if isinstance(variant, PrincipalStart):
        return lora_linear(x, *variant.joined(a, b), weight, bias, scale)
    if isinstance(variant, DoraLinearVariant):
        magnitude = layer.lora_magnitude_vector[name].weight
        return _dora(x, (a, b, magnitude), weight, bias, scale)
    return lora_linear(x, a, b, weight, bias, scale)


def _dora(
    x: Tensor,
    trained: tuple[Tensor, Tensor, Tensor],
    weight: Callable[[], Tensor],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """DoRA (arXiv 2402.09353) of A, B, m: rows of V = W + s B A get the lengths m, y = m / |V| (x V^T) + b.

    As in section 4.3 of the paper |V| counts as a constant, so no gradient goes through it. The quotient is near 1,
    where bf16 is too coarse for the steps of m: only its distance from 1 is rounded.
    """
    a, b, magnitude = trained
    with torch.no_grad():
        length: Tensor = torch.linalg.vector_norm(weight().float() + scale * (b @ a).float(), dim=1)
    y = lora_linear(x, a, b, weight, None, scale)
    y = torch.addcmul(y, y, (magnitude / length - 1).to(y.dtype))
    return y if bias is None else y + bias


class FastLinear4bit(PeftLinear4bit):  # type: ignore[misc]
    """LoRA on a 4-bit linear layer, in training and evaluation alike.

    bitsandbytes would repack the weights for its own CPU kernel at the first evaluation; their raw bytes then mean
    something else, and training could not go on. Here they stay as they are.
    """

    _kept_scales: Tensor | None = None

    def _weight(self) -> Tensor:
        state = self.base_layer.weight.quant_state
        scales = self._kept_scales
        if scales is None:
            scales = _scales(state)
            if state.shape.numel() <= SMALL_LAYER:
                self._kept_scales = scales
        restored: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.base_layer.weight.data, scales, state.blocksize, state.quant_type, state.shape, state.dtype
        )
        return restored

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        repacked = getattr(self.base_layer.weight.quant_state, "packing_format_for_cpu", False)
        if repacked or not _applies(self, args, kwargs):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, self._weight)


class FastLinear8bit(PeftLinear8bit):  # type: ignore[misc]
    """LoRA on an int8 linear layer, products in the dtype of x.

    LLM.int8 rounds x to 8 bits as well, by rules that look at all rows of a batch; here a row's result depends on
    that row alone, whatever it is packed with.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        if not _applies(self, args, kwargs):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, lambda: frozen_weight(self.base_layer).to(x.dtype))


class FastLinear(PeftLinear):  # type: ignore[misc]
    """LoRA on an unquantised linear layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        if x.dtype != self.base_layer.weight.dtype or not _applies(self, args, kwargs):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, lambda: self.base_layer.weight)
