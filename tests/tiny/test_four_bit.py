"""Our way of quantising to 4 bits gives bitsandbytes' bytes, and bitsandbytes uses it once told to."""

import json
import subprocess
import sys

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

from sovtune.fastpath.four_bit import AT_ONCE, quantise, use_quick_quantiser

BESIDE_BITSANDBYTES = """
import json
import bitsandbytes, torch
from sovtune.fastpath import four_bit

torch.manual_seed(0)
shapes = ((64, 64), (7, 3), (5, 129), (300, 700), (1, 64), (129,))
different, quick = [], four_bit.quantise
calls = 0

def counted(*arguments):
    global calls
    calls += 1
    return quick(*arguments)

four_bit.quantise = counted
cases = [
    (shape, dtype, kind, blocksize, storage)
    for shape in shapes
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for kind in ("nf4", "fp4")
    for blocksize in (32, 64, 256)
    for storage in (torch.uint8,)
] + [((64, 64), torch.bfloat16, "nf4", 64, torch.bfloat16)]
tensors = []
for shape, dtype, *_ in cases:
    weights = torch.randn(shape).to(dtype)
    weights.view(-1)[3:9] = 0
    if len(shape) > 1 and shape[1] == 64:
        weights[0] = 0  # a whole block of zeros
    tensors.append(weights)
operator = torch.ops.bitsandbytes.quantize_4bit
plain = [operator(one, blocksize, kind, storage) for one, (_, _, kind, blocksize, storage) in zip(tensors, cases)]
four_bit.use_quick_quantiser()
for one, case, (codes, largest) in zip(tensors, cases, plain):
    _, _, kind, blocksize, storage = case
    ours, ours_largest = operator(one, blocksize, kind, storage)
    if not torch.equal(ours.view(torch.uint8), codes.view(torch.uint8)) or not torch.equal(ours_largest, largest):
        different.append(str(case))
print(json.dumps({"cases": len(cases), "calls": calls, "different": different}))
"""


def test_bytes_and_scales_are_those_of_bitsandbytes() -> None:
    """In a process of its own: once told, bitsandbytes does not go back."""
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_BITSANDBYTES], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["different"] == []
    assert found["calls"] == found["cases"] == 109


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_every_weight_gets_the_nearest_level(kind: str) -> None:
    """Against distances in fp64, over more than one round."""
    torch.manual_seed(1)
    weights = torch.randn(AT_ONCE // 64 + 5, 64)
    packed, largest = quantise(weights, 64, kind, torch.uint8)
    levels = get_4bit_type(kind, device="cpu").double()
    codes = torch.stack((packed[:, 0] >> 4, packed[:, 0] & 15), dim=1).reshape(weights.shape).long()
    scaled = weights.double() / largest.double()[:, None]
    distances = (scaled[..., None] - levels).abs()
    chosen = distances.gather(-1, codes[..., None])[..., 0]
    assert (chosen - distances.amin(-1)).max() < 1e-6
    assert torch.equal(largest, weights.abs().amax(1))


def test_the_kernel_is_used_by_the_public_function() -> None:
    use_quick_quantiser()
    use_quick_quantiser()  # twice is no error
    torch.manual_seed(2)
    weights = torch.randn(128, 128, dtype=torch.bfloat16)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    assert torch.equal(packed, quantise(weights, 64, "nf4", torch.uint8)[0])
    assert (dequantize_4bit(packed, state) - weights).abs().mean() < 0.1
