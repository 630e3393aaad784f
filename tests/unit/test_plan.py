"""The plan's arithmetic: steps, memory by part, time; exact on small shapes, monotone everywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune import memory
from sovtune.adapter_shapes import adapted_linears, trained
from sovtune.architecture import BaseFacts, LinearShape
from sovtune.errors import BaseUnavailable, DataRefused, EnvironmentFault
from sovtune.machine import Machine, group_of, group_room, named_machine, this_machine
from sovtune.plan import (
    DataSize,
    Speed,
    estimate_data,
    make_plan,
    previous_speed,
    read_base_facts,
    steps_for,
    work_flop,
)
from sovtune.recipe import Recipe
from sovtune.recipe_base import Quantisation
from sovtune.recipe_launch import Launch
from sovtune.recipe_train import Train
from sovtune.records import TrainReport, from_json, to_json

GIB = 2**30
ROOMY = Machine(device="cpu", memory_available_bytes=64 * GIB)
DATA = DataSize(tokens=90_000, supervised_tokens=60_000, rows=100, documents=400, longest=700)
ALIKE = replace(DATA, alike=True)


def recipe(
    *,
    adapter: dict[str, Any] | None = None,
    rows: dict[str, Any] | None = None,
    quantisation: dict[str, Any] | None = None,
    method: str = "sft",
    **train: Any,
) -> Recipe:
    run = train.pop("run", {})
    ends = {"epochs", "steps", "tokens"} & set(train)
    return Recipe.model_validate(
        {
            "name": "planned",
            "language": "ko",
            "seed": 1,
            "method": method,
            "base": {
                "model": "org/base",
                "revision": "main",
                "licence": "MIT",
                "quantisation": quantisation or {"kind": "nf4"},
            },
            "adapter": adapter or {},
            "data": [{"card": "card.yaml"}],
            "train": {**({} if ends else {"epochs": 1}), **train, "rows": rows or {}, "run": run},
            "card": {"licence": "MIT"},
        }
    )


def train(max_length: int = 100, micro_rows: int | None = None, **values: Any) -> Train:
    run = {"micro_rows": micro_rows}
    return Train.model_validate(
        {"batch_tokens": 400, **values, "rows": {"max_length": max_length}, "run": run}
    )


def workload(**changes: Any) -> memory.Workload:
    values = {
        "tokens": 8, "document": 8, "fast": True, "gpu": False, "checkpointing": False, "dropout": False, "dora": False,
        "full": False, "number_bytes": 2, "optimizer": "adamw", "answer_tokens": 0,
    }  # fmt: skip
    return memory.Workload(**{**values, **changes})


def write_base(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> Path:
    """A base of which only config and header exist: the weights are holes in a sparse file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    return folder


