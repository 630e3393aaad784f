#!/usr/bin/env python
"""Where the time of one training step goes: products, attention, the rest; and how much faster a step could be at all.

    python scripts/bench_step.py CORPORA             works A and B of bench_train.py
    python scripts/bench_step.py CORPORA --works B

The step is a real one of sovtune's engine under torch's profiler, which makes it a few percent slower. Every tool does
the same products with the frozen weights; what is left is all that better code can save. The last line of a work says
what the speed would be with everything but the products for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from bench_peers import HOME
from bench_train import THREADS, demonstration_base, sovtune_command, work_a, work_text, worker

STEP = 6
"""The first ones are slower: kernels are compiled for shapes that they meet for the first time."""
GROUPS = {
    "products with the base": ("aten::mm",),
    "products of updates": ("aten::addmm_",),
    "products in the attention": ("aten::bmm",),
    "dequantisation": ("bitsandbytes::dequantize_4bit",),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data", "aten::_log_softmax"),
    "copies and casts": ("aten::copy_",),
}
PRODUCTS = 3
"""So many of the groups are products."""


def profiled(job: dict[str, Any]) -> list[Any]:
    """Operators of step ``STEP``, with their own time each."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU])

    def watch(step: int) -> None:
        if step == STEP - 1:
            profiler.start()
        elif step == STEP:
            profiler.stop()

    worker(job, watch)
    return list(profiler.key_averages())


def show(name: str, operators: list[Any]) -> None:
    """Milliseconds and shares by group."""
    spent: Counter[str] = Counter()
    group_of = {operator: group for group, operators in GROUPS.items() for operator in operators}
    for event in operators:
        spent[group_of.get(event.key, "everything else")] += event.self_cpu_time_total / 1e3
    total = sum(spent.values())
    print(f"work {name}, step {STEP}: {total:,.0f} ms")
    for group in (*GROUPS, "everything else"):
        print(f"  {group:28} {spent[group]:8.0f} ms {spent[group] / total:7.1%}")
    least = sum(spent[group] for group in list(GROUPS)[:PRODUCTS])
    print(f"  with nothing but products {total / least:.2f} times as fast")


def main() -> None:
    """Run the works."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--works", default="AB", help="which of A and B")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = THREADS  # before torch is imported
    base = demonstration_base()
    for name in given.works:
        place = HOME / "work" / f"step-{name}"
        if name == "A":
            work = work_a(given.corpora, base, place)
        else:
            work = work_text("B", given.corpora, base, place, size=200_000, length=1024)
        del work.rows[STEP * work.batch :]
        show(name, profiled(json.loads(sovtune_command(work, base)[-1])))


if __name__ == "__main__":
    main()
