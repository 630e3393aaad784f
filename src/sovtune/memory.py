"""Bytes of memory a run needs, part by part: arithmetic on shapes, every constant with its source.

The parts add up to the estimated peak. Letters in the derivations: N tokens of a micro-batch, E hidden size,
Q = heads x head size, K = key/value heads x head size, I intermediate size, V vocabulary, r rank, w bytes of one number
in the compute dtype (bf16 2, fp32 4). What autograd keeps and what the loss holds are counted exactly (a test counts
along); what the allocator holds beyond that is measured, ``scripts/bench_plan.py`` says how well it fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sovtune.adapter_shapes import Trained
from sovtune.architecture import BaseFacts, LinearShape
from sovtune.recipe_base import Quantisation

GB = 10**9
FP32 = 4
BITS_DOUBLE = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits: a 4-bit code, an 8-bit constant for each 64 weights, an fp32 constant for each 256 of those."""
BITS_SINGLE = 4 + 32 / 64
"""4.5 bits: without double quantisation each 64 weights have an fp32 constant."""
STATE_8BIT = 2 * (1 + 4 / 256)
"""Bytes of the two moments of 8-bit AdamW: a byte each, and an fp32 scale for each 256 (bitsandbytes)."""
QUERY_BLOCK = 128
"""Queries that fastpath.attention takes at once in documents of more than twice this length."""
LENGTH_STEP = 32
"""Multiple to which fastpath.attention pads short documents, which it computes together."""
STEPS_PER_OCTAVE = 32
"""Of fastpath.shapes, which rounds up numbers of tokens."""
LOSS_CHUNK, LOSS_AT_ONCE = 256, 1 << 19
"""Rows of logits that fastpath.loss makes at once, and logits that it holds in fp32."""
HEAD_ROWS = 16
"""Multiple to which fastpath.shapes fills up the last of them."""
PROMPTS_AT_ONCE = 8
"""Sample answers that evaluate.answers writes together."""
SMALL_LAYER = 1 << 22
"""Weights up to which a 4-bit layer of the fast path keeps its scales restored: 4 bytes for each 64 weights."""
RUNTIME = 560_000_000
"""A process that trained a tiny model on a CPU: Python, torch, transformers, peft, trl, datasets and their libraries.
559 MB with torch 2.13, transformers 5.23, trl 1.16 on Linux, where the quickstart installed them
(scripts/bench_plan.py --runtime); libraries for development add 35."""
IMPORTED = 480_000_000
"""The same before a model is loaded."""
RUNTIME_GPU = 600_000_000
"""CUDA context, kernels and workspaces of cuBLAS on a GPU; not measured here. Of the 5,046 MB that the QLoRA paper
(arXiv 2305.14314) counts for a 7B model, 660 are not weights by our count."""
LOADING = 64 << 20
"""Bytes that loading holds beside the weights: sovtune.weights gives memory back that often."""
HEAP_SHARE, HEAP_FIXED = 0.45, 60_000_000
HEAP_LAYER, HEAP_LAYER_CHECKPOINTED, HEAP_LAYER_PLAIN = 6_000_000, 2_000_000, 9_000_000
HEAP_FLOOR, HEAP_FLOOR_MAPPED, HEAP_FLOOR_PLAIN = 0.25, 0.22, 0.15
"""Freed memory that glibc's heap cannot give back between live tensors: a share of the activations of all layers, up to
a bound that grows with the layers, each of which leaves its own holes. Checkpointing frees what it makes again and
leaves the holes: no less than the floor's share of the activations. Fitted to the grid of scripts/bench_plan.py: 0 to
700 MB in models of 8, 24 and 30 layers with 128 to 4,096 tokens at once. On the plain path logits count too."""
HEAP_LARGEST = 32 << 20
"""Bytes from which glibc maps a block by itself and gives it back at once (DEFAULT_MMAP_THRESHOLD_MAX in malloc.c):
where the rows of a feed-forward block are as large they leave fewer holes."""
OTHER_ROWS = 50_000_000
"""What the last row of a batch, of another length, adds without checkpointing; fitted to the same grid."""
MIXED_FIXED, MIXED_SHARE = 130_000_000, 0.08
"""What rows that all differ add (OTHER_ROWS is part of it): so much, and a share of all the rest. Products are compiled
for each number of tokens, and freed blocks fit no other row; fastpath.heap lets a tenth of what is held pile up. Fitted
to 8 points of `scripts/bench_plan.py --mixed 16`, of 0.9 to 2.9 GB: within -4 and +10 %."""
CACHE_GPU = 0.06
"""What CUDA's caching allocator holds beyond live tensors, as a share of what is made while training; not measured
here."""
# Where q, k and v, or gate and up, are adapted they save one input together on the fast path.
_SAME_INPUT = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
}
_GATED = {"gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one micro-batch makes the machine hold.

    ``tokens`` counts padding too; ``document`` is the longest document in tokens; ``fast`` the fast CPU path;
    ``number_bytes`` w; ``optimizer`` of ``train.finer``; ``answer_tokens`` prompts answered together, with answers;
    ``alike`` that all micro-batches have one shape, which those of a probe have and those of a run have not.
    """

    tokens: int
    document: int
    fast: bool
    gpu: bool
    checkpointing: bool
    dropout: bool
    dora: bool
    full: bool
    number_bytes: int
    optimizer: str
    answer_tokens: int
    alike: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes of a run: ``parts`` of the peak, ``phases`` the peak of each stage, ``others`` what is held at no peak."""

    parts: dict[str, int]
    phases: dict[str, int]
    others: dict[str, int]

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.parts.values())


