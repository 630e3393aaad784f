"""Scripts, languages of paragraphs and documents, and what does not count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.language import UNDECIDED, han_variant, identify, identify_document, script_shares

CANDIDATES = ("ko", "en", "ar", "zh", "ja", "hi", "fa", "vi", "th", "tr")
TEXTS = {
    "ko": "농부들은 봄이 오면 논에 물을 대고 모를 심을 준비를 서두릅니다.",
    "ar": "يستعد الفلاحون في الربيع لزراعة الحقول وسقيها قبل أن يشتد الحر في الصيف.",
    "zh": "春天到来的时候，农民们忙着给稻田灌水，为插秧做准备。",
    "ja": "春になると、農家の人たちは田んぼに水を張って田植えの準備を急ぎます。",
    "hi": "वसंत आते ही किसान खेतों में पानी देते हैं और बुवाई की तैयारी करने लगते हैं।",
    "fa": "با آمدن بهار کشاورزان زمین را آب می‌دهند و برای کاشت آماده می‌شوند.",
    "vi": "Khi mùa xuân đến, nông dân dẫn nước vào ruộng và chuẩn bị cấy lúa.",
    "th": "เมื่อฤดูใบไม้ผลิมาถึง ชาวนาก็ทดน้ำเข้านาและเตรียมปักดำ",
    "tr": "Bahar gelince çiftçiler tarlaları sular ve ekim için hazırlık yapmaya başlar.",
    "en": "When spring comes, the farmers flood their fields and get ready to plant the rice.",
    "id": "Ketika musim semi tiba, para petani mengairi sawah dan bersiap menanam padi.",
    "ru": "Весной крестьяне пускают воду на поля и готовятся сажать рис.",
    "de": "Wenn der Frühling kommt, bewässern die Bauern ihre Felder und bereiten die Aussaat vor.",
}


@pytest.mark.parametrize("tag", CANDIDATES)
def test_each_language_among_all(tag: str) -> None:
    found = identify(TEXTS[tag], CANDIDATES)
    assert found.tag == tag
    assert found.confidence > 0.7


@pytest.mark.parametrize("target", CANDIDATES)
@pytest.mark.parametrize("foreign", TEXTS)
def test_another_language_never_passes(target: str, foreign: str) -> None:
    passed = identify_document(TEXTS[foreign], (target, "en")).passes(target)
    assert passed is (foreign == target)


def test_script_shares_count_letters_only() -> None:
    assert script_shares("한국어 abc 12, 漢字!") == pytest.approx(
        {"Hangul": 3 / 8, "Latin": 3 / 8, "Han": 2 / 8}
    )
    assert script_shares("हिन्दी") == {"Devanagari": 1.0}
    assert script_shares("12 + 3 = 15 ✓") == {}
    assert script_shares("ｱｲｳ ㅋㅋ ａ") == pytest.approx({"Katakana": 0.5, "Hangul": 1 / 3, "Latin": 1 / 6})
    assert script_shares("\U00020000\U0001f600") == {"Han": 1.0}


def test_kana_decides_between_japanese_and_chinese() -> None:
    assert identify("東京は日本の首都である。", ("zh", "ja")).tag == "ja"
    assert identify("东京是日本的首都，人口超过一千万。", ("ja", "zh")).tag == "zh"
    assert identify("駅前広場", ("zh", "ja")).tag == "ja"
    assert identify("カタログ", ("ko", "en")).tag == "ja"


def test_chinese_variants() -> None:
    assert han_variant("这个问题") == "Hans"
    assert han_variant("這個問題") == "Hant"
    assert han_variant("人山人海") is None
    both = ("zh-Hans", "zh-Hant")
    assert identify("我们认为这个问题很难。", both).tag == "zh-Hans"
    assert identify("我們認為這個問題很難。", both).tag == "zh-Hant"
    assert identify("我們認為這個問題很難。", ("zh",)).tag == "zh"
    assert identify("我们认为这个问题很难。", ("zh-Hant",)).tag == "zh-Hans"
    assert identify_document("我們認為這個問題很難。", both).passes("zh")
    assert not identify_document("我們認為這個問題很難。", both).passes("zh-Hans")


def test_latin_terms_do_not_make_korean_english() -> None:
    text = "PyTorch 2.13의 torch.compile 옵션을 쓰면 Transformer 학습이 빨라집니다."
    assert identify(text, ("ko", "en")).tag == "ko"
    english = "The Korean word for library is 도서관 and it is pronounced like this by everyone here."
    assert identify(english, ("ko", "en")).tag == "en"


def test_short_latin_text_says_nothing() -> None:
    assert identify("LTE OK?", ("ko", "en")).tag == UNDECIDED
    assert identify_document("LTE OK?", ("ko", "en")).passes("ko")
    assert identify_document("12 + 30 = 42", ("ko", "en")).passes("ko")


def test_unknown_scripts_get_their_own_tag() -> None:
    assert identify("Καλημέρα σε όλους", ("ko", "en")).tag == "el"
    assert identify("გამარჯობა ყველას", ("ko", "en")).tag == "ka"


CODE = """설치는 다음과 같이 합니다.

