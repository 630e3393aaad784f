"""PEFT adapter layers that compute base and update in one function; anything unusual goes PEFT's own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes.functional as bnb_functional
import torch
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor

from sovtune.fastpath.linear import lora_linear


def _applies(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """One active, unmerged, plain LoRA adapter without dropout."""
    active = layer.active_adapters
    return bool(
        not args
        and not kwargs
        and not layer.merged
        and len(active) == 1
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[active[0]], torch.nn.Identity)
    )


def _fused(layer: Any, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
    if layer.disable_adapters:
        return torch.nn.functional.linear(x, weight(), layer.base_layer.bias)
    (name,) = layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return lora_linear(x, a, b, weight, layer.base_layer.bias, layer.scaling[name])


class FastLinear4bit(PeftLinear4bit):  # type: ignore[misc]
    """LoRA on a 4-bit linear layer, in training and evaluation alike.

    bitsandbytes would repack the weights for its own CPU kernel at the first evaluation; their raw bytes then mean
    something else, and training could not go on. Here they stay as they are.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        packed = self.base_layer.weight
        repacked = getattr(packed.quant_state, "packing_format_for_cpu", False)
        if repacked or not _applies(self, args, kwargs):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, lambda: bnb_functional.dequantize_4bit(packed.data, packed.quant_state))


class FastLinear(PeftLinear):  # type: ignore[misc]
    """LoRA on an unquantised linear layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """X [..., in] -> [..., out]."""
        if x.dtype != self.base_layer.weight.dtype or not _applies(self, args, kwargs):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        return _fused(self, x, lambda: self.base_layer.weight)
