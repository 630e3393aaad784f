"""Parameter groups of LoRA+: the matrices B learn faster than everything else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor


def lora_plus_groups(
    named: Iterable[tuple[str, Tensor]], decayed: Collection[str], *, rate: float, ratio: float, decay: float
) -> list[dict[str, Any]]:
    """Groups for the optimizer: A and the rest at ``rate``, B at ``ratio`` times that (LoRA+, arXiv 2402.12354).

    The first group is at ``rate``, which is what the log shows. The schedule scales every group alike.

    Args:
        named: parameters by name; frozen ones are left out.
        decayed: names of parameters with weight decay.
        rate: peak learning rate.
        ratio: how many times faster B learns.
        decay: weight decay.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault(("lora_B" in name, name not in decayed), []).append(parameter)
    return [
        {
            "params": groups[faster, free],
            "lr": rate * ratio if faster else rate,
            "weight_decay": 0.0 if free else decay,
        }
        for faster, free in sorted(groups)
    ]
