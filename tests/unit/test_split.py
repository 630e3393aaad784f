"""Long running text is cut where a reader would pause, and nothing of it is lost."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.chat import Rendered
from sovtune.data.document import Document
from sovtune.data.split import cut, render_pieces
from sovtune.errors import DataRefused
from tiny_models import make_tokenizer

TOKENIZER = make_tokenizer()
BOS, EOS = 1, 2
SENTENCES = (
    "하늘은 파랗습니다. ", "그렇다. ", "어디로 가요? ", '"갔다." ', "\n\n", "\n", "السماء زرقاء. ", "أين المكتبة؟ ",
    "یہ کتاب ہے۔ ", "यह किताब है। ", "图书馆在哪里？", "空は青い。", "（終わり。）", "Version 3.5 is out. ", "긴단어" * 9, " ", "𠀀👍🏽",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=30).map("".join)


def pieces_of(text: str, room: int, *, bos: int | None = BOS, eos: int | None = EOS) -> list[Rendered]:
    return render_pieces(Document(where="f:1", text=text), TOKENIZER, bos=bos, eos=eos, max_length=room)


def characters(text: str, room: int, **more: int) -> list[str]:
    """The pieces when every character is a token."""
    offsets = np.array([(place, place + 1) for place in range(len(text))], dtype=np.int64)
    cuts = [0, *cut(text, offsets, room, **more), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


@settings(max_examples=50, derandomize=True)
@given(TEXTS, st.integers(16, 40), st.booleans(), st.booleans())
def test_the_pieces_are_the_text(text: str, room: int, bos: bool, eos: bool) -> None:
    text = unicodedata.normalize("NFC", text)
    whole = TOKENIZER.encode(text, add_special_tokens=False).ids
    pieces = pieces_of(text, room, bos=BOS if bos else None, eos=EOS if eos else None)
    joined = [token for piece in pieces for token in piece.input_ids]
    assert joined == [BOS] * bos + whole + [EOS] * eos
    assert all(piece.labels == piece.input_ids for piece in pieces)
    lengths = [len(piece.input_ids) for piece in pieces]
    assert max(lengths) <= room
    assert min(lengths) >= 2 or len(pieces) == 1
    # No cut goes through a character: each piece can be read on its own.
    read = [TOKENIZER.decode(piece.input_ids, skip_special_tokens=True) for piece in pieces]
    assert "".join(read) == text


def test_a_text_that_fits_stays_whole() -> None:
    text = "하늘은 파랗습니다. 바다도."
    size = len(TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert len(pieces_of(text, size + 2)) == 1
    assert len(pieces_of(text, size + 1)) == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("첫 문장이다. 둘째 문장이에요. 셋째다.", ["첫 문장이다. ", "둘째 문장이에요. ", "셋째다."]),
        ("정말 좋았어요! 또 가고 싶어요? 네, 꼭요.", ["정말 좋았어요! ", "또 가고 싶어요? ", "네, 꼭요."]),
        ("أين تقع المكتبة؟ خلف المسجد. شكرا لكم.", ["أين تقع المكتبة؟ ", "خلف المسجد. ", "شكرا لكم."]),
        ("یہ ایک کتاب ہے۔وہ دوسری کتاب ہے۔", ["یہ ایک کتاب ہے۔", "وہ دوسری کتاب ہے۔"]),
        ("यह एक किताब है। वह दूसरी है।", ["यह एक किताब है। ", "वह दूसरी है।"]),
        ("图书馆今天开门吗？开门，请进来看书。", ["图书馆今天开门吗？", "开门，请进来看书。"]),
        ("「空はとても青いです。」「海も青いです。」", ["「空はとても青いです。」", "「海も青いです。」"]),
        ('그는 "간다." 하고 나갔다. 비가 왔다.', ['그는 "간다." 하고 나갔다. ', "비가 왔다."]),
    ],
)
def test_sentences_of_many_scripts_stay_whole(text: str, wanted: list[str]) -> None:
    room = max(map(len, wanted))
    found = characters(text, max(16, room))
    assert "".join(found) == text
    ends = {len("".join(wanted[: place + 1])) for place in range(len(wanted))}
    reached = 0
    for piece in found:
        reached += len(piece)
        assert reached in ends, piece


def test_a_full_stop_inside_a_number_ends_nothing() -> None:
    assert characters("파이썬 3.13 버전에서는 된다", 16) == ["파이썬 3.13 버전에서는 ", "된다"]


def test_a_paragraph_is_preferred_when_it_fills_half_a_piece() -> None:
    assert characters("가나다라마바사아자차.\n\n카타. 파하 끝", 18) == [
        "가나다라마바사아자차.\n\n",
        "카타. 파하 끝",
    ]
    # Too short a paragraph: the last sentence that fits makes fewer pieces.
    assert characters("가나다.\n\n카타파하가나. 다라마바사아", 18) == [
        "가나다.\n\n카타파하가나. ",
        "다라마바사아",
    ]


def test_a_sentence_longer_than_a_row_is_cut_at_words_and_a_word_between_characters() -> None:
    assert characters("아주 길고 긴 문장은 쉬지 않고 이어진다", 16) == [
        "아주 길고 긴 문장은 쉬지 ",
        "않고 이어진다",
    ]
    assert characters("가" * 40, 16) == ["가" * 16, "가" * 16, "가" * 8]


def test_marks_before_and_after_take_their_room() -> None:
    assert [len(piece) for piece in characters("가" * 32, 16, before=1, after=1)] == [15, 16, 1]
    assert [len(piece) for piece in characters("가" * 33, 16)] == [16, 15, 2], (
        "a single token predicts nothing"
    )


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(DataRefused, match="the text is empty"):
        pieces_of("", 16)
