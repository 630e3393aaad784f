"""Contamination: evaluation text is found however it was respelt, and ordinary phrases are not."""

from __future__ import annotations

import pickle
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data import contamination
from sovtune.data.contamination import RUN, SEED, EvalIndex, Hit

ITEMS = {
    "ko": [
        "항구 마을의 등대지기는 안개가 짙은 날이면 종을 서른세 번 울린다. 그 까닭으로 알맞은 것은?",
        "민서가 3월 14일에 심은 해바라기는 하루에 2.5센티미터씩 자랐다. 스무 날 뒤의 키를 구하시오.",
        "다음 가운데 옹기를 굽는 가마의 온도를 서서히 올려야 하는 까닭을 바르게 설명한 것은 무엇인가?",
    ],
    "ar": [
        "لماذا يقرع حارس المنارة الجرس ثلاثًا وثلاثين مرة كلما غطى الضباب ميناء القرية "
        "الصغيرة في ليالي الشتاء الطويلة الباردة؟",
        "زرعت مريم ١٢ شجرة زيتون في الحقل الشرقي ثم باعت ٥ منها لجارها فكم شجرة بقيت عندها بعد ذلك؟",
        "ما السبب الذي جعل صانع الفخار يرفع حرارة الفرن ببطء شديد قبل أن يضع الجرار الكبيرة في داخله؟",
    ],
    "zh": [
        "每逢大雾弥漫，渔村的守塔人都要敲钟三十三下，请问下列哪一项最能解释他这样做的原因？",
        "小林在3月14日种下的向日葵每天长高2.5厘米，请计算二十天以后这棵向日葵的高度是多少？",
        "烧制陶缸的时候为什么必须慢慢提高窑里的温度，下面四种说法当中哪一种是正确的？",
    ],
    "ja": [
        "港町の灯台守は霧の深い日になると鐘を三十三回鳴らすが、その理由として最も適切なものはどれか。",
        "美咲が3月14日に植えたひまわりは毎日2.5センチずつ伸びた。二十日後の高さを求めなさい。",
        "大きな甕を焼くときに窯の温度をゆっくり上げなければならない理由を正しく説明した文はどれですか。",
    ],
    "hi": [
        "घने कोहरे के दिनों में बंदरगाह का प्रकाशस्तंभ रक्षक तैंतीस बार घंटी क्यों बजाता है सही कारण चुनिए?",
        "मीरा ने 14 मार्च को जो सूरजमुखी लगाया वह रोज़ 2 सेंटीमीटर बढ़ा तो बीस दिन बाद उसकी ऊँचाई कितनी होगी?",
        "मिट्टी के बड़े घड़े पकाते समय भट्ठी का तापमान धीरे धीरे क्यों बढ़ाना चाहिए सही कथन कौन सा है?",
    ],
    "en": [
        "Why does the keeper of the harbour light ring the bell thirty-three times when fog covers the bay?",
        "Mira planted twelve olive trees in the eastern field and sold five of them; how many remain there?",
    ],
}
AROUND = {
    "ko": ("어제 찾은 연습 문제이다. ", " 답은 다음 시간에 맞춰 본다."),
    "ar": ("وجدت هذا السؤال أمس. ", " وسنناقش الجواب غدا."),
    "zh": ("昨天找到一道练习题：", "答案下次再讲。"),
    "ja": ("昨日見つけた練習問題です。", "答えは次の時間に確かめます。"),
    "hi": ("कल यह प्रश्न मिला। ", " उत्तर अगली बार देखेंगे।"),
    "en": ("I found this exercise yesterday. ", " We discuss the answer next time."),
}
ALL = [(language, item, text) for language, texts in ITEMS.items() for item, text in enumerate(texts)]


@pytest.fixture(scope="module")
def index() -> EvalIndex:
    return EvalIndex.build((language, text) for language, _, text in ALL)


def arabic_digits(text: str) -> str:
    return text.translate({ord("0") + n: 0x0660 + n for n in range(10)})


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def vocalised(text: str) -> str:
    """Arabic letters with fatha and tatweel put after every other one."""
    return "".join(
        c + ("\u064e\u0640" if "\u0621" <= c <= "\u064a" and n % 2 else "") for n, c in enumerate(text)
    )


def spaced_at_random(text: str) -> str:
    dice = random.Random(9)
    return "".join(c + (" " if dice.random() < 0.3 and c.isalnum() else "") for c in text)


