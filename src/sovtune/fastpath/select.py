"""Where the fast path applies: a list of reasons why not, empty when it does."""

from __future__ import annotations

from typing import Any

SUPPORTED_TYPES = frozenset({"llama", "qwen2", "qwen3", "glm4", "hunyuan_v1_dense", "ernie4_5"})
"""Model types for which tests/tiny/test_fastpath.py proves that fast and plain path are equal."""

# Config keys that change the attention or the logits in ways the fast path does not compute.
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping", "logits_softcap")
_LOGIT_SCALES = ("logits_scaling", "logit_scale")


def blockers(config: Any, *, device: str, dropout: float, head_trained: bool = False) -> list[str]:
    """Reasons why this model on this device must take the plain path.

    Args:
        config: the transformers configuration of the base.
        device: ``cpu`` or ``cuda``.
        dropout: dropout of the adapter.
        head_trained: whether weights of the output layer are trained.
    """
    reasons: list[str] = []
    if device != "cpu":
        reasons.append(f"the device is {device}; the fast path is for CPUs")
    if config.model_type not in SUPPORTED_TYPES:
        reasons.append(f"model type {config.model_type} has no equality test yet")
    if dropout > 0:
        reasons.append("adapter.dropout is above 0")
    if getattr(config, "attention_dropout", 0):
        reasons.append("the base uses attention dropout")
    layer_types = set(getattr(config, "layer_types", None) or ())
    if layer_types - {"full_attention"}:
        reasons.append(f"layers of type {', '.join(sorted(layer_types - {'full_attention'}))}")
    return reasons + loss_blockers(config, head_trained=head_trained)


def loss_blockers(config: Any, *, head_trained: bool = False) -> list[str]:
    """Reasons why the loss cannot be made from hidden states and the head's weight alone; arguments as above."""
    reasons = ["the output layer is trained, the fast loss needs it frozen"] if head_trained else []
    reasons += [f"the base uses {key}" for key in _SOFTCAPS if getattr(config, key, None)]
    reasons += [
        f"the base uses {key}" for key in _LOGIT_SCALES if getattr(config, key, None) not in (None, 1, 1.0)
    ]
    return reasons
