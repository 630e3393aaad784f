"""Losses by packages for GPUs: the engine hands them the right rows. Their kernels need CUDA and are stood in for by
what their documentation says they compute."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from sovtune.gpu_kernels import Kernels
from sovtune.model import load_with_new_adapter
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "qwen2", "qwen2")


def cut_cross_entropy(seen):
    def linear_cross_entropy(e, c, targets, *, ignore_index, reduction):
        seen.append(tuple(e.shape))
        return F.cross_entropy((e @ c.t()).float(), targets, ignore_index=ignore_index, reduction=reduction)

    module = ModuleType("cut_cross_entropy")
    module.linear_cross_entropy = linear_cross_entropy
    return {"cut_cross_entropy": module}


def liger_kernel(seen):
    class LigerFusedLinearCrossEntropyLoss:
        def __init__(self, *, ignore_index, label_smoothing, lse_square_scale, reduction):
            self.settings = {
                "ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction,
            }  # fmt: skip
            self.z_weight = lse_square_scale

        def __call__(self, lin_weight, _input, target):
            seen.append(tuple(_input.shape))
            logits = (_input @ lin_weight.t()).float()
            z = torch.logsumexp(logits[target != -100], -1).square().sum()
            return F.cross_entropy(logits, target, **self.settings) + self.z_weight * z

    module = ModuleType("liger_kernel.transformers")
    module.LigerFusedLinearCrossEntropyLoss = LigerFusedLinearCrossEntropyLoss
    return {"liger_kernel": ModuleType("liger_kernel"), "liger_kernel.transformers": module}


@pytest.mark.parametrize(
    ("kernel", "package", "finer"),
    [
        ("cut", cut_cross_entropy, {}),
        ("liger", liger_kernel, {}),
        ("liger", liger_kernel, {"label_smoothing": 0.1, "z_loss": 1e-2}),
    ],
)
def test_the_engine_trains_as_with_logits(base, tmp_path, monkeypatch, kernel, package, finer):
    seen: list[tuple[int, ...]] = []
    for name, module in package(seen).items():
        monkeypatch.setitem(sys.modules, name, module)
    recipe = make_recipe(engine="plain")
    section = recipe.train.model_copy(update={"finer": recipe.train.finer.model_copy(update=finer)})
    recipe = recipe.model_copy(update={"train": section})
    usual = train(recipe, base, tmp_path / "usual", ROWS, steps=3)
    assert not seen

    def load(*arguments):
        return replace(load_with_new_adapter(*arguments), kernels=Kernels(loss=kernel))

    monkeypatch.setattr("tiny_runs.load_with_new_adapter", load)
    other = train(recipe, base, tmp_path / "other", ROWS, steps=3)
    assert losses(other) == pytest.approx(losses(usual), rel=1e-5)
    assert len(seen) >= 3


@pytest.mark.parametrize(("kind", "loss"), [("qwen2", "cut"), ("phi", "torch")])
def test_an_output_layer_with_a_bias_keeps_torchs_loss(tmp_path, monkeypatch, kind, loss):
    """The packages multiply with its weight alone: phi would learn from other logits than it has."""
    from functools import partial

    from sovtune import model
    from sovtune.gpu_kernels import choose_kernels

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(model, "choose_kernels", partial(choose_kernels, installed=lambda name: "1.0"))
    kernels = model._gpu_kernels(make_recipe(compute="bfloat16"), make_base(tmp_path / kind, kind))
    assert kernels.loss == loss
    assert ("loss: torch (the output layer has a bias)" in kernels.notes) is (kind == "phi")
