"""The fast path equals the plain path: losses, gradients, isolation of documents; in fp32 and bf16."""

import itertools
from collections import Counter

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sovtune.fastpath import attention, select
from sovtune.fastpath.blocks import LeanNorm
from sovtune.fastpath.loss import next_token_loss, token_losses
from sovtune.fastpath.shapes import filled, hidden_states, rounded
from sovtune.model import load_with_new_adapter
from sovtune.recipe_adapter import Adapter
from sovtune.train.rows import FlatCollator, PaddedCollator
from tiny_models import make_base
from tiny_runs import make_recipe, make_rows

KINDS = sorted(select.SUPPORTED_TYPES)


def loss_and_gradients(loaded, rows):
    """Sum of losses over the rows and the gradient of every adapter matrix."""
    model = loaded.model.train()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():  # B starts at zero: then A has no gradient to compare
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    base = model.get_base_model()
    if loaded.fast:
        batch = FlatCollator()(rows)
        hidden = base.get_decoder()(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"],
            document_bounds=batch["document_bounds"], use_cache=False,
        ).last_hidden_state  # fmt: skip
        loss = next_token_loss(hidden, base.get_output_embeddings().weight, batch["labels"])
    else:
        batch = PaddedCollator(0)(rows)
        loss = model(**batch, num_items_in_batch=1.0, use_cache=False).loss
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.requires_grad}
    return float(loss.detach()), gradients


def both(tmp_path, kind, *, tied=True, quantised=False, compute="float32", **adapter):
    base = make_base(tmp_path / "base", kind, tied=tied, dtype=compute)
    rows = list(make_rows(3, seed=1))

    def loaded(engine):
        recipe = make_recipe(quantised=quantised, compute=compute, engine=engine)
        changed = Adapter.model_validate({**recipe.adapter.model_dump(exclude_unset=True), **adapter})
        return load_with_new_adapter(recipe.model_copy(update={"adapter": changed}), base)

    fast, plain = loaded("auto"), loaded("plain")
    assert fast.fast
    assert not plain.fast
    return loss_and_gradients(fast, rows), loss_and_gradients(plain, rows)


def test_the_types_people_use_most_are_supported():
    assert {"llama", "qwen2", "qwen3"} <= select.SUPPORTED_TYPES


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fast_equals_plain_in_fp32(tmp_path, kind, tied):
    assert_equal(*both(tmp_path, kind, tied=tied))