def need(
    facts: BaseFacts, quantisation: Quantisation, trained: Trained, load: Workload, *, correction: int = 0
) -> Need:
    """Bytes by part at the peak of a run, which is a training step unless loading or evaluation needs more.

    Args:
        facts: shapes of the base.
        quantisation: how frozen weights are stored.
        trained: what is trained.
        load: the micro-batch.
        correction: what a probe found beyond the estimate of training.
    """
    if load.fast:
        load = replace(load, tokens=filled_up(load.tokens))
    weights = stored_weights(facts, quantisation, load)
    saved = saved_by_layer(facts, trained, load)
    whole = facts.layers * saved
    # Checkpointing keeps each layer's input and repeats one layer at a time.
    less = facts.layers * load.tokens * load.number_bytes * facts.hidden + saved
    moments = STATE_8BIT if load.optimizer == "adamw8bit" else 2 * FP32
    made = {
        "activations": less if load.checkpointing else whole,
        "logits": loss_bytes(facts, load),
        "scratch": scratch_bytes(facts, quantisation, load),
    }
    parts = {
        **weights,
        "adapter": 0 if load.full else (trained.parameters + trained.frozen_copies) * FP32,
        "gradients": trained.parameters * FP32,
        "optimizer": round(trained.parameters * moments),
        **made,
        "fragmentation": _fragmentation(facts, made, whole, load),
        "runtime": RUNTIME_GPU if load.gpu else RUNTIME,
    }
    if not (load.alike or load.gpu):
        parts["fragmentation"] += _mixed(sum(parts.values()), load)
    if correction:
        parts["beyond_estimate"] = correction
    cache = 2 * facts.layers * facts.kv_heads * facts.head_size * load.number_bytes * load.answer_tokens
    scratch = quantising_bytes(facts, quantisation)
    held = sum(weights.values()) + parts["adapter"]
    phases = {
        "loading": (RUNTIME_GPU if load.gpu else IMPORTED) + sum(weights.values()) + scratch,
        "training": sum(parts.values()),
        "evaluation": parts["runtime"] + held + cache + chunk_bytes(facts, load),
    }
    parts["beyond_training"] = max(phases.values()) - phases["training"]
    others = {
        "activations_without_checkpointing": whole,
        "activations_with_checkpointing": less,
        "kv_for_evaluation": cache,
        "quantisation_scratch": scratch,
    }
    return Need(parts=parts, phases=phases, others=others)


def stored_weights(facts: BaseFacts, quantisation: Quantisation, load: Workload) -> dict[str, int]:
    """Bytes of the base's weights by how they are stored; a full run keeps fp32 and, in bf16, copies for products."""
    if load.full:
        copies = facts.linear * load.number_bytes if load.number_bytes < FP32 else 0
        return {
            "weights_4bit": 0,
            "weights_8bit": 0,
            "weights_16bit": copies,
            "weights_32bit": facts.parameters * FP32,
        }
    small = [
        shape for shape in facts.linears if quantisation.kind != "none" and not _skipped(shape, quantisation)
    ]
    numbers = sum(shape.parameters for shape in small)
    kept = (facts.parameters - numbers) * load.number_bytes
    scales = sum(shape.outputs for shape in small) * FP32
    bits = BITS_DOUBLE if quantisation.double else BITS_SINGLE
    eight = quantisation.kind == "int8"
    return {
        "weights_4bit": 0 if eight else round(numbers * bits / 8),
        "weights_8bit": numbers + scales if eight else 0,
        "weights_16bit": kept if load.number_bytes == 2 else 0,
        "weights_32bit": kept if load.number_bytes == FP32 else 0,
    }


