"""Every kind of adapter on real tiny architectures: starts as the base, resumes, saves and loads, leaves the base alone."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sovtune.adapter_setup import prepare_dora, untrained_adapters
from sovtune.errors import EnvironmentFault, UsageError
from sovtune.fastpath.peft_layers import frozen_weight
from sovtune.model import load_base, load_with_adapter, load_with_new_adapter
from sovtune.recipe import Recipe
from sovtune.recipe_adapter import Adapter
from sovtune.recipe_base import Quantisation
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(8)
IDS = torch.tensor([[5, 6, 7, 8, 9, 1, 2, 40]])
BY_HAND = ("q_proj", "v_proj", "down_proj")
"""Targets for types that families.yaml does not list."""


@dataclass(frozen=True)
class Kind:
    """An adapter and how its base is stored; ``start`` is how far the first logits may be from the base's."""

    adapter: dict[str, Any] = field(default_factory=dict)
    storage: str = "none"
    start: float = 0.0
    compute: str = "float32"

    def recipe(self, arch: str = "llama", **run: Any) -> Recipe:
        usual = {"kind": "lora" if self.storage == "none" else "qlora", "rank": 4, "alpha": 8}
        if arch == "gemma":
            usual["targets"] = BY_HAND
        settings = self.adapter if self.adapter.get("kind") == "full" else usual | self.adapter
        plain = make_recipe(**run)
        stored = Quantisation(kind=self.storage, compute=self.compute)
        return plain.model_copy(
            update={
                "adapter": Adapter(**settings),
                "base": plain.base.model_copy(update={"quantisation": stored}),
            }
        )


TOKENS = ("<|im_start|>", "<|im_end|>")
KINDS = {
    "lora": Kind(),
    "dora": Kind({"dora": True}),
    "rslora": Kind({"rslora": True}),
    # fp32 rounding: B A - B0 A0 is summed in one product
    "pissa": Kind({"init": "pissa"}, start=5e-6),
    "pissa, scaled by layer": Kind(
        {"init": "pissa", "rslora": True, "rank_pattern": {"q_proj": 6}}, start=5e-6
    ),
    "layers": Kind({"layers": (1,)}),
    "rank_pattern": Kind({"rank_pattern": {"layers.0.mlp.down_proj": 2, "q_proj": 8}}),
    "tokens": Kind({"vocabulary": TOKENS}),
    "all rows": Kind({"vocabulary": "all"}),
    "full": Kind({"kind": "full"}),
    "nf4, dora": Kind({"dora": True}, "nf4"),
    "nf4, pissa": Kind({"init": "pissa"}, "nf4", start=5e-6),
    "nf4, loftq": Kind({"init": "loftq"}, "nf4", start=math.inf),
    "nf4, tokens": Kind({"vocabulary": TOKENS}, "nf4"),
    "fp4": Kind({}, "fp4"),
    "int8": Kind({}, "int8"),
    "int8, dora": Kind({"dora": True}, "int8"),
}
ARCHITECTURES = ("llama", "qwen2", "qwen3", "glm4", "gemma")
CHOSEN = [
    ("dora", "qwen2"),
    ("pissa", "glm4"),
    ("pissa, scaled by layer", "gemma"),
    ("all rows", "llama"),
    ("full", "qwen3"),
    ("nf4, loftq", "qwen2"),
    ("int8", "qwen3"),
]
"""What every run of the tests looks at; the rest of the table is slow."""
ALL = [
    pytest.param(
        name,
        arch,
        (row + column) % 2 == 0,
        id=f"{name}-{arch}-{'tied' if (row + column) % 2 == 0 else 'untied'}",
        marks=() if (name, arch) in CHOSEN else pytest.mark.slow,
    )
    for row, name in enumerate(KINDS)
    for column, arch in enumerate(ARCHITECTURES)
]


def by_name(*chosen: str, slow: tuple[str, ...] = ()):
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in (*chosen, *slow)]


