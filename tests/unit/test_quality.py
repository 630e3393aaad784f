"""Measures of quality, fixed limits, limits from percentiles; real prose passes, planted rubbish does not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.quality import Thresholds, from_percentiles, judge, measure
from sovtune.errors import UsageError

PROSE = {
    "ko": "마을 사람들은 강가에 작은 다리를 놓기로 했다. 먼저 나무를 베어 말리고, 돌을 날라 기둥을 세웠다. 비가 자주 내려 일이 "
    "늦어졌지만 아무도 불평하지 않았다. 가을이 되자 다리가 놓였고, 아이들은 먼 길을 돌지 않고도 학교에 갈 수 있게 되었다. "
    "어른들은 다리 옆에 나무를 심고 해마다 잔치를 열었다. 지금도 그 다리는 마을의 자랑이며, 손님이 오면 모두가 그 이야기를 "
    "들려준다. 처음 다리를 짓자고 한 사람은 이름을 남기지 않았지만, 사람들은 그 마음을 잊지 않는다.",
    "ar": "قرر أهل القرية أن يبنوا جسرا صغيرا على النهر. قطعوا الأشجار أولا وجففوها، ثم نقلوا الحجارة ورفعوا الأعمدة. تأخر "
    "العمل بسبب المطر لكن أحدا لم يشتك. وعندما جاء الخريف اكتمل الجسر، فصار الأطفال يذهبون إلى المدرسة دون أن يدوروا في طريق "
    "طويل. وزرع الكبار شجرا قربه، وصاروا يقيمون عنده احتفالا كل سنة؛ وما زال الجسر فخر القرية حتى اليوم.",
    "zh": "村里的人决定在河上修一座小桥。他们先砍树晒干，再搬来石头立起柱子。雨水很多，工程慢了下来，可是没有人抱怨。到了秋天，桥终于修好了，"
    "孩子们上学再也不用绕远路。大人们在桥边种了树，每年都在那里办一次聚会。直到今天，这座桥仍是村子的骄傲，客人一来，大家就要讲起它的故事。"
    "最早提议修桥的人没有留下名字，但是大家一直记得他的好意。后来河对岸也盖起了新房子，两边的人常常走过桥去看望彼此，谁家有喜事都会互相帮忙。",
    "hi": "गाँव के लोगों ने नदी पर एक छोटा पुल बनाने का निश्चय किया। पहले उन्होंने लकड़ी काटकर सुखाई, फिर पत्थर ढोकर खंभे खड़े किए। "
    "बारिश के कारण काम धीमा पड़ा, पर किसी ने शिकायत नहीं की। शरद ऋतु आते-आते पुल तैयार हो गया और बच्चे लंबा रास्ता लिए बिना विद्यालय "
    "जाने लगे। बड़ों ने उसके पास पेड़ लगाए और हर वर्ष वहाँ मेला लगाने लगे।",
}
SENTENCE = {tag: text.replace("。", ". ").replace("।", ". ").split(". ")[0] for tag, text in PROSE.items()}


@pytest.mark.parametrize("tag", PROSE)
def test_prose_passes(tag: str) -> None:
    measured = measure(PROSE[tag], tag)
    assert judge(measured, Thresholds()) is None
    assert measured.target_script_ratio == 1.0
    assert measured.terminal_punctuation_share == 1.0
    assert measured.bad_character_ratio == 0.0
    assert measured.duplicate_line_share == measured.duplicate_paragraph_share == 0.0
    assert 1.1 < measured.compression_ratio < 4


@pytest.mark.parametrize("text", ["네.", "ㅋㅋㅋㅋㅋㅋㅋㅋ", "OK", "3 + 4 = 7", "안녕하세요? 반가워요!"])
def test_short_texts_are_not_punished(text: str) -> None:
    assert judge(measure(text, "ko"), Thresholds()) is None


def test_empty_text_is_too_short() -> None:
    assert judge(measure("", "ko"), Thresholds()) == "too_short"


@pytest.mark.parametrize("tag", PROSE)
@pytest.mark.parametrize(
    ("defect", "reasons"),
    [
        ("lines", {"duplicate_lines", "repetition"}),
        ("paragraphs", {"duplicate_lines", "duplicate_paragraphs"}),
        ("one line", {"duplicate_lines", "repetition"}),
        ("a few words", {"repetition"}),
        ("one character", {"repetition", "compresses_too_well"}),
        ("lost characters", {"bad_characters"}),
        ("private use", {"bad_characters"}),
        ("wrong script", {"wrong_script"}),
        ("numbers", {"symbols_and_digits"}),
    ],
)
def test_planted_defects_are_found(tag: str, defect: str, reasons: set[str]) -> None:
    text, sentence = PROSE[tag], SENTENCE[tag]
    planted = {
        "lines": "\n".join([sentence] * 20 + [text[:80]]),
        "paragraphs": "\n\n".join([text, text, text]),
        "one line": " ".join([sentence] * 20),
        "a few words": f"{sentence[:12]} " * 60,
        "one character": sentence[0] * 400,
        "lost characters": "\ufffd".join([text[:50], text[50:100], text[100:150], text[150:]]),
        "private use": "\ue123".join([text[:50], text[50:100], text[100:150], text[150:]]),
        "wrong script": "Жители деревни решили построить мост через реку. "
        + "".join(f"Работа номер {name} шла медленно, но никто не жаловался; " for name in "абвгдежзик"),
        "numbers": " ".join(f"{n * 7919} | {n * n} =" for n in range(40)) + text[:40],
    }[defect]
    assert judge(measure(planted, tag), Thresholds()) in reasons


def test_measures_of_known_texts() -> None:
    measured = measure("가나다.\n가나다.\n\nabc 12 \ufffd", "ko")
    assert measured.characters == 19
    assert measured.target_script_ratio == pytest.approx(6 / 9)
    assert measured.bad_character_ratio == pytest.approx(1 / 14)
    assert measured.symbol_digit_ratio == pytest.approx(2 / 14)
    assert measured.duplicate_line_share == pytest.approx(3 / 14)
    assert measured.mean_line_length == pytest.approx((4 + 4 + 8) / 3)
    assert measured.terminal_punctuation_share == pytest.approx(2 / 3)


def test_top_ngram_share_counts_words_or_characters() -> None:
    assert measure("a b c d e f g h a b i j a b k", "en").top_ngram_share == pytest.approx(3 * 2 / 15)
    assert measure("一二三四五甲一二三四五乙一二三四五丙", "zh").top_ngram_share == pytest.approx(3 * 5 / 18)
    assert measure("一二三四五六七八九十", "zh").top_ngram_share == 0.0
    assert measure("ก" * 100, "th").top_ngram_share == 1.0


@pytest.mark.parametrize("mark", "。！？؟۔।.!?")
def test_every_script_ends_its_sentences(mark: str) -> None:
    assert measure(f"글{mark}\n글{mark})\n글", "ko").terminal_punctuation_share == pytest.approx(2 / 3)


def test_off_switch_and_order() -> None:
    measured = replace(measure(PROSE["ko"], "ko"), top_ngram_share=0.9, compression_ratio=30.0)
    assert judge(measured, Thresholds()) == "repetition"
    assert judge(measured, Thresholds(max_top_ngram=None)) == "compresses_too_well"
    assert judge(measured, Thresholds(max_top_ngram=None, max_compression=None)) is None
    assert judge(measured, Thresholds(min_length=10_000)) is None


def test_percentiles_cut_the_tails_of_a_corpus() -> None:
    base = measure(PROSE["ko"], "ko")
    corpus = [
        replace(base, compression_ratio=2 + n / 1000, mean_line_length=40 + n, target_script_ratio=0.9)
        for n in range(1000)
    ]
    limits = from_percentiles(corpus, 1, 99)
    dropped = [judge(measured, limits) for measured in corpus]
    assert dropped.count(None) == 980
    assert dropped.count("noise") == dropped.count("compresses_too_well") == 10
    assert limits.min_characters == Thresholds().min_characters


def test_percentiles_need_a_corpus_and_a_range() -> None:
    measures = [measure(PROSE["ko"], "ko")] * 99
    with pytest.raises(UsageError, match="too few"):
        from_percentiles(measures, 1, 99)
    with pytest.raises(UsageError, match="range"):
        from_percentiles(measures * 2, 60, 40)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["ko", "ar", "zh", "th", "en"]))
def test_shares_are_shares(text: str, tag: str) -> None:
    measured = measure(text, tag)
    for name in measured.__slots__:
        value = getattr(measured, name)
        assert value >= 0, name
        if name.endswith("_share") or (name.endswith("_ratio") and name != "compression_ratio"):
            assert value <= 1, name
