"""Bytes to text: UTF-8 first, legacy codecs by plausibility, damaged UTF-8 left as UTF-8."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.decode import decode, sniff

KO = "우리 연구소는 올해부터 공개된 한국어 자료만으로 작은 언어 모델을 가르치기로 했습니다. 결과는 모두 공개합니다."
ZH = "我们的研究所决定只用公开的中文资料来训练一个小的语言模型，所有的结果都会在年底以前公布。"
ZH_HANT = "我們的研究所決定只用公開的中文資料來訓練一個小的語言模型，所有的結果都會在年底以前公布。"
JA = "私たちの研究所では、公開された日本語の資料だけを使って小さな言語モデルを学習させることにしました。"
AR = "قرر معهدنا هذا العام أن يدرب نموذجا لغويا صغيرا على النصوص العربية المنشورة فقط، وسوف ننشر كل النتائج."
FA = "پژوهشکده ما تصمیم گرفت که تنها با متن های منتشر شده فارسی یک الگوی زبانی کوچک آموزش دهد."
RU = "Наш институт решил обучить небольшую языковую модель только на открытых текстах и опубликовать результаты."
TH = "สถาบันของเราตัดสินใจฝึกแบบจำลองภาษาขนาดเล็กด้วยข้อความภาษาไทยที่เปิดเผยแล้วเท่านั้น"
TR = "Enstitümüz bu yıl yalnızca açık Türkçe metinlerle küçük bir dil modeli eğitmeye karar verdi; sonuçlar açıktır."
FR = "L’institut a décidé d’entraîner cette année un petit modèle à partir de textes français déjà publiés."

LEGACY = [
    ("ko", KO, "cp949"),
    ("ko", KO, "euc_kr"),
    ("zh", ZH, "gb18030"),
    ("zh", ZH, "gbk"),
    ("zh-Hant", ZH_HANT, "big5"),
    ("ja", JA, "cp932"),
    ("ja", JA, "euc_jp"),
    ("ar", AR, "cp1256"),
    ("ar", AR, "iso8859_6"),
    ("ru", RU, "cp1251"),
    ("ru", RU, "koi8_r"),
    ("th", TH, "cp874"),
    ("tr", TR, "cp1254"),
    ("fr", FR, "cp1252"),
]


@pytest.mark.parametrize(("tag", "text", "codec"), LEGACY)
def test_legacy_text_is_read_in_its_own_codec(tag: str, text: str, codec: str) -> None:
    raw = text.encode(codec, "ignore")
    read = decode(raw, (tag, "en"))
    assert read.text == raw.decode(codec)
    assert read.replaced == 0
    assert read.confident


@pytest.mark.parametrize(("tag", "text", "codec"), LEGACY[:8])
def test_the_right_codec_wins_when_several_languages_are_possible(tag: str, text: str, codec: str) -> None:
    raw = text.encode(codec, "ignore")
    for order in (("ko", "zh", "ja", "ar", "en"), ("en", "ar", "ja", "zh", "ko")):
        languages = tuple(tag if tag.startswith(name) else name for name in order)
        assert decode(raw, languages).text == raw.decode(codec)


@pytest.mark.parametrize("text", [KO, ZH, JA, AR, FA, TH, TR, "plain ASCII", ""])
def test_utf8_is_never_taken_for_anything_else(text: str) -> None:
    read = decode(text.encode(), ("ko", "ja", "ar"))
    assert (read.text, read.codec, read.replaced, read.confident) == (text, "utf-8", 0, True)


@pytest.mark.parametrize(
    ("mark", "codec"),
    [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_byte_order_marks_decide_and_vanish(mark: bytes, codec: str) -> None:
    read = decode(mark + KO.encode(codec), ("ko",))
    assert read.text == KO
    assert read.confident


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_found_by_its_zero_bytes(codec: str) -> None:
    read = decode(("Windows 메모장 " + KO).encode(codec), ("ko",))
    assert read.codec == codec
    assert read.text.endswith(KO)
    assert not read.confident


def test_iso2022_escape_sequences() -> None:
    assert decode(JA.encode("iso2022_jp"), ("ja",)).text == JA


def test_a_few_broken_bytes_do_not_turn_utf8_into_a_legacy_codec() -> None:
    raw = bytearray((KO * 20).encode())
    for place in (10, 500, 900):
        raw[place] = 0xFF
    read = decode(bytes(raw), ("ko",))
    assert read.codec == "utf-8"
    assert 3 <= read.replaced <= 9
    assert "한국어 자료만으로" in read.text


def test_replacement_characters_of_the_text_itself_are_not_counted() -> None:
    assert decode("깨진 글자 \ufffd 하나".encode(), ("ko",)).replaced == 0


def test_noise_is_not_believed() -> None:
    noise = bytes(range(128, 256)) * 3
    assert not decode(noise, ("ko",)).confident


def test_sample_may_end_inside_a_character() -> None:
    for text, codec in ((KO, "utf-8"), (KO, "cp949"), (JA, "cp932")):
        raw = text.encode(codec)
        for cut in range(40, 46):
            assert sniff(raw[:cut], ("ko", "ja")) in (codec, {"cp949": "euc_kr"}.get(codec, codec))


def test_a_long_ascii_head_does_not_hide_the_codec() -> None:
    raw = b"key = value\n" * 20_000 + KO.encode("cp949")
    read = decode(raw, ("ko",))
    assert read.codec == "cp949"
    assert read.text.endswith(KO)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.text())
def test_every_text_survives_utf8(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    if not raw.startswith((b"\xef\xbb\xbf",)) and b"\0" not in raw and b"\x1b" not in raw:
        assert decode(raw, ("ko", "ar")).text == raw.decode()


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_text(data: bytes) -> None:
    read = decode(data, ("ko", "zh", "ja", "ar", "vi", "pl", "el", "he"))
    assert read.replaced >= 0
    assert isinstance(read.text, str)
