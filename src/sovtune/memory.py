"""Bytes of memory a training step needs, part by part: arithmetic on shapes, every constant with its source.

The parts add up to the estimated peak of resident memory. Letters in the derivations: N tokens of a
micro-batch, E hidden size, Q = heads x head size, K = key/value heads x head size, I intermediate size,
V vocabulary, r rank, w bytes of one number in the compute dtype (bf16 2, fp32 4).

Against eight peaks measured with a 135M and a 1.5B model on a CPU the sum is 0.81 to 1.24 of the peak:
weights and activations are exact, leftovers of the heap and the mapped file are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sovtune.architecture import BaseFacts, LinearShape
from sovtune.families import family
from sovtune.recipe_adapter import Adapter
from sovtune.recipe_base import Quantisation

GB = 10**9
FP32 = 4
BITS_NF4_DOUBLE = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits: a 4-bit code, an 8-bit constant for each 64 weights, an fp32 constant for each 256 of those."""
BITS_NF4 = 4 + 32 / 64
"""4.5 bits: without double quantisation each 64 weights have an fp32 constant."""
QUERY_BLOCK = 128
"""Queries that fastpath.attention takes at once in documents of more than twice this length."""
PROCESS = 515_000_000
"""Python, torch, transformers, peft, trl, datasets and a tiny model: 514 MB resident (Linux, torch 2.13)."""
ALLOCATOR = 440_000_000
"""Heap that is freed and not given back: 60 MB (335M model) to 440 MB (135M) measured after quantising."""
# Where q, k and v, or gate and up, are adapted they save one input together on the fast path.
_SAME_INPUT = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one micro-batch makes the machine hold.

    ``tokens`` counts padding too; ``document`` is the longest document in tokens; ``fast`` the fast CPU path.
    """

    tokens: int
    document: int
    fast: bool
    checkpointing: bool
    rank: int
    dropout: bool
    number_bytes: int


def adapted_linears(facts: BaseFacts, adapter: Adapter) -> tuple[LinearShape, ...]:
    """The layers that get an adapter: PEFT's rule, a name equals a target or ends with ``.target``.

    Raises:
        EnvironmentFault: ``targets: auto`` on a model type without verified targets.
    """
    exclude: str | None = None
    if adapter.targets == "auto":
        known = family(facts.model_type)
        targets, exclude = known.targets, known.exclude
    else:
        targets = adapter.targets
    ends = tuple(f".{target}" for target in targets)
    return tuple(
        shape
        for shape in facts.linears
        if (shape.name in targets or shape.name.endswith(ends))
        and not (exclude and re.fullmatch(exclude, shape.name))
    )


def adapter_parameters(linears: Sequence[LinearShape], rank: int) -> int:
    """Each layer gets A [r, inputs] and B [outputs, r]."""
    return sum(rank * (shape.inputs + shape.outputs) for shape in linears)


def parts(
    facts: BaseFacts, quantisation: Quantisation, linears: Sequence[LinearShape], load: Workload
) -> dict[str, int]:
    """Bytes by part at the peak of a training step; their sum is the peak.

    Args:
        facts: shapes of the base.
        quantisation: how frozen weights are stored.
        linears: layers with an adapter.
        load: the micro-batch.
    """
    width = load.number_bytes
    quantised = quantisation.kind == "nf4"
    bits = BITS_NF4_DOUBLE if quantisation.double else BITS_NF4
    kept = facts.embeddings + facts.rest + (0 if quantised else facts.linear)
    trainable = adapter_parameters(linears, load.rank)
    saved = saved_by_layer(facts, linears, load)
    # Checkpointing keeps each layer's input and repeats one layer at a time.
    activations = facts.layers * load.tokens * width * facts.hidden + saved
    made = {
        "process": PROCESS,
        "weights_4bit": round(facts.linear * bits / 8) if quantised else 0,
        "weights_16bit" if width == 2 else "weights_32bit": kept * width,
        "adapter": trainable * FP32,
        "gradients": trainable * FP32,
        "optimizer": trainable * 2 * FP32,  # AdamW: two fp32 moments
        "activations": activations if load.checkpointing else facts.layers * saved,
        "loss": loss_bytes(facts, load),
        "scratch": scratch_bytes(facts, load, quantised=quantised),
        "allocator": ALLOCATOR if quantised else 0,
    }
    # Embeddings are used straight from the mapped file, which keeps all of it mapped: pages that were read to
    # quantise them count as resident until the system wants them back.
    made["base_file"] = max(0, facts.stored_bytes - kept * width) if quantised else 0
    # Not quantised, the weights are used from the file too; converted to another width they stand beside it.
    loading = PROCESS + facts.stored_bytes
    made["loading"] = max(0, loading - sum(made.values()))
    return made


def saved_by_layer(facts: BaseFacts, linears: Sequence[LinearShape], load: Workload) -> int:
    """Bytes of activations one decoder layer keeps for its backward pass.

    Counted per token for a llama-like layer (a test counts what autograd really keeps):

    - a norm keeps its input in fp32 and its inverse root mean square: 4 E + 4; norms on q and k heads keep
      4 (Q + K) + 4 (heads + kv heads) together;
    - attention keeps q, k, v: w (Q + 2 K), and on the fast path its probabilities (``probability_entries``),
      on the plain path its output w Q and 4 bytes per head for the normaliser;
    - silu(gate) * up keeps gate, silu(gate), up: 3 w I;
    - an adapted linear keeps its input and x A^T (r numbers). On the fast path in w bytes, one input for
      q, k, v and one for gate, up; on the plain path PEFT makes an fp32 copy for each, and dropout a mask.
    """
    width, rank = load.number_bytes, load.rank
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    per_token = (
        facts.norms * (FP32 * facts.hidden + FP32) + width * (q + 2 * k) + 3 * width * facts.intermediate
    )
    if facts.head_norms:
        per_token += FP32 * (q + k) + FP32 * (facts.heads + facts.kv_heads)
    if load.fast:
        inputs = {_input_key(shape): shape.inputs for shape in linears}
        by_adapters = width * (sum(inputs.values()) + rank * len(linears))
        attention = width * facts.heads * probability_entries(load.tokens, load.document)
    else:
        by_adapters = sum((FP32 + load.dropout) * shape.inputs + FP32 * rank for shape in linears)
        attention = load.tokens * (width * q + FP32 * facts.heads)
    return load.tokens * (per_token + by_adapters // facts.layers) + attention


def _input_key(shape: LinearShape) -> tuple[str, str]:
    parent, _, last = shape.name.rpartition(".")
    return parent, _SAME_INPUT.get(last, last)


def probability_entries(tokens: int, document: int) -> int:
    """Attention probabilities of one head for a flat row of documents of this length (fastpath.attention).

    A document of up to two blocks keeps its whole square; a longer one keeps, for each block of queries, the
    keys up to the block's end.
    """
    whole, tail = divmod(tokens, document)
    return whole * _entries(document) + _entries(tail)


def _entries(length: int) -> int:
    if length <= 2 * QUERY_BLOCK:
        return length * length
    blocks, tail = divmod(length, QUERY_BLOCK)
    return QUERY_BLOCK * QUERY_BLOCK * blocks * (blocks + 1) // 2 + tail * length


def loss_chunk(vocabulary: int) -> int:
    """Rows of a chunk of fastpath.loss."""
    return 256 if vocabulary >= 100_000 else 128


def loss_bytes(facts: BaseFacts, load: Workload) -> int:
    """Final norm, hidden state, and what the loss holds at its peak.

    Fast: of one chunk the logits and a copy of their size (2 w), their fp32 copy and log-probabilities (8); in
    fp32 the copies take no place of their own (measured with torch's profiler, tests/tiny/test_plan_memory.py).
    Then the picked rows and their gradient, 2 w E for each token at most. Plain: logits of all tokens; at the
    peak of the backward pass fp32 log-probabilities, their gradient and that of the logits: 12 bytes a logit.
    """
    width = load.number_bytes
    hidden = load.tokens * facts.hidden * (FP32 + width)
    if load.fast:
        rows = min(load.tokens, loss_chunk(facts.vocabulary))
        chunk = 2 * FP32 + (2 * width if width < FP32 else 0)
        return hidden + rows * facts.vocabulary * chunk + 2 * load.tokens * facts.hidden * width
    return hidden + load.tokens * facts.vocabulary * 12


def scratch_bytes(facts: BaseFacts, load: Workload, *, quantised: bool) -> int:
    """The largest weight, dequantised, and gradients in a feed-forward block: gate, up and their product."""
    largest = max((shape.parameters for shape in facts.linears), default=0) if quantised else 0
    return load.number_bytes * (largest + 3 * load.tokens * facts.intermediate)
