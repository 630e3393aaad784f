"""Weights read tensor by tensor are the weights, and the file is never in memory whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from sovtune.errors import EnvironmentFault
from sovtune.model import load_base
from sovtune.quantise import quantisation_settings
from sovtune.recipe_base import Quantisation
from sovtune.weights import lazy_tensors, weight_files
from tiny_models import make_base

LARGE = """
import resource, sys
from pathlib import Path
from sovtune.model import load_base
from sovtune.quantise import quantisation_settings
from sovtune.recipe_base import Quantisation

import bitsandbytes, transformers  # what is in memory anyway

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_base(Path(sys.argv[1]), Quantisation(kind="nf4"), "cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_the_same_model_as_transformers_loads(tmp_path: Path, kind: str) -> None:
    folder = make_base(tmp_path / "base", "qwen2", hidden=64)
    quantisation = Quantisation(kind=kind, compute="float32")
    ours = load_base(folder, quantisation, "cpu")
    settings = quantisation_settings(quantisation)
    config = BitsAndBytesConfig(**settings) if settings else None
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    theirs = dict(plain.named_parameters())
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, theirs[name]), name
        if kind == "nf4" and hasattr(weight, "quant_state"):
            assert torch.equal(weight.quant_state.absmax, theirs[name].quant_state.absmax), name
        if kind == "int8" and hasattr(weight, "SCB"):
            assert torch.equal(weight.SCB, theirs[name].SCB), name
    quantised = sum(hasattr(weight, "quant_state") or hasattr(weight, "SCB") for weight in theirs.values())
    assert quantised == (0 if kind == "none" else 14)
    assert ours.generation_config.to_dict() == plain.generation_config.to_dict()


def test_shards_are_read_by_the_index_and_nothing_beside_them(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(2, 3)}, {"b": torch.zeros(4, dtype=torch.bfloat16)}
    save_file(one, tmp_path / "model-1.safetensors")
    save_file(two, tmp_path / "model-2.safetensors")
    save_file({"c": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    with lazy_tensors(tmp_path) as tensors:
        assert sorted(tensors) == ["a", "b"]
        assert (tensors["a"].get_shape(), tensors["b"].get_dtype()) == ([2, 3], "BF16")
        assert torch.equal(tensors["a"][...], one["a"])
        assert torch.equal(tensors["b"][1:3], two["b"][1:3])


def test_a_base_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EnvironmentFault, match="the base cannot be loaded"):
        load_base(folder, Quantisation(kind="none"), "cpu")


def test_the_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "llama", hidden=2048)
    size = (folder / "model.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(folder)], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout) * 1024
    assert size > 200 << 20
    assert grown < 0.75 * size, (
        grown,
        size,
    )  # a mapped file alone would be all of it, and 4 bits a quarter more
