"""Where an adapter starts: at zero, at the principal vectors (PiSSA), or at what 4 bits lost (LoftQ)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault, UsageError

ADAPTER = "default"
"""PEFT's name for the only adapter of a model."""


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Every LoRA layer with the name of the layer it wraps, as the base calls it."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module


def start_adapter(model: Any, init: str, folder: Path) -> None:
    """Give a fresh adapter its start (``adapter.init``), in place.

    Args:
        model: the PEFT model, B at zero.
        init: default, pissa or loftq.
        folder: the base on disk, which has the weights as they were before quantisation.

    Raises:
        UsageError: the rank is larger than a layer allows.
        EnvironmentFault: the folder does not have a layer's weight under its own name.
    """
    if init == "default":
        return
    for name, layer in lora_layers(model):
        rank, sides = layer.r[ADAPTER], min(layer.in_features, layer.out_features)
        if rank > sides:
            raise UsageError(
                f"rank {rank} is more than {name} has: its weight has {sides} singular values",
                where="adapter.rank",
                fix=f"write at most {sides}, for this layer alone with adapter.rank_pattern",
            )
    if init == "pissa":
        _start_principal(model)
    else:
        _start_loftq(model, folder)


def _start_principal(model: Any) -> None:
    from sovtune.fastpath.peft_layers import frozen_weight
    from sovtune.fastpath.principal import PrincipalStart

    for _, layer in lora_layers(model):
        _set_product(layer, frozen_weight(layer.get_base_layer()))
        start = PrincipalStart(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
        layer.lora_variant[ADAPTER] = start


def _start_loftq(model: Any, folder: Path) -> None:
    """S B A = the best rank-r approximation of W - Q, with Q the quantised W (LoftQ, arXiv 2310.08659, one step).

    The base keeps Q, so that the adapter fits the base that anyone gets by quantising the published weights. More
    steps of LoftQ would replace Q by the quantised W - s B A, a base that nobody has.
    """
    from peft.tuners.lora.bnb import Linear4bit

    from sovtune.fastpath.peft_layers import frozen_weight

    with _stored_weights(folder) as read:
        for name, layer in lora_layers(model):
            if isinstance(layer, Linear4bit):
                frozen = frozen_weight(layer.get_base_layer()).float()
                _set_product(layer, read(f"{name}.weight").float() - frozen)


def _set_product(layer: Any, wanted: Any) -> None:
    """Make s B A the best approximation of ``wanted`` [out, in]."""
    import torch

    from sovtune.fastpath.principal import principal_vectors

    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    with torch.no_grad():
        new_a, new_b = principal_vectors(wanted, layer.r[ADAPTER], layer.scaling[ADAPTER])
        a.copy_(new_a)
        b.copy_(new_b)


def reset_magnitudes(model: Any) -> None:
    """Set DoRA's magnitudes to the exact lengths of the base's rows, in fp32.

    PEFT computes them in the dtype of the base: in bf16 they are off by up to 0.4 %, and the adapter would not start
    as the base.
    """
    import torch

    from sovtune.fastpath.peft_layers import frozen_weight

    for _, layer in lora_layers(model):
        length = torch.linalg.vector_norm(frozen_weight(layer.get_base_layer()).float(), dim=1)
        layer.lora_magnitude_vector[ADAPTER].weight.data = length


@contextmanager
def _stored_weights(folder: Path) -> Iterator[Callable[[str], Any]]:
    """A function from the name of a weight to the tensor, read from the base's safetensors files."""
    from safetensors import safe_open

    with ExitStack() as stack:
        places: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = stack.enter_context(safe_open(str(path), "pt"))
            places.update(dict.fromkeys(file.keys(), file))

        def read(name: str) -> Any:
            if name not in places:
                raise EnvironmentFault(
                    f"the base has no weight called {name}",
                    where="adapter.init",
                    why="loftq compares each layer with its weight before quantisation",
                    fix="use `init: pissa` or leave `init` out",
                )
            return places[name].get_tensor(name)

        yield read
