"""Bits per byte by a computation of its own: token by token, each with the context its window gives it."""

import math
import unicodedata

import pytest
import torch

from sovtune.data.template import read_format
from sovtune.errors import DataRefused
from sovtune.evaluate import bits
from sovtune.evaluate.bits import Piece, piece_losses, text_costs
from sovtune.evaluate.compare import prepare_attention
from sovtune.model import load_base
from sovtune.recipe_base import Quantisation
from tiny_models import make_base

WINDOW = 48
TEXTS = [
    "하늘은 파랗습니다.",
    "a",
    "The quick brown fox jumps over the lazy dog, and nobody knows why it would want to do so. " * 4,
    unicodedata.normalize("NFD", "전입신고는 이사한 날부터 열나흘 안에 해야 합니다."),
    "물은 낮은 데로 흐른다.\n그래서 강은 바다로 간다.",
    "0 1 2 3 4 5 6 7 8 9",
]


def expected(model, tokenizer, text: str, start_token: int | None) -> tuple[float, int, int]:
    """Bits, bytes and scored tokens of one text."""
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(normal, add_special_tokens=False).ids
    full = ids if start_token is None else [start_token, *ids]
    total = 0.0
    for place in range(1, len(full)):
        # Window k reads WINDOW tokens from k * WINDOW / 2 on; a token is scored in the first that reaches it.
        window = max(0, math.ceil((place - WINDOW + 1) / (WINDOW // 2)))
        context = full[window * (WINDOW // 2) : place]
        logits = model(input_ids=torch.tensor([context])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[full[place]])
    first = b"" if start_token is not None else tokenizer.decode(ids[:1]).encode()
    return total / math.log(2), len(normal.encode()) - len(first), len(full) - 1


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("together", [1, 70, 1024])
def test_texts_cost_what_their_tokens_cost(tmp_path, monkeypatch, kind, fast, together):
    folder = make_base(tmp_path / "base", kind)
    tokenizer = read_format(folder).tokenizer
    model = load_base(folder, Quantisation(kind="none", compute="float32"), "cpu").eval()
    start = tokenizer.encode("\n", add_special_tokens=False).ids[0]
    with torch.no_grad():
        wanted = [expected(model, tokenizer, text, start) for text in TEXTS]
    prepare_attention(model, fast)
    monkeypatch.setattr(bits, "TOGETHER", together)
    ticks, rows = [], []
    model.get_decoder().register_forward_hook(lambda *_: rows.append(1))
    costs = text_costs(
        model, tokenizer, TEXTS, start_token=start, max_length=WINDOW, tick=lambda *tick: ticks.append(tick)
    )
    assert [cost.bits for cost in costs] == pytest.approx([cost[0] for cost in wanted], rel=1e-5)
    assert [(cost.bytes, cost.tokens) for cost in costs] == [cost[1:] for cost in wanted]
    pieces = sum(1 + max(0, math.ceil((tokens + 1 - WINDOW) / (WINDOW // 2))) for _, _, tokens in wanted)
    assert pieces > len(TEXTS)
    assert len(rows) < pieces if fast and together > 1 else len(rows) == pieces
    assert ticks == [(done, len(TEXTS)) for done in range(1, len(TEXTS) + 1)]


def test_without_a_start_token_the_first_token_does_not_count(tmp_path):
    folder = make_base(tmp_path / "base")
    tokenizer = read_format(folder).tokenizer
    model = load_base(folder, Quantisation(kind="none", compute="float32"), "cpu").eval()
    with torch.no_grad():
        wanted = [expected(model, tokenizer, text, None) for text in TEXTS]
    prepare_attention(model, fast=True)
    costs = text_costs(
        model, tokenizer, TEXTS, start_token=None, max_length=WINDOW, tick=lambda done, of: None
    )
    assert [cost.bits for cost in costs] == pytest.approx([cost[0] for cost in wanted], rel=1e-5, abs=1e-9)
    assert [cost.tokens for cost in costs] == [cost[2] for cost in wanted]
    assert costs[-1].bytes == wanted[-1][1] < len(TEXTS[-1].encode())


def test_neighbours_in_a_row_do_not_matter(tmp_path):
    """The same piece among others, in bf16 and NF4 as a run evaluates."""
    folder = make_base(tmp_path / "base", hidden=64)
    model = load_base(folder, Quantisation(), "cpu")
    prepare_attention(model, fast=True)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(8, 300, (size,), generator=generator).tolist() for size in (40, 25, 33)]
    pieces = [Piece(ids=one, first=first) for one, first in zip(ids, (0, 7, 31), strict=True)]
    together = list(piece_losses(model, pieces))
    assert [len(losses) for losses in together] == [39, 17, 1]
    for piece, losses in zip(pieces, together, strict=True):
        (alone,) = piece_losses(model, [piece])
        torch.testing.assert_close(losses, alone, rtol=0.02, atol=0.02)
    others = [pieces[0], Piece(ids=ids[1][::-1], first=7), pieces[2]]
    torch.testing.assert_close(list(piece_losses(model, others))[2], together[2], rtol=0, atol=0)


def test_an_empty_text_is_refused_before_anything_is_computed(tmp_path):
    folder = make_base(tmp_path / "base", hidden=64)
    tokenizer = read_format(folder).tokenizer
    with pytest.raises(DataRefused, match="empty") as caught:
        text_costs(None, tokenizer, ["a", ""], start_token=1, max_length=8, tick=lambda done, of: None)
    assert caught.value.where == "document 2"
