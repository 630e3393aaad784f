"""`sovtune plan` as a user runs it: at once and without torch, with a probe, for a GPU, and a recipe that fits."""

import json
import resource
import subprocess
import sys

import pytest
import yaml
from test_startup import HEAVY, PROBE

from cli_runs import environment, sovtune, write_project

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128_256, "tie_word_embeddings": False,
}  # fmt: skip
KEYS = {"fits", "memory_bytes", "steps", "tokens", "seconds", "energy_kwh", "changes"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    return folder, write_project(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A project whose base has the shapes of an 8B model and holes instead of weights."""
    folder = tmp_path_factory.mktemp("large")
    recipe = write_project(folder)
    hidden, middle, vocabulary = 4096, 14336, 128_256
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    for layer in range(32):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{name}_layernorm.weight": [hidden] for name in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{name}_proj.weight": [hidden, hidden] for name in "qo"}
        shapes |= {f"{at}self_attn.{name}_proj.weight": [1024, hidden] for name in "kv"}
        shapes |= {f"{at}mlp.{name}_proj.weight": [middle, hidden] for name in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = [hidden, middle]
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "base" / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    (folder / "base" / "config.json").write_text(json.dumps(LLAMA))
    values = yaml.safe_load(recipe.read_text())
    values["train"] |= {"batch_tokens": 16_384, "rows": {"max_length": 8192}}
    recipe.write_text(yaml.safe_dump(values))
    return folder, recipe


def planned(*arguments, folder, code=0):
    done = sovtune("plan", *arguments, "--json", folder=folder)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else done.stderr


def test_a_plan_has_its_documented_keys_and_its_parts_add_up(project):
    folder, recipe = project
    plan = planned(recipe, folder=folder)
    assert set(plan) >= KEYS
    total = plan["memory_bytes"].pop("total")
    assert total == sum(plan["memory_bytes"].values())
    assert plan["fits"] is True
    assert plan["changes"] == []
    assert plan["energy_kwh"] is None


def test_a_plan_of_a_large_base_loads_nothing_heavy_and_takes_less_than_a_second(large):
    """16 GB of weights are not read; CPU time, because other work on the machine hardly moves it."""
    folder, recipe = large
    command = [sys.executable, "-c", PROBE, "plan", str(recipe), "--gpu", "h100", "--json"]
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1].removeprefix("loaded:")))
    assert not loaded & (set(HEAVY) - {"pyarrow"}), loaded & set(HEAVY)
    assert min(taken) < 1, taken


def test_the_recipe_that_is_written_fits(large):
    folder, recipe = large
    plan = planned(recipe, "--gpu", "l4", "--apply", "fits.yaml", folder=folder)
    assert plan["fits"] is False
    assert plan["changes"]
    assert plan["applied"] == "fits.yaml"
    again = planned("fits.yaml", "--gpu", "l4", folder=folder)
    assert again["fits"] is True
    assert again["memory_bytes"]["total"] <= again["memory_available_bytes"]
    assert sovtune("check", "fits.yaml", folder=folder).returncode == 0
    assert "there already" in planned(recipe, "--gpu", "l4", "--apply", "fits.yaml", folder=folder, code=2)
    assert "mkdir -p" in planned(recipe, "--gpu", "l4", "--apply", "away/fits.yaml", folder=folder, code=2)
    (folder / ".new.yaml.part").mkdir()  # in the way of everybody, also of root
    said = planned(recipe, "--gpu", "l4", "--apply", "new.yaml", folder=folder, code=3)
    assert "cannot write the recipe" in said


def test_a_probe_measures_memory_and_time(project):
    folder, recipe = project
    plan = planned(recipe, "--probe", folder=folder)
    assert 200e6 < plan["memory_bytes"]["total"] < 2e9
    assert plan["seconds"] > 0
    assert plan["notes"][0].startswith("probe: ")
    assert "--probe or --gpu" in planned(recipe, "--probe", "--gpu", "l4", folder=folder, code=2)


def test_a_gpu_that_is_not_known_is_named(project):
    folder, recipe = project
    assert "no GPU is called l5" in planned(recipe, "--gpu", "l5", folder=folder, code=2)


def test_train_ends_with_its_documented_line(project):
    folder, recipe = project
    done = sovtune("train", recipe, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"run_dir", "steps", "tokens", "tokens_per_second", "peak_rss_bytes", "loss"}
    assert result["steps"] == 8
