"""What the gate does with many texts at once is what it does with each alone; the quick looks overlook nothing."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.clean import CleanPolicy, normalise, untouched
from sovtune.data.document import Document, Message
from sovtune.data.gate_steps import (
    Kept,
    hide_all_personal_data,
    hide_all_secrets,
    hide_personal_data,
    hide_secrets,
    normalise_all,
    normalise_document,
)
from sovtune.data.language import identify_document, identify_documents
from sovtune.data.pii import may_hold
from sovtune.data.quality import Thresholds, judge, judge_all, measure, measure_all

KO = "도서관은 아침 아홉 시에 문을 열고, 저녁에는 주민을 위한 강좌를 마련합니다."
CLEAN = (
    KO,
    f"{KO}\n\n{KO} ㅋㅋ “좋아요” 3·1절",
    "图书馆每天早上九点开门。",
    "पुस्तकालय नौ बजे खुलता है।",
    "The library opens at nine.",
)
CODE = "```\nprint(1)\n```\n아래를 보세요."
ODD = (
    " ", "\n", "\n\n\n\n", "\t", "\u3000", "\x07", "\r\n", "\u2028", "\u200b", "\u200d", "\u202e", "\ufeff", "\u0640", "\ufe8d", "ـ",
    "ＡＢ１", "ｶﾞ", "ﾡ", "e\u0301", "\u1100\u1161", "각", "占쏙옙", "锟斤拷", "Ã©", "ìê°", "·’", "вЂ", "뷁쀍뛟", "\ud800",
    "\ue000", "\ufffd", "\U000e0041", "\U0001f600", "다시", "اللغة العربية", "ةغللا ةيبرعلا", "x",
)  # fmt: skip
PERSONAL = (
    "010-1234-5678",
    "a@b.kr",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "1234",
    "12345",
    "1,234",
    "1234A",
    "٠١٠١٢٣٤",
    "２３３３:",
)
POLICIES = (
    CleanPolicy(languages=("ko", "en")),
    CleanPolicy(
        languages=("ar", "zh"), tatweel="keep", tashkeel="strip", width="keep", visual_order="repair"
    ),
)
LIMITS = (
    Thresholds(),
    Thresholds(min_length=10, max_top_ngram=0.15, max_duplicate_windows=0.1, min_terminal_punctuation=0.5),
    Thresholds(
        min_length=1, max_top_ngram=None, max_duplicate_windows=0.3, max_compression=None, max_line_length=40
    ),
    Thresholds(min_length=1, max_top_ngram=0.05, max_duplicate_windows=None, max_bad_characters=None),
)
odd_texts = st.lists(st.sampled_from([*CLEAN, *ODD, *PERSONAL, " ", "가나다 "]), max_size=6).map("".join)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(odd_texts, min_size=1, max_size=5), st.sampled_from(POLICIES))
def test_text_called_untouched_is_given_back_as_it_is(texts: list[str], policy: CleanPolicy) -> None:
    for text, plain in zip(texts, untouched(texts, policy), strict=True):
        if plain:
            cleaned = normalise(text, policy)
            assert (cleaned.text, cleaned.changed, cleaned.refused) == (text, (), None)


def test_clean_text_is_called_untouched_and_odd_text_is_not() -> None:
    assert untouched([*CLEAN, CODE], POLICIES[0]) == [True] * (len(CLEAN) + 1)
    assert not untouched([KO], CleanPolicy(languages=("zh",), chinese="s2t"))[0]
    for odd in ODD[:-1]:
        text = f"{KO}{odd}\n{KO}"
        cleaned = normalise(text, POLICIES[0])
        assert untouched([KO, text, KO], POLICIES[0])[::2] == [True, True], odd
        assert not untouched([text], POLICIES[0])[0] or cleaned.text == text, odd


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([KO, "가 ", "나 다 ", "라마. ", "\n", "\n\n", "\ufffd", "1 + 2 ", "x y z "]),
            max_size=60,
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["ko", "zh", "en"]),
    st.sampled_from(LIMITS),
)
def test_only_what_limits_need_is_measured_and_the_verdict_is_the_same(
    parts: list[list[str]], tag: str, limits: Thresholds
) -> None:
    texts = ["".join(part) for part in parts]
    tags = [tag] * len(texts)
    assert judge_all(texts, tags, limits) == [judge(measure(text, tag), limits) for text in texts]
    for text, measures in zip(texts, measure_all(texts, tags), strict=True):
        if len(text) >= Thresholds().min_length:
            assert measures == measure(text, tag)
        else:
            assert judge(measures, Thresholds()) == judge(measure(text, tag), Thresholds())


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["가", "a", " ", "\t", "\n", ".", "!", "。", "।", "\u3000"]), max_size=30).map(
        "".join
    )
)
def test_sentences_end_where_the_plain_expression_says(text: str) -> None:
    parts = [part for part in re.split(r"[.!?]?\s*\n\s*|[.!?]\s+|[。！？؟۔।]\s*", text) if part]
    total = sum(map(len, parts))
    repeated = 1 - sum(map(len, set(parts))) / total if total else 0.0
    assert abs(measure(text, "ko").duplicate_line_share - repeated) < 1e-12


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([*CLEAN, CODE, "OK", "12", ""]), max_size=4).map("\n".join), max_size=5)
)
def test_languages_of_many_documents_are_those_of_each(texts: list[str]) -> None:
    candidates = ("ko", "en", "zh", "hi")
    assert identify_documents(texts, candidates) == [identify_document(text, candidates) for text in texts]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([*PERSONAL, *ODD, "x@y", "1.2.3", "4-5", "6,7", "A", ":"]), max_size=5).map(
        "".join
    )
)
def test_the_quick_look_for_personal_data_sees_every_sign(text: str) -> None:
    signs = r"\d(?:[^\w\n,，]{0,3}\d){4}|\d{4}[A-ZＡ-Ｚ]|[@＠]|\d[.．]\d{1,3}[.．]\d|[23][0-9A-Fa-f]{3}:"
    assert may_hold(text) == bool(re.search(signs, text))


TOKEN = "hf_" + "a1b2c3d4e5" * 3
DIALOGUE = Document(
    where="d:1", messages=(Message("user", KO), Message("assistant", f"010-1234-5678 {TOKEN}"))
)


def test_documents_that_need_something_are_found_among_those_that_do_not() -> None:
    plain = [Document(where=f"f:{n}", text=text) for n, text in enumerate(CLEAN)]
    odd = [
        Document(where="f:6", text=f"{KO}\u200b"),
        DIALOGUE,
        Document(where="f:7", text=f"-----BEGIN PRIVATE KEY-----\n{TOKEN}"),
        Document(where="f:8", text=f"메일은 a1@b2.kr 입니다. {KO}  "),
    ]
    documents = [plain[0], odd[0], *plain[1:3], odd[1], odd[2], *plain[3:], odd[3]]
    steps = (
        (normalise_all(documents, POLICIES[0]), [normalise_document(one, POLICIES[0]) for one in documents]),
        (hide_all_secrets(documents, "mask", "ko"), [hide_secrets(one, "mask", "ko") for one in documents]),
        (
            hide_all_personal_data(documents, "mask", ("ko",)),
            [hide_personal_data(one, "mask", ("ko",)) for one in documents],
        ),
    )
    for together, alone in steps:
        assert [one or Kept(document=same) for one, same in zip(together, documents, strict=True)] == alone
        assert together[0] is None, "a clean document is not gone through"
        assert any(together)
    assert normalise_all(documents, None) == [None] * len(documents)
