#!/usr/bin/env python
"""Memory that a process keeps for every new number of rows of a bf16 product on a CPU.

    python scripts/bench_shapes.py                                          oneDNN's own cache
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=16 python scripts/bench_shapes.py       almost none

Products of [N, 576] with [576, outputs] for a thousand N that differ by one, and for as many that fastpath.shapes
rounds up; each layer shape in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SHAPES = (16, 576, 1536)
FIRST, NUMBERS = 200, 1000


def resident() -> float:
    """Memory of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:"))


def measure(outputs: int, *, rounding: bool) -> None:
    """Print what the process has grown by."""
    import torch

    from sovtune.fastpath.shapes import rounded

    x = torch.randn(rounded(FIRST + NUMBERS), 576).bfloat16()
    weight = torch.randn(outputs, 576).bfloat16()
    counts = [rounded(n) if rounding else n for n in range(FIRST, FIRST + NUMBERS)]
    torch.nn.functional.linear(x, weight)
    before = resident()
    for count in counts:
        torch.nn.functional.linear(x[:count], weight)
    kind = "rounded up" if rounding else "as they come"
    print(
        f"{outputs:5} outputs, {len(set(counts)):4} numbers of rows {kind:12}: +{resident() - before:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Every shape both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outputs", type=int, help="only this layer shape, in this process")
    parser.add_argument("--rounded", action="store_true", help="with --outputs: numbers of rows rounded up")
    given = parser.parse_args()
    if given.outputs:
        return measure(given.outputs, rounding=given.rounded)
    for outputs in SHAPES:
        for how in ([], ["--rounded"]):
            subprocess.run([sys.executable, __file__, "--outputs", str(outputs), *how], check=True)
    return None


if __name__ == "__main__":
    main()
