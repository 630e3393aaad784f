"""Strategies that share a model among processes: FSDP2 for a frozen base, and what DeepSpeed's ZeRO-3 needs of us."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sovtune.errors import UsageError
from sovtune.train.group import Group

_DEEPSPEED_WANTED = "ACCELERATE_USE_DEEPSPEED"
"""accelerate's own switch."""


def shard_base(model: Any, group: Group, device: str) -> None:
    """Leave a part of every layer of the base in this process; a layer is whole while it computes.

    The adapter stays as it is: it and its optimizer are a hundredth of the base, and so gradients, checkpoints and the
    saved adapter are the same as without sharding. Transformers wraps the model in DistributedDataParallel, which is
    told to leave the base alone.

    Args:
        model: a PEFT model whose base is loaded whole.
        group: the processes.
        device: ``cpu`` or ``cuda``.
    """
    mesh = init_device_mesh(device, (group.world,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    causal = model.get_base_model()
    for layer in causal.get_decoder().layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(causal, mesh=mesh, ignored_params=trained)
    model._ddp_params_and_buffers_to_ignore = [
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    ]


def whole_weights(model: Any, strategy: str, *, changed: bool = False) -> AbstractContextManager[object]:
    """Within the block what is trained is whole in every process, to be saved; only ZeRO-3 holds it in parts.

    With ``changed`` the first process may change it there, and the others get its values.
    """
    if strategy != "zero3":
        return nullcontext()
    from deepspeed import zero  # a name in the package, no module of it

    gathered: AbstractContextManager[object] = zero.GatheredParameters(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        modifier_rank=0 if changed else None,
    )
    return gathered


def begin_deepspeed(device: str) -> None:
    """Make ready for ZeRO-3 on a CPU, where accelerate has to learn that DeepSpeed is wanted.

    accelerate looks for DeepSpeed where it finds a GPU; on a CPU the state of the group has to be there before the
    trainer asks for it (``use_configured_state`` in its settings).

    Raises:
        UsageError: the run is on the CPU of a machine with a GPU, which DeepSpeed would take.
    """
    if device != "cpu":
        return
    if torch.cuda.is_available():
        raise UsageError(
            "zero3 computes on the GPU of a machine that has one",
            where="train.run.device",
            fix="write `device: auto`, or `strategy: fsdp2`, which goes by the device",
        )
    os.environ[_DEEPSPEED_WANTED] = "true"
    try:
        PartialState(backend="gloo")
    finally:
        del os.environ[_DEEPSPEED_WANTED]