def decoder(hidden: int, q: int, kv: int, middle: int, layers: int, vocabulary: int) -> dict[str, list[int]]:
    """Tensors of a llama-like checkpoint with tied embeddings."""
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + "input_layernorm.weight": [hidden], at + "post_attention_layernorm.weight": [hidden]}
        shapes |= {at + "self_attn.q_proj.weight": [q, hidden], at + "self_attn.o_proj.weight": [hidden, q]}
        shapes |= {at + f"self_attn.{name}_proj.weight": [kv, hidden] for name in "kv"}
        shapes |= {at + f"mlp.{name}_proj.weight": [middle, hidden] for name in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = [hidden, middle]
    return shapes


SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base_facts(
        write_base(tmp_path_factory.mktemp("base"), SMALL, decoder(64, 64, 32, 160, 2, 1000))
    )


# --- reading a base


def test_shapes_of_qwen3_06b(tmp_path: Path) -> None:
    """Published: 0.596 B parameters; measured on the meta device: 0.440 B of them in linear layers."""
    shapes = decoder(1024, 2048, 1024, 3072, 28, 151_936)
    shapes |= {f"model.layers.{i}.self_attn.{n}_norm.weight": [128] for i in range(28) for n in "qk"}
    shapes["lm_head.weight"] = [151_936, 1024]  # stored though tied: counted once
    config = {**SMALL, "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "head_dim": 128}
    config |= {
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
    }
    found = read_base_facts(write_base(tmp_path, config, shapes))
    assert found.linear == 440_401_920
    assert found.parameters == 596_049_920
    assert (found.norms, found.head_norms, found.head_size, found.tied) == (2, True, 128, True)
    assert found.config_blockers == ()


def test_untied_head_and_experts_count_where_they_are_stored(tmp_path: Path) -> None:
    shapes = decoder(64, 64, 32, 160, 2, 1000) | {"lm_head.weight": [1000, 64]}
    shapes |= {
        "model.layers.0.mlp.experts.0.up_proj.weight": [32, 64],
        "model.layers.0.mlp.gate.weight": [8, 64],
    }
    config = {**SMALL, "tie_word_embeddings": False, "moe_intermediate_size": 32, "num_experts_per_tok": 4}
    found = read_base_facts(write_base(tmp_path, {**config, "n_shared_experts": 1}, shapes))
    assert found.embeddings == 2 * 1000 * 64
    assert found.experts == 32 * 64
    assert found.rest == 5 * 64 + 32 * 64 + 8 * 64
    assert found.intermediate == 5 * 32


def test_shards_and_nested_text_config(tmp_path: Path) -> None:
    shapes = decoder(64, 64, 32, 160, 2, 1000)
    write_base(tmp_path / "other", SMALL, {"model.extra.weight": [10, 20]})
    write_base(tmp_path, {"model_type": "vision", "text_config": SMALL}, shapes)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model-2.safetensors")
    found = read_base_facts(tmp_path)
    assert found.model_type == "llama"
    assert LinearShape(name="model.extra", outputs=10, inputs=20) in found.linears
    assert found.stored_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"vocab_size": True}, "vocab_size"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised already"),
    ],
)
def test_a_config_without_its_numbers_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_base(tmp_path, {**SMALL, **change}, decoder(64, 64, 32, 160, 2, 1000))
    with pytest.raises(BaseUnavailable, match=words):
        read_base_facts(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x04\0\0\0\0\0\0\0{"a"'])
def test_a_broken_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    write_base(tmp_path, SMALL, {})
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseUnavailable, match=r"model\.safetensors is no safetensors file"):
        read_base_facts(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailable, match=r"no config\.json"):
        read_base_facts(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseUnavailable, match="not JSON"):
        read_base_facts(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    with pytest.raises(BaseUnavailable, match=r"no \*\.safetensors"):
        read_base_facts(tmp_path)


# --- steps


@pytest.mark.parametrize(
    ("values", "rows", "tokens", "expected"),
    [
        ({"epochs": 1}, 8, 800, (2, 4, 8)),
        ({"epochs": 1}, 9, 900, (3, 4, 9)),  # the last step has one row
        ({"epochs": 0.5}, 9, 900, (2, 4, 5)),  # half of 9 rows, rounded up
        ({"epochs": 2.5}, 8, 800, (5, 4, 20)),
        ({"epochs": 0.1}, 30, 3000, (1, 4, 3)),  # 0.1 * 30 is 3.0000000000000004 in binary
        ({"epochs": 0.001}, 3, 300, (1, 4, 1)),  # never less than a row
        ({"epochs": 1}, 1, 20, (1, 4, 1)),
        ({"steps": 7}, 3, 300, (7, 4, 28)),  # goes round the data
        ({"tokens": 800}, 100, 10_000, (2, 4, 8)),
        ({"tokens": 801}, 100, 10_000, (3, 4, 12)),  # rounded up to whole steps
        ({"tokens": 800}, 100, 5_000, (4, 4, 16)),  # half-filled rows: twice as many
        ({"epochs": 1, "batch_tokens": 199}, 5, 500, (5, 1, 5)),
        ({"epochs": 1, "batch_tokens": 500, "micro_rows": 2}, 8, 800, (2, 4, 8)),  # 5 rows fit, 4 divide by 2
    ],
)
def test_steps(values: dict[str, Any], rows: int, tokens: int, expected: tuple[int, int, int]) -> None:
    assert steps_for(train(**values), rows, tokens) == expected


@pytest.mark.parametrize(("rows", "tokens"), [(0, 0), (0, 5), (5, 0), (-1, 10)])
def test_no_rows_no_steps(rows: int, tokens: int) -> None:
    with pytest.raises(DataRefused, match="nothing to train on"):
        steps_for(train(epochs=1), rows, tokens)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    epochs=st.floats(0.001, 50),
    rows=st.integers(1, 5000),
    batch=st.integers(100, 5000),
    micro=st.integers(1, 50),
)
def test_steps_cover_the_wanted_rows_and_no_more(epochs: float, rows: int, batch: int, micro: int) -> None:
    micro_rows = min(micro, batch // 100)
    steps, per_step, wanted = steps_for(
        train(epochs=epochs, batch_tokens=batch, micro_rows=micro_rows), rows, rows * 90
    )
    assert (steps - 1) * per_step < wanted <= steps * per_step
    assert epochs * rows - 1e-6 <= wanted < epochs * rows + 1 + 1e-6
    assert per_step % micro_rows == 0
    assert per_step * 100 <= batch


# --- memory


def test_bytes_of_a_small_model_by_hand(facts: BaseFacts) -> None:
    """Every part of one micro-batch of 100 tokens, worked out with the numbers themselves."""
    plan = make_plan(
        recipe(adapter={"rank": 8}, rows={"max_length": 100}, batch_tokens=400), facts, ALIKE, machine=ROOMY
    )
    linear = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 160 * 64 * 3)
    adapter = 2 * 8 * (128 * 2 + 96 * 2 + 224 * 3)
    kept = 1000 * 64 + 5 * 64
    norms, qkv, gated = 2 * (2 * 64 + 4), 2 * (64 + 2 * 32), 2 * 2 * 160
    inputs, inner = 2 * (64 + 64 + 64), 7 * 2 * 8
    made = {
        "activations": 2 * (100 * (norms + qkv + gated + inputs + inner) + 2 * 4 * 128 * 128),
        "logits": 100 * 64 * 6 + 112 * 1000 * 10 + 2 * 100 * 64 * 2,
        "scratch": 2 * (160 * 64 + 3 * 100 * 160) + 4 * linear // 64,
    }
    assert plan.memory_bytes == {
        "weights_4bit": round(linear * (4 + 1 / 8 + 1 / 512) / 8),
        "weights_8bit": 0,
        "weights_16bit": 2 * kept,
        "weights_32bit": 0,
        "adapter": 4 * adapter,
        "gradients": 4 * adapter,
        "optimizer": 8 * adapter,
        **made,
        "fragmentation": round(memory.HEAP_SHARE * made["activations"]) + memory.OTHER_ROWS,
        "runtime": memory.RUNTIME,
        "beyond_training": 0,
    }
    assert plan.phases["training"] == sum(plan.memory_bytes.values())
    assert plan.phases["loading"] < plan.phases["training"]
    assert plan.others["activations_with_checkpointing"] == made["activations"] // 2 + 2 * 100 * 2 * 64
    assert plan.tokens == 90_000
    assert plan.epochs == 1
    assert plan.fits


@pytest.mark.parametrize(
    ("linear", "total", "gigabytes"),
    [
        (30.954, 32.003, 18.1),
        (70.213, 71.893, 39.6),
        (6.525, 7.26, 4.8),
        (10.469, 10.732, 5.9),
        (31.206, 32.762, 19.2),
    ],
)
def test_nf4_weights_of_known_models(facts: BaseFacts, linear: float, total: float, gigabytes: float) -> None:
    """EXAONE-4.0-32B, A.X-4.0, A.X-4.0-Light, SOLAR-10.7B, Qwen3-32B; split measured on the meta device."""
    shape = LinearShape(name="all", outputs=1_000_000, inputs=round(linear * 1000))
    big = replace(facts, linears=(shape,), embeddings=round((total - linear) * 1e9), rest=0)
    found = memory.stored_weights(big, Quantisation(kind="nf4"), workload())
    assert (found["weights_4bit"] + found["weights_16bit"]) / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(
    ("quantisation", "part", "count"),
    [
        ({"kind": "fp4", "double": False}, "weights_4bit", lambda facts: facts.linear * 4.5 / 8),
        (
            {"kind": "int8"},
            "weights_8bit",
            lambda facts: facts.linear + 4 * 2 * (2 * 64 + 2 * 32 + 2 * 160 + 64),
        ),
        ({"kind": "none", "compute": "float32"}, "weights_32bit", lambda facts: 4 * facts.parameters),
        (
            {"kind": "nf4", "skip": ["down_proj", "layers.0.mlp.up_proj"]},
            "weights_16bit",
            lambda facts: 2 * (facts.embeddings + facts.rest + 3 * 64 * 160),
        ),
    ],
)
def test_weights_by_how_they_are_stored(
    facts: BaseFacts, quantisation: dict[str, Any], part: str, count: Callable[[BaseFacts], float]
) -> None:
    load = workload(number_bytes=4 if "compute" in quantisation else 2)
    assert memory.stored_weights(facts, Quantisation.model_validate(quantisation), load)[part] == count(facts)


def test_all_weights_of_a_full_run_have_gradients_and_moments(facts: BaseFacts) -> None:
    made = recipe(adapter={"kind": "full"}, quantisation={"kind": "none"})
    found = make_plan(made, facts, DATA, machine=ROOMY)
    assert found.memory_bytes["weights_32bit"] == 4 * facts.parameters
    assert found.memory_bytes["weights_16bit"] == 2 * facts.linear  # copies for products in bf16
    assert found.memory_bytes["adapter"] == 0
    assert found.memory_bytes["gradients"] == 4 * facts.parameters
    assert found.memory_bytes["optimizer"] == 8 * facts.parameters
    assert "plain engine: the output layer is trained" in found.notes


@pytest.mark.parametrize(
    ("adapter", "more"),
    [
        ({"dora": True}, 2 * (64 + 32 + 32 + 64 + 160 + 160 + 64)),
        ({"vocabulary": "all"}, 1000 * 64),
        ({"vocabulary": ["<|im_start|>", "<|im_end|>"]}, 2 * 64),
        ({"layers": [1]}, -8 * (128 * 2 + 96 * 2 + 224 * 3)),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 10}}, 2 * 128),
        ({"rank_pattern": {"(q|k)_proj": 4}}, -4 * 2 * (128 + 96)),
    ],
)
def test_what_an_adapter_trains(facts: BaseFacts, adapter: dict[str, Any], more: int) -> None:
    plain = trained(facts, recipe(adapter={"rank": 8}).adapter)
    found = trained(facts, recipe(adapter={"rank": 8, **adapter}).adapter)
    assert found.parameters - plain.parameters == more