```python
def greet(name):
    return "hello " + name
for item in items: print(greet(item))
```

$ sudo apt-get install python3-numpy
>>> import numpy as np
https://docs.example.org/library/functions.html
<div class="note">
result = compute(first, second)

그러면 바로 쓸 수 있습니다."""


def test_code_commands_and_addresses_do_not_count() -> None:
    found = identify_document(CODE, ("ko", "en"))
    assert found.shares == {"ko": 1.0}
    assert found.foreign_paragraphs == ()


def test_foreign_paragraphs_are_named_and_weighed() -> None:
    text = f"{TEXTS['ko']}\n{TEXTS['en']}\n{TEXTS['ko']}\n\n{TEXTS['ar']}"
    found = identify_document(text, ("ko", "en", "ar"))
    assert found.tag == "ko"
    assert found.foreign_paragraphs == (1, 4)
    assert set(found.shares) == {"ko", "en", "ar"}
    assert sum(found.shares.values()) == pytest.approx(1)
    assert not found.passes("ko", threshold=0.9)
    assert found.passes("ko", threshold=0.4)


def test_only_code_is_no_evidence_of_a_language() -> None:
    code = "\n".join(f"value_{n} = compute(first_{n}, second_{n})" for n in range(20))
    found = identify_document(code, ("ko", "en"))
    assert found.tag == UNDECIDED
    assert not found.passes("ko")


def test_a_candidate_that_py3langid_does_not_know_is_kept() -> None:
    assert identify("ဝ်ႈမႃးယူႇ", ("shn",)).tag == "shn"
    assert identify("Bure boro ketea kumene wala", ("xyz",)).tag == "xyz"


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.text(), st.sampled_from([("ko", "en"), ("ja", "zh", "en"), ("fa", "ar"), ("zh-Hant", "zh-Hans")]))
def test_any_text_gives_shares(text: str, candidates: tuple[str, ...]) -> None:
    found = identify_document(text, candidates)
    assert sum(found.shares.values()) == pytest.approx(1) or not found.shares
    assert sum(script_shares(text).values()) == pytest.approx(1) or not script_shares(text)
    assert 0 <= identify(text, candidates).confidence <= 1.000001


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([TEXTS["ko"], TEXTS["en"], TEXTS["th"], "", "12"]), max_size=6))
def test_a_document_is_the_sum_of_its_paragraphs(lines: list[str]) -> None:
    found = identify_document("\n".join(lines), CANDIDATES)
    tags = [identify(line, CANDIDATES).tag for line in lines]
    assert set(found.shares) == set(tags) - {UNDECIDED}
    assert found.foreign_paragraphs == tuple(
        index for index, tag in enumerate(tags) if tag not in (UNDECIDED, found.tag)
    )


def test_a_short_hindi_heading_is_not_given_to_nepali() -> None:
    for heading in ("प्रविष्टियाँ (अनुक्रमणिकाएँ/तालिकाएँ)", "प्रविष्टियाँ (उपयोक्ता परिभाषित अनुक्रमणिका)"):
        assert identify(heading, ("hi", "en")).tag == "hi"
    nepali = "नेपालको राजधानी काठमाडौं हो र यहाँ धेरै पुराना मन्दिरहरू छन्, जहाँ मानिसहरू हरेक दिन पूजा गर्न जान्छन्।"
    assert identify(nepali, ("hi", "en")).tag == "ne"
