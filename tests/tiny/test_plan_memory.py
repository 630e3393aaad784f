"""The plan's count of activations against what autograd really keeps, on tiny models loaded as by a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Glm4Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM

from sovtune import memory
from sovtune.adapter_shapes import trained
from sovtune.architecture import BaseFacts, read_base_facts
from sovtune.fastpath import attention, loss, peft_layers, shapes
from sovtune.model import load_with_new_adapter
from sovtune.recipe import Recipe

TOKENS = 96


def recipe(engine: str, *, compute: str = "bfloat16", storage: str = "nf4", **adapter: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "language": "ko",
            "seed": 1,
            "method": "cpt",
            "base": {
                "model": "org/tiny",
                "revision": "main",
                "licence": "MIT",
                "quantisation": {"kind": storage, "compute": compute},
            },
            "adapter": adapter if adapter.get("kind") == "full" else {"rank": 8, **adapter},
            "data": [{"card": "card.yaml"}],
            "train": {"epochs": 1, "run": {"engine": engine, "device": "cpu"}},
            "card": {"licence": "MIT"},
        }
    )


def tiny_base(folder: Path, kind: type[PreTrainedConfig], layers: int, *, tied: bool = True) -> Path:
    config = kind(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def kept_bytes(made: Recipe, folder: Path, documents: int) -> int:
    """Bytes of all storages autograd saves in the decoder's forward pass, without parameters and buffers."""
    loaded = load_with_new_adapter(made, folder)
    assert loaded.fast == (made.train.run.engine == "auto")
    model = loaded.model.train()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: list[torch.Tensor] = []  # alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        return tensor

    inputs: dict[str, Any] = {"input_ids": torch.arange(TOKENS)[None]}
    if loaded.fast:
        inputs["document_bounds"] = [i * TOKENS // documents for i in range(documents + 1)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.get_base_model().get_decoder()(**inputs, use_cache=False).last_hidden_state
    assert out.requires_grad
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    return sum(size for address, size in storages.items() if address not in own)


def planned_bytes(made: Recipe, facts: BaseFacts, documents: int) -> int:
    load = workload(
        tokens=TOKENS,
        document=TOKENS // documents,
        fast=made.train.run.engine == "auto",
        dora=made.adapter.dora,
    )
    return memory.saved_by_layer(facts, trained(facts, made.adapter), load)


def workload(**changes: Any) -> memory.Workload:
    values = {
        "tokens": 8, "document": 8, "fast": True, "gpu": False, "checkpointing": False, "dropout": False, "dora": False,
        "full": False, "number_bytes": 2, "optimizer": "adamw", "answer_tokens": 0,
    }  # fmt: skip
    return memory.Workload(**{**values, **changes})


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config, Glm4Config])
def test_a_layer_keeps_what_the_plan_counts(
    tmp_path: Path, kind: type[PreTrainedConfig], engine: str
) -> None:
    """Two models that differ by one layer: what the larger one keeps more is that layer's."""
    made, documents = recipe(engine), 2 if engine == "auto" else 1
    three = kept_bytes(made, tiny_base(tmp_path / "3", kind, 3), documents)
    two = kept_bytes(made, tiny_base(tmp_path / "2", kind, 2), documents)
    facts = read_base_facts(tmp_path / "3")
    # glm4 makes cosines and sines of its own in each layer: 32 bytes a token
    own = 32 * TOKENS if kind is Glm4Config else 0
    assert three - two == planned_bytes(made, facts, documents) + own


def test_fewer_targets_keep_less_and_the_plan_knows(tmp_path: Path) -> None:
    made = recipe("auto", targets=["q_proj", "down_proj"])
    three = kept_bytes(made, tiny_base(tmp_path / "3", LlamaConfig, 3), 1)
    two = kept_bytes(made, tiny_base(tmp_path / "2", LlamaConfig, 2), 1)
    facts = read_base_facts(tmp_path / "3")
    assert three - two == planned_bytes(made, facts, 1)
    assert three - two < planned_bytes(recipe("auto"), facts, 1)