def _skipped(shape: LinearShape, quantisation: Quantisation) -> bool:
    return any(f".{shape.name}".endswith(f".{name}") for name in quantisation.skip)


def _fragmentation(facts: BaseFacts, made: dict[str, int], whole: int, load: Workload) -> int:
    """Freed memory that is still held, from what a step makes and the activations of all layers."""
    if load.gpu:
        return round(CACHE_GPU * sum(made.values()))
    if not load.fast:
        share = HEAP_SHARE * (whole + made["logits"] + made["scratch"])
        bound = HEAP_FIXED + HEAP_LAYER_PLAIN * facts.layers
        return round(max(min(share, bound), HEAP_FLOOR_PLAIN * whole))
    per_layer = HEAP_LAYER_CHECKPOINTED if load.checkpointing else HEAP_LAYER
    held = min(HEAP_SHARE * whole, HEAP_FIXED + per_layer * facts.layers)
    if load.checkpointing:
        mapped = load.tokens * facts.intermediate * load.number_bytes >= HEAP_LARGEST
        floor = HEAP_FLOOR_MAPPED if mapped else HEAP_FLOOR
        # Layers are made again in part of what the loss has freed.
        held = max(held, floor * whole - made["logits"] / 4)
    return round(held) + (0 if load.checkpointing else OTHER_ROWS)


def _mixed(rest: int, load: Workload) -> int:
    """What is held because the next row has another length than the last."""
    counted = OTHER_ROWS if load.fast and not load.checkpointing else 0
    return MIXED_FIXED - counted + round(MIXED_SHARE * rest)


def quantising_bytes(facts: BaseFacts, quantisation: Quantisation) -> int:
    """What loading holds beside the weights: the largest tensor as it is stored, and freed ones before they go."""
    share = facts.stored_bytes / facts.parameters
    largest = max((shape.parameters for shape in facts.linears), default=0)
    embedding = facts.vocabulary * facts.hidden
    return round(share * (max(largest, embedding) if quantisation.kind == "none" else largest)) + LOADING


def saved_by_layer(facts: BaseFacts, trained: Trained, load: Workload) -> int:
    """Bytes of activations one decoder layer keeps for its backward pass.

    Counted per token for a llama-like layer (a test counts what autograd really keeps):

    - a norm keeps its input and its inverse root mean square: w E + 4 on the fast path, else 4 E + 4; norms on q and k
      heads keep so many bytes of Q + K, and 4 for each head;
    - attention keeps q, k, v: w (Q + 2 K), and on the fast path its probabilities (``probability_entries``),
      on the plain path its output w Q and 4 bytes per head for the normaliser;
    - silu(gate) * up keeps gate, silu(gate), up: 3 w I; on the fast path gate and up, and the input of down is not kept
      either, unless DoRA is on a layer of the block;
    - an adapted linear keeps its input and x A^T (r numbers). On the fast path in w bytes, one input for
      q, k, v and one for gate, up; on the plain path PEFT makes an fp32 copy for each, and dropout a mask;
    - DoRA on the fast path keeps the product it scales, w for each output, and once for all tokens a row's length
      and quotient, 4 + w for each output; PiSSA keeps A and B joined with their start, once: 4 x twice their numbers;
    - trained weights (full) keep their inputs in w bytes.
    """
    width = load.number_bytes
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    norm_width = width if load.fast and not load.full else FP32
    per_token = facts.norms * (norm_width * facts.hidden + FP32) + width * (q + 2 * k)
    per_token += 3 * width * facts.intermediate
    if load.fast and not load.full:
        per_token -= width * sum(_lean_blocks(facts, trained, load).values()) // facts.layers
    if facts.head_norms:
        per_token += norm_width * (q + k) + FP32 * (facts.heads + facts.kv_heads)
    if load.fast:
        attention = width * facts.heads * probability_entries(load.tokens, load.document)
    else:
        attention = load.tokens * (width * q + FP32 * facts.heads)
    once = (
        (FP32 + width) * sum(shape.outputs for shape, _ in trained.layers) if load.dora and load.fast else 0
    )
    once += 2 * FP32 * trained.frozen_copies if load.fast else 0
    per_token += _inputs_kept(facts, trained, load) // facts.layers
    return load.tokens * per_token + attention + once // facts.layers