def test_pissa_keeps_its_start_and_eight_bit_moments_are_small(facts: BaseFacts) -> None:
    plain = make_plan(recipe(), facts, DATA, machine=ROOMY).memory_bytes
    pissa = make_plan(recipe(adapter={"init": "pissa"}), facts, DATA, machine=ROOMY).memory_bytes
    small = make_plan(recipe(finer={"optimizer": "adamw8bit"}), facts, DATA, machine=ROOMY).memory_bytes
    assert pissa["adapter"] == 2 * plain["adapter"]
    assert pissa["gradients"] == plain["gradients"]
    assert small["optimizer"] == pytest.approx(plain["optimizer"] / 4, rel=0.02)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    length=st.integers(16, 4096),
    rank=st.integers(1, 256),
    micro=st.integers(1, 8),
    more=st.integers(1, 500),
    engine=st.sampled_from(["auto", "plain"]),
    checkpointing=st.booleans(),
)
def test_more_of_anything_never_needs_less(
    facts: BaseFacts, length: int, rank: int, micro: int, more: int, engine: str, checkpointing: bool
) -> None:
    def needs(length: int = length, rank: int = rank, micro: int = micro) -> int:
        made = recipe(
            adapter={"rank": rank},
            rows={"max_length": length},
            batch_tokens=5000 * 20,
            run={"micro_rows": micro, "engine": engine, "gradient_checkpointing": checkpointing},
        )
        data = replace(DATA, longest=None)
        return make_plan(made, facts, data, machine=ROOMY).phases["training"]

    least = needs()
    # Both may be filled up to the same number of tokens, the shorter one with a document more.
    assert needs(length=length + more) > 0.999 * least
    assert needs(rank=rank + more) > least
    assert needs(micro=micro + 1) > least