@pytest.mark.parametrize(
    "adapter",
    [
        {"dora": True},
        {"dora": True, "targets": ["q_proj", "o_proj"]},
        {"dora": True, "targets": ["up_proj"]},
        {"targets": ["q_proj", "v_proj"]},
        {"targets": ["up_proj", "k_proj"]},
        {"init": "pissa"},
        {"rank_pattern": {"q_proj": 24}},
    ],
)
def test_other_adapters_keep_what_the_plan_counts(tmp_path: Path, adapter: dict[str, Any]) -> None:
    made = recipe("auto", **adapter)
    three = kept_bytes(made, tiny_base(tmp_path / "3", LlamaConfig, 3), 1)
    two = kept_bytes(made, tiny_base(tmp_path / "2", LlamaConfig, 2), 1)
    assert three - two == planned_bytes(made, read_base_facts(tmp_path / "3"), 1)


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"dora": True},
        {"layers": [1]},
        {"rank_pattern": {"layers.0.*": 3, "down_proj": 5}},
        {"vocabulary": "all"},
        {"kind": "full"},
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_and_adapter_are_those_of_the_loaded_model(
    tmp_path: Path, adapter: dict[str, Any], tied: bool
) -> None:
    folder = tiny_base(tmp_path, Qwen3Config, 2, tied=tied)
    made = recipe("auto", storage="none" if adapter.get("kind") == "full" else "nf4", **adapter)
    facts = read_base_facts(folder)
    loaded = load_with_new_adapter(made, folder)
    found = trained(facts, made.adapter)
    assert found.parameters == loaded.trainable_parameters
    if made.adapter.kind == "full":
        assert facts.parameters == loaded.total_parameters
    elif not adapter.get("vocabulary"):
        assert facts.parameters == loaded.total_parameters - loaded.trainable_parameters


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8", "none"])
def test_weights_take_the_bytes_that_the_plan_counts(tmp_path: Path, kind: str) -> None:
    """All that a loaded base keeps, quantisation constants included, within 2 % (codebooks and small buffers)."""
    folder = tiny_base(tmp_path, LlamaConfig, 8)
    made = recipe("auto", storage=kind, kind="lora" if kind == "none" else "qlora")
    model = load_with_new_adapter(made, folder).model
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor | None) -> None:
        if tensor is not None:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    for parameter in model.parameters():
        if parameter.requires_grad:
            continue
        hold(parameter.data)
        hold(getattr(parameter, "SCB", None))
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            hold(state.absmax)
            hold(state.state2.absmax)
    planned = memory.stored_weights(read_base_facts(folder), made.base.quantisation, workload())
    assert sum(held.values()) == pytest.approx(sum(planned.values()), rel=0.02)


def test_constants_are_those_of_the_fast_path() -> None:
    assert (memory.QUERY_BLOCK, memory.LENGTH_STEP) == (attention.QUERY_BLOCK, attention.LENGTH_STEP)
    assert memory.SMALL_LAYER == peft_layers.SMALL_LAYER
    assert all(memory.filled_up(count) == shapes.rounded(count) for count in range(1, 5000))
    assert memory.HEAD_ROWS == shapes.HEAD_ROWS
    assert (memory.LOSS_CHUNK, memory.LOSS_AT_ONCE) == (loss.CHUNK, loss.AT_ONCE)


@pytest.mark.parametrize("tokens", [300, 256, 100])
def test_the_loss_keeps_no_more_than_planned(tmp_path: Path, tokens: int) -> None:
    """What the loss makes at once fits into what the plan sets aside for it, a last chunk of one row less included."""
    facts = replace(read_base_facts(tiny_base(tmp_path, LlamaConfig, 1)), vocabulary=5000)
    hidden = torch.randn(1, tokens, 64, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(5000, 64, dtype=torch.bfloat16)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        loss.next_token_loss(hidden, head, torch.randint(0, 5000, (1, tokens)))
    live = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    load = workload(tokens=tokens, document=tokens)
    assert 0.9 * memory.loss_bytes(facts, load) < most <= memory.loss_bytes(facts, load)
