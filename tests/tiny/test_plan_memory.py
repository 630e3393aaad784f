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
from sovtune.architecture import BaseFacts, read_base_facts
from sovtune.fastpath import attention, loss
from sovtune.model import load_with_new_adapter
from sovtune.recipe import Recipe

TOKENS = 96


def recipe(engine: str, *, compute: str = "bfloat16", targets: Any = "auto") -> Recipe:
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
                "quantisation": {"kind": "nf4", "compute": compute},
            },
            "adapter": {"rank": 8, "targets": targets},
            "data": [{"card": "card.yaml"}],
            "train": {"epochs": 1, "run": {"engine": engine, "device": "cpu"}},
            "card": {"licence": "MIT"},
        }
    )


def tiny_base(folder: Path, kind: type[PreTrainedConfig], layers: int) -> Path:
    config = kind(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        pad_token_id=0,
        tie_word_embeddings=True,
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
    load = memory.Workload(
        tokens=TOKENS,
        document=TOKENS // documents,
        fast=made.train.run.engine == "auto",
        checkpointing=False,
        rank=8,
        dropout=False,
        number_bytes=2,
    )
    return memory.saved_by_layer(facts, memory.adapted_linears(facts, made.adapter), load)


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


def test_parameters_and_adapter_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    folder = tiny_base(tmp_path, Qwen3Config, 2)
    made, facts = recipe("auto"), read_base_facts(folder)
    loaded = load_with_new_adapter(made, folder)
    linears = memory.adapted_linears(facts, made.adapter)
    assert memory.adapter_parameters(linears, 8) == loaded.trainable_parameters
    assert facts.parameters == loaded.total_parameters - loaded.trainable_parameters


def test_constants_are_those_of_the_fast_path() -> None:
    assert memory.QUERY_BLOCK == attention.QUERY_BLOCK
    assert memory.loss_chunk(loss.LARGE_VOCABULARY) == loss.CHUNK_LARGE_VOCABULARY
    assert memory.loss_chunk(loss.LARGE_VOCABULARY - 1) == loss.CHUNK


def test_the_loss_keeps_no_more_than_planned(tmp_path: Path) -> None:
    """The largest tensors the loss makes at once fit into what the plan sets aside for it."""
    facts = replace(read_base_facts(tiny_base(tmp_path, LlamaConfig, 1)), vocabulary=5000)
    hidden = torch.randn(1, 300, 64, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(5000, 64, dtype=torch.bfloat16)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        loss.next_token_loss(hidden, head, torch.randint(0, 5000, (1, 300)))
    live = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    load = memory.Workload(
        tokens=300, document=300, fast=True, checkpointing=False, rank=8, dropout=False, number_bytes=2
    )
    assert 0.9 * memory.loss_bytes(facts, load) < most <= memory.loss_bytes(facts, load)