def causal(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def logits(model, ids=IDS):
    """Logits in evaluation, with the attention that any transformers model has."""
    causal(model).set_attn_implementation("sdpa")
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits


def reference(base, recipe, *, fast=True):
    """The base as transformers alone loads it; ``fast``: its weights multiplied as the fast path does."""
    stored = recipe.base.quantisation
    model = load_base(base, stored, "cpu")
    if not fast and not recipe.adapter.dora:
        return model
    if stored.kind == "int8":
        dense = load_base(base, Quantisation(kind="none", compute=stored.compute), "cpu")
        for name, module in model.named_modules():
            if type(module).__name__ == "Linear8bitLt":
                dense.get_submodule(name).weight.data = frozen_weight(module).to(dense.dtype)
        return dense
    if stored.kind != "none":
        prepare_dora(model)  # bitsandbytes' own CPU kernel works in bf16 whatever the dtype
    return model


class Stop(Exception):
    """Stands for a crash in the middle of a run."""


def crash(metrics, of):
    if metrics.step == 3:
        raise Stop


@pytest.mark.parametrize(("name", "arch", "tied"), ALL)
def test_an_adapter_starts_as_the_base_resumes_and_leaves_it_alone(tmp_path, name, arch, tied):
    kind = KINDS[name]
    recipe = kind.recipe(arch)
    base = make_base(tmp_path / "base", arch, tied=tied, hidden=64)
    if (name, arch) == ("int8, dora", "gemma"):
        pytest.skip("refused: gemma takes the plain engine, where PEFT loses the scales")
    fresh = load_with_new_adapter(recipe, base)
    expected = logits(reference(base, recipe, fast=fresh.fast))
    assert float((logits(fresh.model) - expected).abs().max()) <= kind.start
    assert fresh.fast == (arch != "gemma" and not recipe.adapter.trains_output)

    straight = train(recipe, base, tmp_path / "straight", ROWS, steps=3)
    with pytest.raises(Stop):
        train(recipe, base, tmp_path / "run", ROWS, steps=3, progress=crash)
    resumed = train(recipe, base, tmp_path / "run", ROWS, steps=3, resume=True)
    assert resumed.resumed_from == 2
    assert losses(resumed) == losses(straight)
    for file in straight.adapter.glob("*.safetensors"):
        again = load_file(resumed.adapter / file.name)
        assert all(torch.equal(again[key], tensor) for key, tensor in load_file(file).items())

    if name == "full":
        trained = logits(load_with_adapter(straight.adapter, recipe.base.quantisation, None).model)
    else:
        model = load_with_adapter(base, recipe.base.quantisation, straight.adapter).model
        trained = logits(model)
        with model.disable_adapter():
            torch.testing.assert_close(logits(model), expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(
            logits(in_plain_peft(base, recipe, straight, fast=fresh.fast)), trained, rtol=0, atol=5e-6
        )
    assert float((trained - expected).abs().max()) > 0.02


def in_plain_peft(base, recipe, outcome, *, fast=True):
    """The saved adapter on the untouched base, loaded by PEFT alone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(reference(base, recipe, fast=fast), str(outcome.adapter))


@pytest.mark.parametrize("name", by_name("nf4, pissa", "full", slow=("dora", "pissa", "all rows")))
def test_what_is_saved_is_what_was_trained(tmp_path, recwarn, name):
    """The model in memory after training against its saved form, to the last digit that fp32 allows."""
    from sovtune.train.engine import TrainJob, run

    recipe = KINDS[name].recipe()
    base = make_base(tmp_path / "base", hidden=64)
    loaded = load_with_new_adapter(recipe, base)
    job = TrainJob(
        recipe=recipe, rows=ROWS, steps=2, rows_per_step=2, tokenizer_folder=base, run_dir=tmp_path,
        fingerprint="x", progress=lambda metrics, of: None,
    )  # fmt: skip
    outcome = run(job, loaded, resume=False)
    assert not [warning for warning in recwarn if "remote file" in str(warning.message)], "it asked the Hub"
    if name == "full":
        saved = load_with_adapter(outcome.adapter, recipe.base.quantisation, None).model
        assert outcome.adapter.name == "model"
        assert "lm_head.weight" not in load_file(outcome.adapter / "model.safetensors"), "it is tied"
        assert "_name_or_path" not in json.loads((outcome.adapter / "config.json").read_text())
    else:
        saved = in_plain_peft(base, recipe, outcome)
    torch.testing.assert_close(logits(saved), logits(loaded.model), rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", by_name("nf4, dora", "nf4, pissa", slow=("dora", "pissa", "nf4, loftq")))
def test_both_engines_train_alike(tmp_path, name):
    base = make_base(tmp_path / "base", "qwen2", hidden=64)
    kind = KINDS[name]
    fast = train(kind.recipe(), base, tmp_path / "fast", ROWS, steps=2)
    plain = train(kind.recipe(engine="plain"), base, tmp_path / "plain", ROWS, steps=2)
    assert losses(fast) == pytest.approx(losses(plain), rel=1e-4)


def test_pissa_is_that_of_peft(tmp_path):
    """PEFT moves the principal part out of the weights; the values and the gradients are the same."""
    from peft import LoraConfig, get_peft_model

    base = make_base(tmp_path / "base", "qwen2", hidden=64)
    recipe = KINDS["pissa"].recipe(engine="plain")
    mine = load_with_new_adapter(recipe, base).model
    targets = sorted(mine.peft_config["default"].target_modules)
    theirs = get_peft_model(
        load_base(base, recipe.base.quantisation, "cpu"),
        LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, init_lora_weights="pissa", task_type="CAUSAL_LM"
        ),
    )
    for model in (mine, theirs):
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        if parameter.requires_grad:
            other = gradients[name]
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_loftq_makes_up_for_what_four_bits_lost(tmp_path):
    """Every layer is nearer to its weight before quantisation, by exactly the largest singular values of the loss."""
    from sovtune.adapter_start import lora_layers

    base = make_base(tmp_path / "base", hidden=64)
    whole = load_base(base, Quantisation(kind="none", compute="float32"), "cpu")
    kind = Kind({"init": "loftq", "rslora": True}, "nf4")
    for name, layer in lora_layers(load_with_new_adapter(kind.recipe(), base).model):
        lost = whole.get_submodule(name).weight - frozen_weight(layer.get_base_layer()).float()
        left = lost - layer.get_delta_weight("default")
        smaller = torch.linalg.svdvals(lost)[4:].square().sum()
        torch.testing.assert_close(left.square().sum(), smaller, rtol=1e-3, atol=0)


def test_large_weights_are_split_by_random_projection():
    from sovtune.fastpath.principal import EXACT_SVD, principal_vectors

    torch.manual_seed(0)
    size, rank = EXACT_SVD + 1, 4
    weight = torch.randn(size, 8) @ torch.randn(8, size) + 0.01 * torch.randn(size, size)
    a, b = principal_vectors(weight, rank, 2.0)
    u, values, vt = torch.linalg.svd(weight)
    exact = (u[:, :rank] * values[:rank]) @ vt[:rank]
    torch.testing.assert_close(2.0 * b @ a, exact, rtol=0, atol=1e-3 * float(exact.abs().max()))


def test_dora_starts_as_a_bf16_base_to_the_bit(tmp_path):
    """PEFT's own magnitudes are rounded to bf16 and start up to 0.4 % away."""
    base = make_base(tmp_path / "base", "qwen2", dtype="bfloat16", hidden=64)
    recipe = Kind({"dora": True}, compute="bfloat16").recipe()
    expected = logits(load_base(base, recipe.base.quantisation, "cpu"))
    assert torch.equal(logits(load_with_new_adapter(recipe, base).model), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_named_rows_move(tmp_path, tied):
    base = make_base(tmp_path / "base", "qwen2", tied=tied, hidden=64)
    recipe = KINDS["tokens"].recipe()
    outcome = train(recipe, base, tmp_path / "run", ROWS, steps=2)
    model = load_with_adapter(base, recipe.base.quantisation, outcome.adapter).model.merge_and_unload()
    whole = load_base(base, recipe.base.quantisation, "cpu")
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(whole, layer)().weight, getattr(model, layer)().weight
        moved = (before != after).any(1).nonzero().flatten().tolist()
        assert moved == ([1, 2] if tied or layer == "get_output_embeddings" else [])
        # embedding rows of an untied base move only when their tokens are in the data, and these are not


@pytest.mark.parametrize(
    ("vocabulary", "message", "advice"),
    [
        (("<|im_strat|>",), "is no token of this base", "did you mean <|im_start|>"),
        (("⟦ko⟧",), "is written with", "must first be added"),
        (("<|im_start|>", "<|im_end|>", "!", "!!!!x"), "'!!!!x' is no token", "written with"),
    ],
)
def test_a_name_that_is_no_token_is_refused(tmp_path, vocabulary, message, advice):
    base = make_base(tmp_path / "base")
    with pytest.raises(UsageError) as caught:
        load_with_new_adapter(Kind({"vocabulary": vocabulary}).recipe(), base)
    assert message in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        (Kind({"layers": (1, 2)}), "adapter.layers", "no layer 2"),
        (Kind({"rank_pattern": {"q_prj": 8}}), "adapter.rank_pattern", "matches q_prj"),
        (Kind({"targets": ("q_proj", "c_attn")}), "adapter.targets", "called c_attn"),
        (Kind({"rank": 80, "init": "pissa"}), "adapter.rank", "rank 80 is more than"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, kind, where, message):
    base = make_base(tmp_path / "base", hidden=64)
    with pytest.raises(UsageError, match=message) as caught:
        load_with_new_adapter(kind.recipe(), base)
    assert caught.value.where == where


def test_layers_that_stay_unquantised(tmp_path):
    base = make_base(tmp_path / "base", "glm4", hidden=64)

    def linears(*skip):
        stored = Quantisation(kind="nf4", compute="float32", skip=skip)
        named = load_base(base, stored, "cpu").named_modules()
        return {name for name, module in named if type(module) is torch.nn.Linear}

    always = {"lm_head"}
    assert linears() == always
    down = {f"model.layers.{number}.mlp.down_proj" for number in (0, 1)}
    assert linears("down_proj") == always | down
    assert linears("layers.0.mlp.gate_up_proj") == always | {"model.layers.0.mlp.gate_up_proj"}
    with pytest.raises(EnvironmentFault, match="up_proj is no linear layer") as caught:
        linears("up_proj")  # the end of gate_up_proj, but not its last part
    assert "gate_up_proj" in str(caught.value)


def test_dora_on_int8_is_refused_where_peft_loses_the_scales(tmp_path):
    base = make_base(tmp_path / "base", hidden=64)
    with pytest.raises(EnvironmentFault, match="DoRA does not work on an int8 base"):
        load_with_new_adapter(KINDS["int8, dora"].recipe(engine="plain"), base)


# Going on from an earlier adapter


def going_on(recipe, folder, **changes):
    section = recipe.adapter.model_copy(update={"continue_from": str(folder), **changes})
    return recipe.model_copy(update={"adapter": section})


@pytest.mark.parametrize("name", by_name("tokens", slow=("lora", "dora", "all rows")))
def test_a_run_can_go_on_from_an_earlier_adapter(tmp_path, name):
    base = make_base(tmp_path / "base", hidden=64)
    recipe = KINDS[name].recipe()
    first = train(recipe, base, tmp_path / "first", ROWS, steps=2)
    expected = logits(load_with_adapter(base, recipe.base.quantisation, first.adapter).model)
    again = load_with_new_adapter(going_on(recipe, first.adapter), base)
    assert torch.equal(logits(again.model), expected)
    second = train(going_on(recipe, first.adapter), base, tmp_path / "second", ROWS, steps=2)
    assert losses(second)[0] != losses(first)[0]


def test_an_earlier_adapter_of_another_kind_is_refused_with_all_differences(tmp_path):
    base = make_base(tmp_path / "base", hidden=64)
    first = train(KINDS["lora"].recipe(), base, tmp_path / "first", ROWS, steps=1)
    other = going_on(KINDS["lora"].recipe(), first.adapter, rank=8, alpha=16.0, targets=("q_proj",))
    other = other.model_copy(update={"base": other.base.model_copy(update={"model": "test/other"})})
    with pytest.raises(UsageError, match="does not fit this recipe") as caught:
        load_with_new_adapter(other, base)
    why = str(caught.value.why)
    assert "adapter.rank: 4 there, 8 here" in why
    assert "adapter.alpha: 8.0 there, 16.0 here" in why
    assert "adapter.targets: [" in why and "base.model: test/tiny there, test/other here" in why
    with pytest.raises(UsageError, match=r"it has no adapter_config\.json"):
        load_with_new_adapter(going_on(KINDS["lora"].recipe(), base), base)


def test_a_pissa_adapter_goes_on_with_twice_the_rank(tmp_path):
    base = make_base(tmp_path / "base", hidden=64)
    first = train(KINDS["pissa"].recipe(), base, tmp_path / "first", ROWS, steps=2)
    config = json.loads((first.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16.0)
    recipe = going_on(KINDS["lora"].recipe(), first.adapter, rank=8, alpha=16.0)
    expected = logits(load_with_adapter(base, recipe.base.quantisation, first.adapter).model)
    torch.testing.assert_close(logits(load_with_new_adapter(recipe, base).model), expected, rtol=0, atol=2e-6)


# What must learn


def test_everything_that_is_trained_must_get_a_gradient(tmp_path):
    base = make_base(tmp_path / "base", hidden=64)
    for name in ("dora", "pissa", "all rows", "full"):
        model = load_with_new_adapter(KINDS[name].recipe(engine="plain"), base).model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert untrained_adapters(model) == []
        victims = [key for key, p in model.named_parameters() if p.requires_grad and "lora_A" not in key]
        parameters = dict(model.named_parameters())
        parameters[victims[0]].grad = None
        parameters[victims[-1]].grad = None
        assert set(untrained_adapters(model)) == {victims[0], victims[-1]}