CHANGES = {
    "none": lambda text: text,
    "spaces doubled": lambda text: text.replace(" ", "  \n"),
    "spaces removed": lambda text: text.replace(" ", ""),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "punctuation removed": lambda text: "".join(c for c in text if unicodedata.category(c)[0] != "P"),
    "punctuation added": lambda text: text.replace(" ", ", ") + "!!",
    "zero-width": "\u200b".join,
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "upper case": str.upper,
    "Arabic-Indic digits": arabic_digits,
    "full-width": full_width,
    "vowel marks and tatweel": vocalised,
}


class TestFound:
    @pytest.mark.parametrize("change", list(CHANGES))
    @pytest.mark.parametrize(("language", "item", "text"), ALL)
    def test_whatever_the_spelling(
        self, index: EvalIndex, language: str, item: int, text: str, change: str
    ) -> None:
        before, after = AROUND[language]
        hits = index.hits(before + CHANGES[change](text) + after)
        assert [(hit.name, hit.item, hit.kind) for hit in hits] == [(language, item, "run")]

    @pytest.mark.parametrize("language", ["ko", "zh", "ja"])
    def test_any_spacing(self, index: EvalIndex, language: str) -> None:
        for item, text in enumerate(ITEMS[language]):
            assert [hit.item for hit in index.hits(spaced_at_random(text))] == [item]

    def test_the_span_is_the_place_in_the_text(self, index: EvalIndex) -> None:
        before, after = AROUND["ko"]
        text = ITEMS["ko"][1]
        hit = index.hits(before + text + after)[0]
        assert (before + text + after)[hit.start : hit.end] == text.rstrip(".")
        assert hit.matched == sum(c.isalnum() for c in text)

    def test_a_part_of_thirty_characters_but_not_of_twenty_nine(self, index: EvalIndex) -> None:
        letters = "".join(c for c in ITEMS["zh"][0] if c.isalnum())
        for start in range(len(letters) - RUN):
            part = letters[start : start + RUN]
            assert [(h.name, h.item, h.matched) for h in index.hits(f"前{part}后")] == [("zh", 0, RUN)]
            assert not index.hits(f"前{part[:-1]}。")

    def test_thirteen_words_but_not_twelve(self, index: EvalIndex) -> None:
        words = ITEMS["ar"][0].split()
        for start in range(len(words) - 13):
            assert index.hits("قال " + " ".join(words[start : start + 13]) + " نعم")
            assert not index.hits("قال " + " ".join(words[start : start + 12]) + " نعم")

    def test_words_of_either_side_count(self) -> None:
        """An evaluation text run together has one word; the text searched shows thirteen."""
        words = ITEMS["ar"][0].split()[:13]
        index = EvalIndex.build([("ar", "".join(words))])
        assert index.hits("".join(words)) == []
        assert [hit.kind for hit in index.hits(" ".join(words))] == ["run"]

    def test_two_items_in_one_text(self, index: EvalIndex) -> None:
        hits = index.hits(ITEMS["ko"][0] + ITEMS["en"][1])
        assert {(hit.name, hit.item) for hit in hits} == {("ko", 0), ("en", 1)}
        assert [hit.matched for hit in hits] == sorted((hit.matched for hit in hits), reverse=True)


class TestShortItems:
    def test_contained_whole_from_the_minimum_on(self) -> None:
        index = EvalIndex.build(
            [
                ("ko", "고양이가 지붕에서 미끄러져 떨어졌다"),  # 16 letters
                ("ko", "고양이가 지붕에서 떨어졌다"),  # 12
                ("en", "The old cat slipped off the wet roof"),  # 8 words
                ("en", "The cat slipped off the wet roof"),  # 7
            ]
        )
        assert index.texts == {"ko": 2, "en": 2}
        assert index.too_short == {"ko": 1, "en": 1}
        assert [h.kind for h in index.hits("그런데 고양이가 지붕에서 미끄러져 떨어졌다고 한다")] == ["whole"]
        assert not index.hits("그런데 고양이가 지붕에서 미끄러져 내려왔다고 한다")
        assert not index.hits("그런데 고양이가 지붕에서 떨어졌다고 한다")
        assert [h.item for h in index.hits("Yesterday the old cat slipped off the wet roof.")] == [0]
        assert not index.hits("Yesterday the cat slipped off the wet roof.")

    def test_many_that_begin_alike(self) -> None:
        """More of one beginning than places are kept per window: the end still tells them apart."""
        start = "다음 글의 내용과 일치하는 올바른 문장을 "
        dice = random.Random(1)
        ends = ["".join(chr(dice.randrange(0xAC00, 0xD7A3)) for _ in range(8)) for _ in range(300)]
        index = EvalIndex.build(("ko", start + end) for end in ends)
        for item in (0, 150, 299):
            assert [hit.item for hit in index.hits("문제: " + start + ends[item] + " 끝")] == [item]


