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

from sovtune.fastpath.linear import Frozen, Part, lora_linear
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


def _applies(layer: Any) -> bool:
    """One active, unmerged adapter without dropout, of a kind that is known here."""
    active = layer.active_adapters
    return bool(
        not layer.merged
        and len(active) == 1
        and isinstance(layer.lora_variant.get(active[0]), PrincipalStart | DoraLinearVariant | None)
        and isinstance(layer.lora_dropout[active[0]], torch.nn.Identity)
    )


def _bias(base_layer: Any, x: Tensor) -> Tensor | None:
    bias: Tensor | None = base_layer.bias
    return bias if bias is None else bias.to(x.dtype)  # bitsandbytes casts it too


def _part(layer: Any, x: Tensor, weight: Callable[[], Tensor]) -> Part:
    (name,) = layer.active_adapters
    return Part(*_matrices(layer), Frozen(weight, _bias(layer.base_layer, x), layer.scaling[name]))


def _matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """A and B of the active adapter."""
    (name,) = layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    variant = layer.lora_variant.get(name)
    return variant.joined(a, b) if isinstance(variant, PrincipalStart) else (a, b)


def part_of(layer: Any, x: Tensor) -> Part | None:
    """A linear layer, with an adapter or without, as a product; None where it does something else with this input."""
    if not isinstance(layer, FastLinear4bit | FastLinear8bit | FastLinear):
        return _bare(layer, x)
    weight = layer.weight_for(x)
    if weight is None or layer.disable_adapters or not _applies(layer):
        return None
    if isinstance(layer.lora_variant.get(layer.active_adapters[0]), DoraLinearVariant):
        return None
    return _part(layer, x, weight)


def _bare(layer: Any, x: Tensor) -> Part | None:
    """A frozen layer without an adapter."""
    if type(layer) not in (Linear4bit, Linear8bitLt, torch.nn.Linear) or layer.weight.requires_grad:
        return None
    if _repacked(layer) or (type(layer) is torch.nn.Linear and layer.weight.dtype != x.dtype):
        return None
    return Part(None, None, Frozen(lambda: frozen_weight(layer).to(x.dtype), _bias(layer, x), 0.0))


def _repacked(base_layer: Any) -> bool:
    """Whether bitsandbytes has brought the weights into the order of its own CPU kernel."""
    return bool(getattr(getattr(base_layer.weight, "quant_state", None), "packing_format_for_cpu", False))


def _fused(layer: Any, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
    if layer.disable_adapters:
        return torch.nn.functional.linear(x, weight(), _bias(layer.base_layer, x))
    (name,) = layer.active_adapters
    if isinstance(layer.lora_variant.get(name), DoraLinearVariant):
        return _dora(layer, x, weight)
    return lora_linear(x, _part(layer, x, weight))


def _dora(layer: Any, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
    """DoRA (arXiv 2402.09353) of A, B, m: rows of V = W + s B A get the lengths m, y = m / |V| (x V^T) + b.

    As in section 4.3 of the paper |V| counts as a constant, so no gradient goes through it. The quotient is near 1,
    where bf16 is too coarse for the steps of m: only its distance from 1 is rounded.
    """
    (name,) = layer.active_adapters
    a, b = _matrices(layer)
    scale, bias = layer.scaling[name], _bias(layer.base_layer, x)
    magnitude: Tensor = layer.lora_magnitude_vector[name].weight
    with torch.no_grad():
        length: Tensor = torch.linalg.vector_norm(weight().float() + scale * (b @ a).float(), dim=1)
    y = lora_linear(x, Part(a, b, Frozen(weight, None, scale)))
    y = torch.addcmul(y, y, (magnitude / length - 1).to(y.dtype))
    return y if bias is None else y + bias


class FastLinear4bit(PeftLinear4bit):  # type: ignore[misc]
    """LoRA on a 4-bit linear layer, in training and evaluation alike.

    bitsandbytes would repack the weights for its own CPU kernel at the first evaluation; their raw bytes then mean
    something else, and training could not go on. Here they stay as they are.
    """

    _kept_scales: Tensor | None = None

    def weight_for(self, x: Tensor) -> Callable[[], Tensor] | None:
        """A function that restores the weight; None where it is repacked."""
        return None if _repacked(self.base_layer) else self._weight

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
        weight = self.weight_for(x)
        if weight is None or args or kwargs or not _applies(self):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, weight)


class FastLinear8bit(PeftLinear8bit):  # type: ignore[misc]
    """LoRA on an int8 linear layer, products in the dtype of x.

    LLM.int8 rounds x to 8 bits as well, by rules that look at all rows of a batch; here a row's result depends on
    that row alone, whatever it is packed with.
    """

    def weight_for(self, x: Tensor) -> Callable[[], Tensor]:
        """A function that restores the weight."""
        return lambda: frozen_weight(self.base_layer).to(x.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        if args or kwargs or not _applies(self):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, self.weight_for(x))


class FastLinear(PeftLinear):  # type: ignore[misc]
    """LoRA on an unquantised linear layer."""

    def weight_for(self, x: Tensor) -> Callable[[], Tensor] | None:
        """A function that returns the weight; None where it has another dtype."""
        return (lambda: self.base_layer.weight) if x.dtype == self.base_layer.weight.dtype else None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        weight = self.weight_for(x)
        if weight is None or args or kwargs or not _applies(self):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, weight)
