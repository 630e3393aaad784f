"""Weights to 4 bits on the CPU, five to ten times faster than bitsandbytes does it, and equal to it bit for bit.

bitsandbytes 0.50 has no CPU kernel for ``quantize_4bit``: it falls back to ``torch.bucketize``, a binary search for
each weight (50 ns; a minute of one core for 1.5 billion weights). A weight's code is the number of midpoints between
neighbouring levels that lie below it: fifteen comparisons of a block that stays in the second-level cache, which the
processor does 16 at a time. Here that is registered as the operator's CPU kernel with ``torch.library``, the way
bitsandbytes adds devices.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from bitsandbytes.functional import get_4bit_type
from bitsandbytes.nn import Linear4bit

OPERATOR = "bitsandbytes::quantize_4bit"
AT_ONCE = 1 << 15
"""Weights per round: 128 kB in fp32, a part of the second-level cache of one core."""
SMALLEST = 1e-38
"""What bitsandbytes divides by instead of the largest value of a block of zeros."""

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@cache
def use_quick_quantiser() -> None:
    """Let bitsandbytes quantise with this module's kernel wherever weights are on the CPU."""
    torch.library.register_kernel(OPERATOR, "cpu", quantise)


def keep_as_stored(model: torch.nn.Module) -> None:
    """Do not let bitsandbytes repack 4-bit weights at the first evaluation, for its kernel for single tokens.

    That takes half a byte of memory more for each weight, and rows of many tokens are read faster with restored ones.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.train()  # all that this mode does in such a layer


@cache
def _levels(kind: str) -> tuple[Floats, Bytes]:
    """Midpoints between neighbouring levels, and the code of each level in ascending order."""
    levels = get_4bit_type(kind, device="cpu").numpy()
    order = np.argsort(levels, kind="stable")
    ascending = levels[order]
    return (ascending[:-1] + ascending[1:]) / np.float32(2), order.astype(np.uint8)


class _Scratch:
    """Room for one round, used again and again."""

    def __init__(self) -> None:
        self.codes = np.empty(AT_ONCE, np.uint8)
        self.above = np.empty(AT_ONCE, np.bool_)


def quantise(
    weights: torch.Tensor, blocksize: int, kind: str, storage: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two weights a byte, the first in the high half.

    Args:
        weights: any shape, a floating dtype.
        blocksize: weights that share a scale, a power of two up to 4096.
        kind: ``nf4`` or ``fp4``.
        storage: dtype in which the bytes are handed over.

    Returns:
        The bytes as a column, and the largest absolute value of each block (fp32).
    """
    flat = weights.detach().reshape(-1)
    count = flat.numel()
    codes = np.empty(count + count % 2, np.uint8)
    largest = np.empty(-(-count // blocksize), np.float32)
    midpoints, order = _levels(kind)
    scratch = _Scratch()
    whole = count - count % blocksize
    for start in range(0, whole, AT_ONCE):
        part = flat[start : min(start + AT_ONCE, whole)].to(torch.float32, copy=True)
        blocks = part.view(-1, blocksize)
        scales = blocks.abs().amax(1)  # numpy takes four times as long along rows so short
        largest[start // blocksize :][: len(blocks)] = scales.numpy()
        blocks *= scales.clamp_(min=SMALLEST).reciprocal_()[:, None]
        codes[start : start + part.numel()] = _codes(part.numpy(), midpoints, scratch)
    if whole < count:  # bitsandbytes divides here, where it multiplies by the reciprocal above
        rest = flat[whole:].to(torch.float32, copy=True).numpy()
        largest[-1] = max(np.abs(rest).max(), np.float32(SMALLEST))
        codes[whole:count] = _codes(rest / largest[-1], midpoints, scratch)
    if count % 2:
        codes[-1] = np.searchsorted(midpoints, np.float32(0))
    packed = torch.from_numpy(_packed(codes, None if kind == "nf4" else order)).unsqueeze(1)
    if storage != torch.uint8:
        packed = packed.squeeze().view(storage).unsqueeze(1)
    return packed, torch.from_numpy(largest)


def _codes(scaled: Floats, midpoints: Floats, scratch: _Scratch) -> Bytes:
    """Index of the level nearest to each value of [-1, 1]; half-way goes to the lower one."""
    np.clip(scaled, -1, 1, out=scaled)
    codes, above = scratch.codes[: scaled.size], scratch.above[: scaled.size]
    codes.fill(0)
    for midpoint in midpoints:
        np.greater(scaled, midpoint, out=above)
        np.add(codes, above.view(np.uint8), out=codes)
    return codes


def _packed(codes: Bytes, order: Bytes | None) -> Bytes:
    if order is not None:
        codes = np.take(order, codes)
    pairs = codes.view("<u2")  # the first code is the low byte
    packed: Bytes = (pairs << np.uint16(4) | pairs >> np.uint16(8)).astype(np.uint8)
    return packed
