"""Which installed kernels a run on a GPU uses beside torch's own; nothing is fetched from a hub.

FlashAttention 2 for attention, Liger Kernel for norms, rotary positions and the gated MLP, and for the loss cut
cross-entropy (Apple) or Liger's fused linear cross-entropy: both make the logits in pieces and never keep them. Each is
taken when it is installed and fits, and else there is a reason, which the run and `sovtune doctor` print.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

FLASH, LIGER, CUT = "flash-attn", "liger-kernel", "cut-cross-entropy"
AMPERE = (8, 0)
"""Compute capability from which FlashAttention 2 and fast bf16 products work (README of flash-attn)."""
HALF = ("bfloat16", "float16")

Attention = Literal["flash_attention_2", "sdpa"]
Layers = Literal["liger", "torch"]
Loss = Literal["cut", "liger", "torch"]
Installed = Callable[[str], str | None]
"""Name of a package -> its version, None when it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What computes attention, layers and loss, and in ``notes`` what was chosen or why it was not."""

    attention: Attention = "sdpa"
    layers: Layers = "torch"
    loss: Loss = "torch"
    notes: tuple[str, ...] = ()


TORCH_ONLY = Kernels()


def installed_version(name: str) -> str | None:
    """The version of a package, None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def choose_kernels(
    *,
    capability: tuple[int, int],
    compute: str,
    layers_known: bool = True,
    loss_blockers: Sequence[str] = (),
    shaped_loss: bool = False,
    installed: Installed = installed_version,
) -> Kernels:
    """The kernels for a CUDA device.

    Args:
        capability: of the device, such as (8, 0).
        compute: dtype of products, as a recipe writes it.
        layers_known: whether Liger Kernel has layers for this type of model.
        loss_blockers: why the loss cannot be made from hidden states and the head's weight.
        shaped_loss: label smoothing or a z-loss is wanted, which cut cross-entropy does not have.
        installed: asked for versions.
    """
    flash, liger, cut = (installed(name) for name in (FLASH, LIGER, CUT))
    notes: list[str] = []
    attention: Attention = "sdpa"
    if flash is None:
        notes.append(f"attention: torch ({FLASH} is not installed)")
    elif capability < AMPERE:
        notes.append(
            f"attention: torch ({FLASH} needs compute capability 8.0, this GPU has {_dotted(capability)})"
        )
    elif compute not in HALF:
        notes.append(f"attention: torch ({FLASH} computes in 16 bits, the recipe in {compute})")
    else:
        attention = "flash_attention_2"
        notes.append(f"attention: {FLASH} {flash}")
    layers: Layers = "liger" if liger and layers_known else "torch"
    if layers == "liger":
        notes.append(f"layers: {LIGER} {liger}")
    else:
        notes.append(
            f"layers: torch ({LIGER} {'does not know this type of model' if liger else 'is not installed'})"
        )
    loss, why = _loss(cut, liger, compute, loss_blockers, shaped_loss)
    notes.append(f"loss: {why}")
    return Kernels(attention=attention, layers=layers, loss=loss, notes=tuple(notes))


def _loss(
    cut: str | None, liger: str | None, compute: str, blockers: Sequence[str], shaped: bool
) -> tuple[Loss, str]:
    if blockers:
        return "torch", f"torch ({blockers[0]})"
    if cut and not shaped and compute in HALF:
        return "cut", f"{CUT} {cut}"
    if liger:
        return "liger", f"{LIGER} {liger}"
    if cut:
        return "torch", f"torch ({CUT} has no label smoothing and no z-loss, and computes in 16 bits)"
    return "torch", f"torch (neither {CUT} nor {LIGER} is installed)"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
