"""Strategies that share a model among processes: FSDP2 for a frozen base; what DeepSpeed's ZeRO-3 needs to save."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sovtune.train.group import Group


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


def whole_weights(model: Any, strategy: str) -> AbstractContextManager[object]:
    """Within the block what is trained is whole in every process, to be saved; only ZeRO-3 holds it in parts."""
    if strategy != "zero3":
        return nullcontext()
    from deepspeed import zero  # a name in the package, no module of it

    gathered: AbstractContextManager[object] = zero.GatheredParameters(
        [parameter for parameter in model.parameters() if parameter.requires_grad]
    )
    return gathered