def _inputs_kept(facts: BaseFacts, trained: Trained, load: Workload) -> int:
    """Bytes per token that the linear layers of all decoder layers keep of their inputs and products."""
    width = load.number_bytes
    if load.full:
        return sum(width * size for size in _inputs(facts.linears).values())
    shapes = [shape for shape, _ in trained.layers]
    inner = sum(rank for _, rank in trained.layers) * (2 if trained.frozen_copies else 1)
    if load.fast:
        scaled = width * sum(shape.outputs for shape in shapes) if load.dora else 0
        lean = {f"{block}.down_proj" for block in _lean_blocks(facts, trained, load)}
        keeping = [shape for shape in shapes if shape.name not in lean]
        return width * (sum(_inputs(keeping).values()) + inner) + scaled
    return sum((FP32 + load.dropout) * shape.inputs for shape in shapes) + FP32 * inner


def _lean_blocks(facts: BaseFacts, trained: Trained, load: Workload) -> dict[str, int]:
    """Feed-forward blocks of fastpath.blocks by name, and their widths I."""
    blocks: dict[str, dict[str, int]] = {}
    for shape in facts.linears:
        parent, _, last = shape.name.rpartition(".")
        blocks.setdefault(parent, {})[last] = shape.inputs
    scaled = {shape.name.rpartition(".")[0] for shape, _ in trained.layers} if load.dora else set()
    return {
        name: block["down_proj"]
        for name, block in blocks.items()
        if block.keys() >= _GATED and name not in scaled
    }


def _inputs(shapes: list[LinearShape] | tuple[LinearShape, ...]) -> dict[tuple[str, str], int]:
    """Widths of the distinct inputs of some layers."""
    found = {}
    for shape in shapes:
        parent, _, last = shape.name.rpartition(".")
        found[parent, _SAME_INPUT.get(last, last)] = shape.inputs
    return found


def probability_entries(tokens: int, document: int) -> int:
    """Attention probabilities of one head for a flat row of documents of this length (fastpath.attention).

    A document of up to two blocks keeps its whole square, rounded up; a longer one keeps, for each block of queries,
    the keys up to the block's end.
    """
    whole, tail = divmod(tokens, document)
    return whole * _entries(document) + _entries(tail)


def _entries(length: int) -> int:
    if length <= 2 * QUERY_BLOCK:
        return (-(-length // LENGTH_STEP) * LENGTH_STEP) ** 2
    blocks, tail = divmod(length, QUERY_BLOCK)
    return QUERY_BLOCK * QUERY_BLOCK * blocks * (blocks + 1) // 2 + tail * length


def filled_up(tokens: int) -> int:
    """Tokens of a flat row on the fast path, which fastpath.shapes rounds up."""
    step = 1 << max(0, (tokens // STEPS_PER_OCTAVE).bit_length() - 1)
    return -(-tokens // step) * step


def chunk_bytes(facts: BaseFacts, load: Workload) -> int:
    """Logits of a chunk, and what fastpath.loss makes of a few of its rows: log-probabilities and, in bf16, a copy."""
    rows = min(-(-load.tokens // HEAD_ROWS) * HEAD_ROWS, LOSS_CHUNK)
    at_once = min(rows, max(1, LOSS_AT_ONCE // facts.vocabulary))
    in_fp32 = FP32 * (2 if load.number_bytes < FP32 else 1)
    return facts.vocabulary * (rows * load.number_bytes + at_once * in_fp32)


def loss_bytes(facts: BaseFacts, load: Workload) -> int:
    """Final norm, hidden state, and what the loss holds at its peak.

    Fast: one chunk. Then the picked rows and their gradient, 2 w E for each token at most (measured with torch's
    profiler, tests/tiny/test_plan_memory.py). Plain: logits of all tokens; at the peak of the backward pass fp32
    log-probabilities, their gradient and that of the logits: 12 bytes a logit.
    """
    width = load.number_bytes
    hidden = load.tokens * facts.hidden * (FP32 + width)
    if load.fast:
        return hidden + chunk_bytes(facts, load) + 2 * load.tokens * facts.hidden * width
    return hidden + load.tokens * facts.vocabulary * 12


def scratch_bytes(facts: BaseFacts, quantisation: Quantisation, load: Workload) -> int:
    """The largest weight, dequantised, and gradients in a feed-forward block: gate, up and their product.

    int8 weights are restored through fp32; DoRA measures rows of the fp32 weight with its update. Small layers of the
    fast path keep the scales of double quantisation restored.
    """
    width = load.number_bytes
    doubled = load.fast and quantisation.double and quantisation.kind in ("nf4", "fp4")
    small = [shape.parameters for shape in facts.linears if shape.parameters <= SMALL_LAYER]
    scales = FP32 * sum(small) // 64 if doubled else 0
    largest = max((shape.parameters for shape in facts.linears), default=0)
    restored = {"none": 0, "int8": FP32 + width}.get(quantisation.kind, width) + 2 * FP32 * load.dora
    return largest * restored + 3 * load.tokens * facts.intermediate * width + scales