@settings(derandomize=True, max_examples=50, deadline=None)
@given(tokens=st.integers(1000, 10**9), rows=st.integers(1, 10**6), more=st.integers(0, 10**6))
def test_more_data_never_takes_fewer_steps_or_less_time(
    facts: BaseFacts, tokens: int, rows: int, more: int
) -> None:
    made = recipe(epochs=1.5)
    speed = Speed(500.0, "measured")

    def planned(tokens: int, rows: int) -> tuple[int, int, float]:
        data = DataSize(tokens=tokens, supervised_tokens=tokens, rows=rows, documents=rows)
        plan = make_plan(made, facts, data, machine=ROOMY, speed=speed)
        assert plan.seconds == plan.tokens / 500
        return plan.steps, plan.tokens, plan.seconds or 0.0

    least = planned(tokens, rows)
    assert all(b >= a for a, b in zip(least, planned(tokens + more, rows), strict=True))
    assert planned(tokens, rows + more)[0] >= least[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_of_a_corpus_need_more_than_rows_that_are_alike(facts: BaseFacts, checkpointing: bool) -> None:
    made = recipe(rows={"max_length": 100}, batch_tokens=400, run={"gradient_checkpointing": checkpointing})
    alike, mixed = (make_plan(made, facts, data, machine=ROOMY).memory_bytes for data in (ALIKE, DATA))
    rest = sum(alike.values())
    more = (130_000_000 if checkpointing else 80_000_000) + 0.08 * rest
    assert mixed["fragmentation"] - alike["fragmentation"] == round(more)
    assert sum(mixed.values()) == rest + round(more)
    gpu = named_machine("h100")
    on_gpu = [make_plan(made, facts, data, machine=gpu).memory_bytes for data in (ALIKE, DATA)]
    assert on_gpu[0] == on_gpu[1]


def test_checkpointing_saves_and_long_documents_cost(facts: BaseFacts) -> None:
    def activations(longest: int, **run: Any) -> int:
        made = recipe(rows={"max_length": 2048}, run=run)
        return make_plan(made, facts, replace(DATA, longest=longest), machine=ROOMY).memory_bytes[
            "activations"
        ]

    assert activations(2048, gradient_checkpointing=True) < activations(2048) / 1.5
    assert activations(100) < activations(300) < activations(2048)


def test_attention_blocks_by_hand() -> None:
    assert memory.probability_entries(256, 256) == 256 * 256
    assert memory.probability_entries(300, 300) == 128 * 128 + 128 * 256 + 44 * 300
    assert memory.probability_entries(250, 100) == 2 * 128 * 128 + 64 * 64
    assert memory.probability_entries(298, 100) == 3 * 128 * 128
    assert memory.probability_entries(150, 100) == 128 * 128 + 64 * 64


def test_the_plain_path_pays_for_padding_and_logits(facts: BaseFacts) -> None:
    fast = make_plan(recipe(), facts, DATA, machine=ROOMY)
    plain = make_plan(recipe(run={"engine": "plain"}), facts, DATA, machine=ROOMY)
    assert plain.memory_bytes["logits"] > 4 * fast.memory_bytes["logits"]
    tokens = 4 * 700  # four documents a row, padded to the longest
    assert plain.memory_bytes["logits"] == tokens * 64 * 6 + tokens * 1000 * 12
    assert "plain engine: asked for by train.run.engine" in plain.notes
    assert not any("plain engine" in note for note in fast.notes)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_shared_base_takes_the_plain_path(facts: BaseFacts, strategy: Literal["fsdp2", "zero3"]) -> None:
    shared = recipe().model_copy(update={"launch": Launch(processes=2, strategy=strategy)})
    found = make_plan(shared, facts, DATA, machine=ROOMY)
    plain = make_plan(recipe(run={"engine": "plain"}), facts, DATA, machine=ROOMY)
    assert found.memory_bytes["logits"] == plain.memory_bytes["logits"]
    assert any(note.startswith(f"plain engine: {strategy} gathers") for note in found.notes)
    assert any("counted with the whole base" in note for note in found.notes)
    small = replace(ROOMY, memory_available_bytes=sum(found.memory_bytes.values()) // 2)
    changes = make_plan(shared, facts, DATA, machine=small).changes
    assert changes
    assert not any("train.run.engine" in change.values for change in changes), "another engine is no way out"


@pytest.mark.parametrize(
    ("config", "adapter", "words"),
    [
        ({"use_sliding_window": True}, {}, "sliding_attention"),
        ({"model_type": "exaone4"}, {}, "no equality test"),
        ({}, {"dropout": 0.1}, "dropout"),
    ],
)
def test_reasons_for_the_plain_path_are_told(
    tmp_path: Path, config: dict[str, Any], adapter: dict[str, Any], words: str
) -> None:
    other = read_base_facts(write_base(tmp_path, {**SMALL, **config}, decoder(64, 64, 32, 160, 2, 1000)))
    notes = make_plan(recipe(adapter=adapter), other, DATA, machine=ROOMY).notes
    assert any(note.startswith("plain engine") and words in note for note in notes)


def test_targets_that_match_nothing_are_refused(facts: BaseFacts) -> None:
    with pytest.raises(EnvironmentFault, match="match no layer") as caught:
        make_plan(recipe(adapter={"targets": ["nothing"]}), facts, DATA, machine=ROOMY)
    assert "q_proj" in str(caught.value.fix)


def test_named_targets_get_an_adapter_and_no_others(facts: BaseFacts) -> None:
    made = recipe(adapter={"rank": 4, "targets": ["q_proj", "v_proj"]})
    found = adapted_linears(facts, made.adapter)
    assert {shape.name.rsplit(".", 1)[-1] for shape in found} == {"q_proj", "v_proj"}
    assert trained(facts, made.adapter).parameters == 2 * 4 * (128 + 96)


# --- data, notes, time, machine


def test_an_estimate_says_that_it_is_one(facts: BaseFacts) -> None:
    made = recipe(rows={"max_length": 1000})
    data = estimate_data(3_000_001, 700, made.train)
    assert (data.tokens, data.rows, data.documents) == (1_000_001, 1001, 700)
    notes = make_plan(made, facts, data, machine=ROOMY).notes
    assert any("guess from 3,000,001 bytes at 3 bytes a token" in note for note in notes)
    assert estimate_data(9, 700, recipe(rows={"packing": False}).train).rows == 700
    with pytest.raises(DataRefused):
        estimate_data(0, 1, made.train)


def test_a_smaller_last_step_and_a_smaller_batch_are_told(facts: BaseFacts) -> None:
    notes = make_plan(recipe(batch_tokens=3500), facts, DATA, machine=ROOMY).notes
    assert "the last step has 1 of 3 rows" in notes
    assert "a step holds 3072 of 3500 batch_tokens" in notes


def test_flop_by_hand(facts: BaseFacts) -> None:
    made = recipe(adapter={"rank": 8}, rows={"max_length": 100})
    per_token = (
        4 * facts.linear + 6 * 2 * 8 * (128 * 2 + 96 * 2 + 224 * 3) + 6 * 2 * 64 * 100 + 4 * 64_000 * 0.5
    )
    assert work_flop(made, facts, 10, supervised=0.5) == 10 * per_token
    machine = replace(ROOMY, flops=1e9)
    plan = make_plan(made, facts, replace(DATA, supervised_tokens=45_000), machine=machine)
    assert plan.seconds == pytest.approx(90_000 * per_token / 1e9)


def report(total: int, speed: float) -> TrainReport:
    text = {
        "steps": 1, "tokens": 1, "supervised_tokens": 1, "seconds": 1.0, "tokens_per_second": speed,
        "first_loss": 2.0, "last_loss": 1.0, "mean_loss_last_10": 1.0, "trainable_parameters": 100,
        "total_parameters": total, "peak_rss_bytes": 1, "device": "cpu", "engine": "fast", "engine_notes": [],
        "targets": [], "resumed_from": [], "adapter_files": [], "versions": {}, "started_at": "2026-11-22",
    }  # fmt: skip
    return from_json(TrainReport, json.dumps(text))


def test_time_comes_from_the_newest_run_of_the_same_base(tmp_path: Path, facts: BaseFacts) -> None:
    runs = [("old", 100, 300.0), ("new", 100, 400.0), ("other-base", 7, 999.0)]
    for age, (name, extra, speed) in enumerate(runs):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(to_json(report(facts.parameters + extra, speed)))
        os.utime(tmp_path / name / "train.json", (1000 + age, 1000 + age))
    found = previous_speed(tmp_path, facts)
    assert found.tokens_per_second == 400
    plan = make_plan(recipe(), facts, DATA, machine=ROOMY, speed=found)
    assert plan.seconds == 90_000 / 400
    assert any("run new: 400 tokens/s" in note for note in plan.notes)


def test_without_a_run_time_is_unknown_and_unreadable_runs_are_named(
    tmp_path: Path, facts: BaseFacts
) -> None:
    (tmp_path / "ancient").mkdir()
    (tmp_path / "ancient" / "train.json").write_text("{}")
    plan = make_plan(recipe(), facts, DATA, machine=ROOMY, speed=previous_speed(tmp_path, facts))
    assert plan.seconds is None
    assert "ancient" in plan.notes[-1]
    assert "not estimated" in make_plan(recipe(), facts, DATA, machine=ROOMY).notes[-1]


def test_the_group_whose_memory_is_limited(tmp_path: Path) -> None:
    """Version 1 has a tree for each controller, version 2 one for all."""
    assert group_of(["8:memory:/job/step", "2:cpuacct,cpu:/other", "0::/"]) == "/job/step"
    assert group_of(["0::/user.slice"]) == "/user.slice"
    assert group_of([]) == "/"
    group = tmp_path / "memory" / "job"
    group.mkdir(parents=True)
    for name, value in (("memory.limit_in_bytes", "5000"), ("memory.usage_in_bytes", "4500")):
        (group / name).write_text(value)
    (group / "memory.stat").write_text("total_inactive_file 300\n")
    assert group_room(tmp_path, "/job/below") == 800


def test_memory_limits_of_containers_count(tmp_path: Path) -> None:
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    for place, limit, used, files in ((tmp_path / "job", "5000", "4000", 1500), (group, "max", "10", 0)):
        (place / "memory.max").write_text(limit + "\n")
        (place / "memory.current").write_text(used + "\n")
        (place / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    assert group_room(tmp_path, "/job/step") == 2500
    assert group_room(tmp_path / "job" / "step", "/") is None
    assert group_room(tmp_path / "none", "/gone") is None


def test_memory_of_a_gpu_comes_from_its_driver(
    tmp_path: Path, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(run={"device": "cuda"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="memory of the CUDA device is unknown"):
        make_plan(made, facts, DATA)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 24000\n")
    program.chmod(0o755)
    plan = make_plan(made, facts, DATA)
    assert plan.memory_available_bytes == 24_000 << 20
    assert plan.memory_bytes["runtime"] == memory.RUNTIME_GPU
    assert "plain engine: the device is cuda" in plan.notes


def test_this_machine_has_memory() -> None:
    assert GIB // 8 < this_machine("auto").memory_available_bytes < 2**50


def test_planning_needs_no_heavy_library_and_little_time(tmp_path: Path) -> None:
    write_base(tmp_path, SMALL, decoder(64, 64, 32, 160, 80, 1000))
    code = (
        "import sys, time, pathlib\n"
        "from sovtune.plan import *\n"
        "from sovtune.recipe import Recipe\n"
        f"recipe = Recipe.model_validate_json({recipe().model_dump_json()!r})\n"
        "started = time.process_time()\n"
        f"facts = read_base_facts(pathlib.Path({str(tmp_path)!r}))\n"
        "data = DataSize(tokens=10**6, supervised_tokens=10**6, rows=1000, documents=1000)\n"
        "make_plan(recipe, facts, data)\n"
        "print(time.process_time() - started)\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


def test_rows_that_glibc_maps_by_themselves_leave_fewer_holes(facts: BaseFacts) -> None:
    """With checkpointing holes grow with the activations, more slowly once a row of the feed-forward block has 32 MB."""
    tokens = memory.HEAP_LARGEST // (2 * facts.intermediate)

    def holes(length: int) -> float:
        run = {"gradient_checkpointing": True}
        made = recipe(rows={"max_length": length}, batch_tokens=length, run=run)
        plan = make_plan(made, facts, replace(ALIKE, longest=100), machine=ROOMY)
        held = plan.memory_bytes["fragmentation"] + plan.memory_bytes["logits"] / 4
        return held / plan.others["activations_without_checkpointing"]

    assert holes(tokens * 9 // 10) == pytest.approx(memory.HEAP_FLOOR)
    assert holes(tokens * 11 // 10) == pytest.approx(memory.HEAP_FLOOR_MAPPED)