class TestNotFound:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "가",
            "다음 글을 읽고 물음에 답하시오. 다음 중 옳은 것을 고르시오.",
            "ما السبب الذي جعل الناس يأتون إلى هنا؟ اختر الإجابة الصحيحة مما يلي.",
            "请计算下列各题，下面四种说法当中哪一种是正确的？",
            "最も適切なものはどれか。次の中から一つ選びなさい。",
            "सही कारण चुनिए। नीचे दिए गए कथनों में से कौन सा है सही?",
            "Which of the following best explains why? How many trees remain there?",
            "?!" * 100,
            "\ud800" * 40,
        ],
    )
    def test_common_phrases(self, index: EvalIndex, text: str) -> None:
        assert index.hits(text) == []

    def test_no_run_crosses_from_text_to_text(self, index: EvalIndex) -> None:
        text = ITEMS["zh"][0]
        assert index.scan([text[:20], text[20:]]) == [[], []]
        two = EvalIndex.build([("a", text[:20]), ("a", text[20:])])
        assert all(hit.matched < RUN for hit in two.hits(text))

    def test_equal_hashes_are_not_believed(self, index: EvalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a hash that makes every window alike only true runs remain."""
        monkeypatch.setattr(
            contamination, "_window_hashes", lambda codes: np.zeros(len(codes) - SEED + 1, dtype=np.uint64)
        )
        blind = EvalIndex.build([("zh", text) for text in ITEMS["zh"]])
        assert blind.hits("这是一段完全无关的文字，只是为了检查散列冲突而写，里面没有任何题目。") == []
        assert [hit.item for hit in blind.hits(ITEMS["zh"][1])] == [1]

    def test_an_empty_index(self) -> None:
        index = EvalIndex.build([])
        assert index.names == () and index.too_short == {}
        assert index.scan(["아무 글이나 넣어 보아도 걸리는 것이 하나도 없어야 한다", ""]) == [[], []]
        assert EvalIndex.build([("x", ""), ("x", "?")]).too_short == {"x": 2}


def reference(item: str, text: str) -> bool:
    """The rule for unspaced scripts by brute force."""
    return any(item[at : at + RUN] in text for at in range(len(item) - RUN + 1))


class TestProperties:
    @settings(max_examples=50, derandomize=True, deadline=None)
    @given(
        items=st.lists(st.text("가나다라", min_size=RUN, max_size=90), max_size=4),
        filling=st.lists(st.text("가나다라", max_size=40), min_size=5, max_size=5),
        cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(24, 40)), min_size=4, max_size=4),
    )
    def test_agrees_with_brute_force(
        self, items: list[str], filling: list[str], cuts: list[tuple[int, int]]
    ) -> None:
        pieces = [item[start : start + size] for item, (start, size) in zip(items, cuts, strict=False)]
        text = "".join(a + b for a, b in zip(filling, [*pieces, "", "", "", "", ""], strict=False))
        found = {hit.item for hit in EvalIndex.build(("x", item) for item in items).hits(text)}
        assert found == {n for n, item in enumerate(items) if reference(item, text)}

    def test_batches_do_not_change_hits(self, index: EvalIndex) -> None:
        texts = [AROUND[language][0] + text for language, _, text in ALL] + ["", "짧다", "긴 글 " * 50_000]
        assert index.scan(texts) == [index.hits(text) for text in texts]

    def test_travels_to_other_processes(self, index: EvalIndex) -> None:
        other = pickle.loads(pickle.dumps(index))
        expected = [Hit("ja", 2, 0, len(ITEMS["ja"][2]) - 1, 46, "run")]
        assert other.hits(ITEMS["ja"][2]) == index.hits(ITEMS["ja"][2]) == expected
