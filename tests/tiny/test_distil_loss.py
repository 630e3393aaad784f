"""The loss with a teacher: against the whole divergence, against autograd, fast beside plain."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sovtune.fastpath.distil_loss import Shape, Taught, distillation_loss, divergence, kept
from sovtune.fastpath.loss import next_token_loss
from sovtune.train.objective import logits_distillation

VOCABULARY, WIDTH, TOKENS = 50, 8, 21


def case(seed: int = 0, dtype: torch.dtype = torch.float32):
    """Hidden states, a head, labels, and the logits of a teacher at the places with a label."""
    made = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, TOKENS, WIDTH, generator=made).to(dtype)
    head = torch.randn(VOCABULARY, WIDTH, generator=made).to(dtype)
    labels = torch.randint(VOCABULARY, (1, TOKENS), generator=made)
    labels[0, [0, 3, 4, 11]] = -100
    teacher = 2 * torch.randn(TOKENS - 4, VOCABULARY, generator=made)
    return hidden, head, labels, teacher


def whole_divergence(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of the whole vocabulary, as torch has it."""
    student = torch.log_softmax(logits.double() / temperature, -1)
    wanted = torch.log_softmax(teacher.double() / temperature, -1)
    return F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_all_tokens_but_one_are_the_whole_divergence(temperature):
    _, _, _, teacher = case()
    logits = torch.randn(len(teacher), VOCABULARY)
    found = divergence(
        torch.log_softmax(logits / temperature, -1), kept(teacher, VOCABULARY - 1, temperature)
    )
    assert found.double() == pytest.approx(whole_divergence(logits, teacher, temperature), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, VOCABULARY - 1), st.floats(0.1, 20))
def test_fewer_classes_are_never_more_apart(seed, top, temperature):
    _, _, _, teacher = case(seed)
    logits = torch.randn(len(teacher), VOCABULARY, generator=torch.Generator().manual_seed(seed + 1))
    found = divergence(torch.log_softmax(logits / temperature, -1), kept(teacher, top, temperature))
    assert (found >= -1e-5).all()
    assert (found <= whole_divergence(logits, teacher, temperature) + 1e-4).all()


def test_what_agrees_is_not_moved():
    """A teacher that is the model itself: no divergence and no gradient."""
    hidden, head, labels, _ = case()
    hidden.requires_grad_()
    places = (labels[0, 1:] != -100).nonzero().view(-1)
    own = kept((hidden[0, places] @ head.t()).detach(), 5, 2.0)
    loss = distillation_loss(hidden, head, labels, own, Shape(1.0, 2.0))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert hidden.grad.abs().max() < 1e-5


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (1.0, 2.5), (0.2, 0.7)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_fast_loss_is_the_plain_one(weight, temperature, dtype, near):
    hidden, head, labels, teacher = case(dtype=dtype)
    taught, shape = kept(teacher, 7, temperature), Shape(weight, temperature)
    ways = {}
    for name in ("fast", "plain"):
        states = hidden.clone().requires_grad_()
        if name == "fast":
            loss = distillation_loss(states, head, labels, taught, shape)
        else:
            loss = logits_distillation(states @ head.t(), labels, taught, shape)
        (loss / 3).backward()
        ways[name] = (loss.item(), states.grad.float())
    assert ways["fast"][0] == pytest.approx(ways["plain"][0], rel=near)
    assert torch.allclose(ways["fast"][1], ways["plain"][1], atol=near * ways["plain"][1].abs().max())


def test_by_hand_with_two_classes():
    """A vocabulary of three, one token kept: q = 0.5, r = 0.5, and a model that knows nothing."""
    log_p = torch.full((1, 3), math.log(1 / 3))
    half = torch.tensor([[math.log(0.5), math.log(0.5)]])
    by_hand = 0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 / (2 / 3))
    assert float(divergence(log_p, Taught(torch.tensor([[2]]), half))) == pytest.approx(by_hand)


def test_without_weight_for_the_teacher_it_is_the_usual_loss(monkeypatch):
    """In chunks of few rows, the last one filled up."""
    monkeypatch.setattr("sovtune.fastpath.loss.CHUNK", 5)
    monkeypatch.setattr("sovtune.fastpath.distil_loss.AT_ONCE", 2 * VOCABULARY)
    hidden, head, labels, teacher = case()
    taught = kept(teacher, 7, 1.0)
    ways = []
    for loss_of in (
        lambda x: next_token_loss(x, head, labels),
        lambda x: distillation_loss(x, head, labels, taught, Shape(1e-9, 1.0)),
    ):
        states = hidden.clone().requires_grad_()
        loss = loss_of(states)
        loss.backward()
        ways.append((loss.item(), states.grad))
    assert ways[0][0] == pytest.approx(ways[1][0], rel=1e-6)
    assert torch.allclose(ways[0][1], ways[1][1], atol=1e-6)


def test_a_confident_teacher_and_a_confident_model_stay_finite():
    """Probabilities of all others that fp32 cannot tell from 0 as a difference from 1."""
    teacher = torch.zeros(1, VOCABULARY)
    teacher[0, 3] = 200.0
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 4] = 200.0
    taught = kept(teacher, 1, 1.0)
    found = divergence(torch.log_softmax(logits, -1), taught)
    assert float(found) == pytest.approx(200.0, rel=1e-5)