def assert_equal(fast_result, plain_result):
    (fast_loss, fast), (plain_loss, plain) = fast_result, plain_result
    assert fast_loss == pytest.approx(plain_loss, rel=1e-5)
    assert fast.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(
            fast[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name
        )


@pytest.mark.parametrize(
    "adapter",
    [
        {"targets": ["q_proj", "v_proj"]},
        {"targets": ["down_proj"]},
        {"targets": ["up_proj", "k_proj"]},
        {"layers": [1]},
        {"dora": True, "targets": ["gate_proj", "o_proj"]},
    ],
)
def test_blocks_with_few_adapters_or_none_equal_plain_ones(tmp_path, adapter):
    """A feed-forward block is one function whichever of its layers learn, and layer by layer with DoRA."""
    assert_equal(*both(tmp_path, "llama", **adapter))


@pytest.mark.parametrize(("kind", "blocks", "norms"), [("llama", 2, 5), ("qwen3", 2, 9), ("glm4", 0, 9)])
def test_lean_blocks_take_the_place_of_those_they_equal(tmp_path, kind, blocks, norms):
    model = load_with_new_adapter(make_recipe(), make_base(tmp_path / "base", kind)).model
    kinds = Counter(type(module).__name__ for module in model.modules())
    assert (kinds["GatedFeedForward"], kinds["LeanNorm"]) == (blocks, norms)


def test_a_run_meets_few_numbers_of_tokens():
    """Each is rounded up by at most 3 %: numbers from 500 to 660 become twelve."""
    assert all(0 <= rounded(count) - count < max(1, count / 32) for count in range(5000))
    assert len({rounded(count) for count in range(500, 660)}) == 12
    assert [rounded(count) for count in (1, 63, 97, 500, 1025, 4096)] == [1, 63, 98, 504, 1056, 4096]


@pytest.mark.parametrize("tokens", [96, 97, 150])
def test_what_fills_a_row_up_changes_no_state(tmp_path, tokens):
    decoder = (
        load_with_new_adapter(make_recipe(), make_base(tmp_path / "base"))
        .model.get_base_model()
        .get_decoder()
    )
    ids, positions = torch.arange(3, 3 + tokens)[None], torch.arange(tokens)[None]
    straight = decoder(
        input_ids=ids, position_ids=positions, document_bounds=[0, tokens], use_cache=False
    ).last_hidden_state
    computed = []
    handle = decoder.embed_tokens.register_forward_hook(
        lambda _, given, __: computed.append(given[0].shape[1])
    )
    found = hidden_states(decoder, ids, positions, [0, tokens])
    handle.remove()
    assert computed == [rounded(tokens)]
    assert found.shape == straight.shape
    torch.testing.assert_close(found, straight)


@pytest.mark.parametrize(("rows", "wanted"), [(1, 16), (16, 16), (17, 32), (128, 128)])
def test_rows_for_the_head_are_filled_with_zeros(rows, wanted):
    given = torch.ones(rows, 3)
    assert filled(given).shape == (wanted, 3)
    assert filled(given).sum() == given.sum()
    assert torch.equal(filled(given)[:rows], given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lean_norm_has_the_gradient_of_the_plain_one(dtype):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(48, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(torch.rand(48) + 0.5)
    x = torch.randn(2, 7, 48, dtype=dtype, requires_grad=True)
    before = x.detach().clone()
    weight = torch.randn_like(x)
    mine, theirs = LeanNorm(norm)(x), norm(x)
    assert torch.equal(mine, theirs)
    (mine_dx,), (theirs_dx,) = (torch.autograd.grad((y * weight).sum(), x) for y in (mine, theirs))
    torch.testing.assert_close(mine_dx, theirs_dx)
    assert torch.equal(x, before)  # in fp32 nothing is copied that could be written to instead


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_fast_equals_plain_on_nf4_in_bf16(tmp_path, kind):
    (fast_loss, fast), (plain_loss, plain) = both(tmp_path, kind, quantised=True, compute="bfloat16")
    assert fast_loss == pytest.approx(plain_loss, rel=5e-3)
    cosines = [
        float(torch.nn.functional.cosine_similarity(fast[name].flatten(), gradient.flatten(), dim=0))
        for name, gradient in plain.items()
    ]
    assert min(cosines) > 0.98


LONG = [130, 1, 569]
SHORT = [5, 30, 31, 32, 33, 40, 64, 64, 1, 100, 97, 255, 256, 250]


@pytest.mark.parametrize("lengths", [LONG, SHORT, SHORT[::-1], [50] * 14, [*SHORT[:4], *LONG]])
def test_attention_is_that_of_each_document_alone(lengths):
    """Long documents are walked in blocks, short ones of nearly equal length go together."""
    torch.manual_seed(0)
    tokens, heads, kv_heads, size = sum(lengths), 4, 2, 8
    q, k, v = (torch.randn(tokens, h, size, requires_grad=True) for h in (heads, kv_heads, kv_heads))
    bounds = [0, *itertools.accumulate(lengths)]
    out = attention.DocumentAttention.apply(q, k, v, bounds, size**-0.5)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), (q, k, v))
    expected = torch.zeros_like(out)
    for a, b in itertools.pairwise(bounds):
        part = [
            x[a:b].transpose(0, 1)[None] for x in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        ]
        expected[a:b] = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True)[0].transpose(
            0, 1
        )
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(grads, torch.autograd.grad((expected * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_documents_of_a_row_do_not_see_each_other(tmp_path):
    base = make_base(tmp_path / "base")
    model = load_with_new_adapter(make_recipe(), base).model.get_base_model()
    first, second = list(range(5, 25)), list(range(40, 60))

    def hidden(ids):
        positions = torch.tensor([[*range(20), *range(20)]])
        out = model.get_decoder()(
            input_ids=torch.tensor([ids]),
            position_ids=positions,
            document_bounds=[0, 20, 40],
            use_cache=False,
        )
        return out.last_hidden_state[0, 20:]

    torch.testing.assert_close(hidden(first + second), hidden(first[::-1] + second), rtol=0, atol=0)
    changed = second.copy()
    changed[3] = 99  # the control: within a document a change does arrive
    assert float((hidden(first + second) - hidden(first + changed)).detach().abs().max()) > 1e-3


def test_without_document_bounds_the_attention_refuses(tmp_path):
    model = load_with_new_adapter(make_recipe(), make_base(tmp_path / "base")).model
    with pytest.raises(ValueError, match="document_bounds"):
        model(input_ids=torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_frozen_head_loss_is_cross_entropy(rows):
    torch.manual_seed(0)
    hidden = torch.randn(1, rows + 1, 16, requires_grad=True)
    head = torch.randn(50, 16)
    labels = torch.randint(0, 50, (1, rows + 1))
    labels[0, ::3] = -100
    labels[0, -1] = 7
    mine = next_token_loss(hidden, head, labels) * 0.5
    logits = hidden[:, :-1] @ head.t()
    theirs = (
        torch.nn.functional.cross_entropy(logits.reshape(-1, 50), labels[:, 1:].reshape(-1), reduction="sum")
        * 0.5
    )
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, hidden)[0] for loss in (mine, theirs)), rtol=1e-4, atol=1e-5
    )
    each = token_losses(hidden[0, :-1].detach(), head, labels[0, 1:].clamp(min=0))
    torch.testing.assert_close(each[labels[0, 1:] != -100].sum() * 0.5, theirs.detach())


def test_reasons_against_the_fast_path_are_named():
    from transformers import AutoConfig

    fine = AutoConfig.for_model("llama")
    assert select.blockers(fine, device="cpu", dropout=0.0) == []
    assert "cuda" in select.blockers(fine, device="cuda", dropout=0.0)[0]
    assert "dropout" in select.blockers(fine, device="cpu", dropout=0.1)[0]
    sliding = AutoConfig.for_model("qwen2", layer_types=["sliding_attention"] * 32, num_hidden_layers=32)
    assert "sliding_attention" in select.blockers(sliding, device="cpu", dropout=0.0)[0]
    assert "no equality test" in select.blockers(AutoConfig.for_model("gemma2"), device="cpu", dropout=0.0)[0]
