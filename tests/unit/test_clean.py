"""Normalisation: what is changed, what must survive, mojibake, reversed Arabic; and that twice is once."""

import builtins
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planted_texts import SENTENCES
from sovtune.data.arabic import VISUAL, visual_order_score
from sovtune.data.clean import CleanPolicy, _opencc, normalise
from sovtune.errors import EnvironmentFault

KO = "도서관은 아침 아홉 시에 문을 열고, 저녁에는 주민을 위한 강좌를 마련합니다."
AR = "تفتح المكتبة العامة أبوابها في الساعة التاسعة صباحا، وتقدم الدروس المجانية إلى سكان المدينة القديمة."
ZH = "图书馆每天早上九点开门，晚上还为附近的居民提供免费的课程和讲座。"
JA = "図書館は毎朝九時に開き、夜には近所の人々のために無料の講座が行われます。"
HI = "पुस्तकालय हर सुबह नौ बजे खुलता है और शाम को लोगों के लिए निःशुल्क कक्षाएँ होती हैं।"
FA = "کتابخانه هر روز ساعت نه صبح باز می‌شود و برای مردم شهر کلاس‌های رایگان دارد."
VI = "Thư viện mở cửa lúc chín giờ sáng và tổ chức nhiều lớp học miễn phí cho người dân."
TH = "ห้องสมุดเปิดทุกวันเวลาเก้าโมงเช้า และมีชั้นเรียนฟรีสำหรับประชาชน"
TR = "Kütüphane her sabah dokuzda açılır ve akşamları çevre halkı için ücretsiz dersler düzenler."
EN = "The library opens at nine – “every day”, they say – and it’s free for everyone."
CLEAN = {"ko": KO, "ar": AR, "zh": ZH, "ja": JA, "hi": HI, "fa": FA, "vi": VI, "th": TH, "tr": TR, "en": EN}


def clean(text: str, tag: str = "ko", **policy: str) -> str:
    return normalise(text, CleanPolicy(languages=(tag, "en"), **policy)).text


@pytest.mark.parametrize(("tag", "text"), CLEAN.items())
def test_clean_text_is_untouched(tag: str, text: str) -> None:
    result = normalise(text, CleanPolicy(languages=(tag, "en")))
    assert result.text == text
    assert (result.changed, result.refused) == ((), None)


@pytest.mark.parametrize("tag", ["ko", "ja", "hi", "vi", "tr"])
def test_nfd_is_composed(tag: str) -> None:
    decomposed = unicodedata.normalize("NFD", CLEAN[tag])
    result = normalise(decomposed, CleanPolicy(languages=(tag,)))
    assert result.text == unicodedata.normalize("NFC", CLEAN[tag])
    if decomposed != result.text:
        assert result.changed == ("nfc",)


@pytest.mark.parametrize(
    "text",
    [
        "진짜 웃기다 ㅋㅋㅋㅋ ㅠㅠ",
        "㈜한글과 ①번 ㎡ ½",
        "“따옴표” ‘그대로’ … —",
        "，。！？：；「」《》",
        "می‌خواهم کتاب‌ها",
        "क्‍ष श्री",
        "👩‍💻 👨‍👩‍👧 🏳️‍🌈 ❤️",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "ﬁn été naïve",
        "日本語の、文章。　全角空白",
        "Fish &amp; chips &lt;b&gt;",
        "مُحَمَّدٌ",
    ],
)
def test_what_must_survive(text: str) -> None:
    assert clean(text, "ko") == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("dirty", "expected", "step"),
    [
        ("가\u200b나\ufeff다\xad라", "가나다라", "zero_width"),
        ("한\u200c국\u200d어", "한국어", "zero_width"),
        ("می\u200c\u200c\u200dخواهم \u200cاو\u200c", "می\u200cخواهم او", "zero_width"),
        ("안녕\U000e0041\U000e0042 세상", "안녕 세상", "zero_width"),
        ("\u202bمرحبا\u202c \u200fبكم\u061c", "مرحبا بكم", "bidi"),
        ("كتــــاب جميـل", "كتاب جميل", "tatweel"),
        ("ﻛﺘﺎﺏ ﻻ ﺷﻲﺀ", "كتاب لا شيء", "presentation_forms"),
        ("ＡＢＣ１２３", "ABC123", "width"),
        ("ｶﾞｷﾞｸﾞ ﾃｽﾄ", "ガギグ テスト", "width"),
        ("ﾡﾤ ￦1,000", "ㄱㄴ ₩1,000", "width"),
        ("가\x00나\x07다", "가나다", "controls"),
        ("가\r\n나\r다\u2028라", "가\n나\n다\n라", "line_breaks"),
        ("가  \t\n나\n\n\n\n\n다\n\n", "가\n나\n\n\n다", "blanks"),
        ("\ud83d\ude00 가 \ud800", "😀 가 \ufffd", "surrogates"),
    ],
)
def test_each_step(dirty: str, expected: str, step: str) -> None:
    result = normalise(dirty, CleanPolicy(languages=("ko", "ar")))
    assert result.text == expected
    assert result.changed == (step,)


def test_policies_keep_or_strip() -> None:
    vocalised = "كَتَبَ الوَلَدُ الدَّرْسَ"
    assert clean(vocalised, "ar") == vocalised
    assert clean(vocalised, "ar", tashkeel="strip") == "كتب الولد الدرس"
    assert clean("كتـاب", "ar", tatweel="keep") == "كتـاب"
    assert clean("ＡＢＣ　ｶﾅ", "ja", width="keep") == "ＡＢＣ　ｶﾅ"
    assert clean("ì•ˆë…•", "ko", mojibake="keep") == "ì•ˆë…•"


MOJIBAKE = [
    ("ko", "utf-8", "latin-1"),
    ("ko", "euc_kr", "latin-1"),
    ("ko", "cp949", "cp1252"),
    ("ko", "utf-8", "sloppy-windows-1252"),
    ("zh", "utf-8", "latin-1"),
    ("zh", "gbk", "latin-1"),
    ("zh", "gb18030", "sloppy-windows-1252"),
    ("ja", "utf-8", "latin-1"),
    ("ja", "cp932", "latin-1"),
    ("ja", "euc_jp", "latin-1"),
    ("ar", "utf-8", "latin-1"),
    ("ar", "utf-8", "sloppy-windows-1252"),
    ("ar", "cp1256", "latin-1"),
    ("ar", "cp1256", "cp1252"),
    ("fa", "utf-8", "latin-1"),
    ("hi", "utf-8", "latin-1"),
    ("vi", "utf-8", "sloppy-windows-1252"),
    ("tr", "utf-8", "latin-1"),
    ("th", "cp874", "latin-1"),
]


@pytest.mark.parametrize(("tag", "written", "read"), MOJIBAKE)
def test_mojibake_is_repaired(tag: str, written: str, read: str) -> None:
    import ftfy.bad_codecs  # noqa: F401 - registers sloppy-windows-1252

    text = CLEAN[tag]
    if tag == "fa":
        text = text.replace("\u200c", " ")
    broken = text.encode(written).decode(read)
    result = normalise(broken, CleanPolicy(languages=(tag, "en")))
    assert result.text == text
    assert "mojibake" in result.changed
    assert result.refused is None


@pytest.mark.parametrize(
    ("tag", "codec"), [("ko", "cp1252"), ("ja", "cp1252"), ("zh", "cp1252"), ("hi", "cp1252")]
)
@pytest.mark.parametrize("errors", ["replace", "ignore"])
def test_lossy_mojibake_is_refused(tag: str, codec: str, errors: str) -> None:
    broken = CLEAN[tag].encode().decode(codec, errors)
    assert normalise(broken, CleanPolicy(languages=(tag,))).refused == "mojibake"


@pytest.mark.parametrize(("tag", "codec"), [("ko", "cp949"), ("zh", "gbk"), ("ja", "cp932"), ("zh", "big5")])
def test_utf8_read_with_a_two_byte_codec_is_refused(tag: str, codec: str) -> None:
    broken = CLEAN[tag].encode().decode(codec, "ignore")
    assert normalise(broken, CleanPolicy(languages=(tag,))).refused == "mojibake"


def test_utf8_read_as_gb18030_is_repaired_when_no_byte_was_lost() -> None:
    text = "图书馆每天早上九点开门提供免费课程"
    for length in range(10, len(text), 2):  # an even number of 3-byte characters fills 2-byte pairs
        try:
            broken = text[:length].encode().decode("gb18030")
        except UnicodeDecodeError:
            continue
        assert clean(broken, "zh") == text[:length]


def test_the_korean_sign_of_lost_characters_becomes_visible() -> None:
    assert clean("글자가 占쏙옙占쏙옙 깨졌다", "ko") == "글자가 \ufffd\ufffd\ufffd\ufffd 깨졌다"


def test_only_the_broken_lines_change() -> None:
    text = f"{KO}\n{KO.encode('euc_kr').decode('latin-1')}\ncafé – naïve «déjà»"
    assert clean(text) == f"{KO}\n{KO}\ncafé – naïve «déjà»"


ARABIC = "\n".join(
    [
        AR,
        "يعمل المهندسون في الشركة الجديدة على بناء الجسور والطرق السريعة منذ العام 2022.",
        "قال المدير (محمد) إن المكتبة تستخدم نظام Linux Mint في جميع الحواسيب.",
        "زار الطلاب متحف الآثار الإسلامية ثم عادوا إلى المدرسة.",
    ]
)


def reverse(text: str) -> str:
    """Lines as a PDF extractor leaves them: reversed, with numbers and Latin words in reading order."""
    turned = "\n".join(line[::-1] for line in text.split("\n"))
    for word in ("2022", "Linux Mint"):
        turned = turned.replace(word[::-1], word)
    return turned.translate(str.maketrans("()", ")("))


def test_reversed_arabic_is_found() -> None:
    assert visual_order_score(ARABIC) < 0.1
    assert visual_order_score(reverse(ARABIC)) >= VISUAL
    assert visual_order_score(FA[::-1]) >= VISUAL
    assert visual_order_score(KO[::-1]) == 0.0


PERSIAN_LINES = (
    "کتابخانهٔ شهر هر روز صبح باز می‌شود و عصر بسته است.",
    "پدربزرگم یک درخت زیتون کوچک خرید و جلوی خانه کاشت.",
    "پیش از پختن عدس باید آن را یک ساعت در آب بخیسانید.",
    "دریا امروز آرام بود و ماهیگیران پیش از سپیده رفتند.",
    "معلم مسئله‌ای دشوار روی تخته نوشت و همه ساکت شدند.",
    "قطار به خاطر باران‌های شدید شمال نیم ساعت دیر رسید.",
    "خانواده هر جمعه دور یک سفره در خانهٔ مادربزرگ است.",
    "گیاه به نور کافی و آب کم نیاز دارد تا ریشه‌ها نپوسند.",
    "مسافران شب‌ها در بیابان راه می‌رفتند چون روز گرم بود.",
    "مادرم قهوه را روی آتش گذاشت و منتظر ماند تا بجوشد.",
    "نانوا نان گرم خود را از ساعت پنج صبح می‌فروشد.",
    "به موزهٔ تازه رفتیم و نقشه‌های قدیمی زیادی را دیدیم.",
    "وقتی باد پاییز می‌وزد بستن پنجره‌ها را فراموش نکنید.",
    "کودک قصه را بلند خواند و برای خواهرش تکرار کرد.",
    "برادرم مهندس کارخانه‌ای نزدیک بندر شرقی است.",
    "با نخستین روزهای سرد رنگ برگ‌های باغ عوض می‌شود.",
    "پزشک پیش از نوشتن دارو دربارهٔ غذا و خواب او پرسید.",
    "مردم روستا با دست خود پلی چوبی روی رودخانه ساختند.",
    "دخترم دوست دارد خانه‌های رنگی و درخت‌های بلند بکشد.",
    "شب پیش از عید بازار پر از مردمی بود که خرید می‌کردند.",
)
URDU_LINES = (
    "لائبریری ہر صبح کھلتی ہے اور شام سے پہلے بند ہو جاتی ہے۔",
    "دادا نے زیتون کا ایک چھوٹا درخت خریدا اور گھر کے سامنے لگایا۔",
    "بارش کی وجہ سے ریل گاڑی آدھا گھنٹہ دیر سے پہنچی۔",
    "بچے شام تک میدان میں کھیلتے رہے اور پھر گھر چلے گئے۔",
)


def test_single_reversed_lines_are_found_and_good_ones_are_not() -> None:
    for lines, least in ((PERSIAN_LINES, 0.95), (URDU_LINES, 1.0), (SENTENCES["ar"], 0.8)):
        found = [visual_order_score(line[::-1]) >= VISUAL for line in lines]
        assert sum(found) >= least * len(lines), [
            line for line, hit in zip(lines, found, strict=True) if not hit
        ]
        assert [line for line in lines if visual_order_score(line) > 0] == []


def test_marks_before_their_letters_tell_of_a_reversed_line() -> None:
    assert visual_order_score("قبلاً دقیقاً"[::-1]) >= VISUAL
    assert visual_order_score("قبلاً دقیقاً") == 0.0


def test_reversed_arabic_by_policy() -> None:
    dropped = normalise(reverse(ARABIC), CleanPolicy(languages=("ar",)))
    assert dropped.refused == "visual_order"
    repaired = normalise(reverse(ARABIC), CleanPolicy(languages=("ar",), visual_order="repair"))
    assert repaired.text == ARABIC
    assert repaired.changed == ("visual_order",)
    kept = normalise(reverse(ARABIC), CleanPolicy(languages=("ar",), visual_order="keep"))
    assert (kept.text, kept.refused) == (reverse(ARABIC), None)


def test_repair_turns_only_the_reversed_lines() -> None:
    first, *rest = ARABIC.split("\n")
    mixed = "\n".join([first, reverse("\n".join(rest))])
    assert clean(mixed, "ar", visual_order="repair") == ARABIC


def test_lam_alef_that_the_extractor_expanded_in_order() -> None:
    # The glyphs come out as lam, alef although the line is reversed, so turning it swaps them.
    visual = "في المدينة الإدارية الأولى إلى الآن ولا مكتبة العامة".replace("لإ", "إل")
    visual = visual.replace("لأ", "أل").replace("لآ", "آل").replace("ولا", "وال")[::-1]
    assert clean(visual, "ar", visual_order="repair") == (
        "في المدينة الإدارية الأولى إلى الآن ولا مكتبة العامة"
    )


def test_chinese_variants() -> None:
    pytest.importorskip("opencc")
    traditional = "圖書館與讀者開會"
    assert clean("图书馆与读者开会", "zh", chinese="s2t") == traditional
    assert clean(traditional, "zh", chinese="t2s") == "图书馆与读者开会"
    assert clean(traditional, "zh", chinese="s2t") == traditional


def test_missing_opencc_is_a_clear_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "opencc":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    _opencc.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EnvironmentFault, match="OpenCC") as fault:
        clean("图书馆为读者开门", "zh", chinese="s2t")
    assert "sovtune[zh]" in (fault.value.fix or "")


PIECES = st.one_of(
    st.sampled_from([*CLEAN.values(), ARABIC, reverse(ARABIC)]),
    st.sampled_from([KO.encode("euc_kr").decode("latin-1"), AR.encode().decode("latin-1"), "Ã©", "占쏙옙"]),
    st.text(alphabet="가각힣ㅋㅠᄀ\u1161\u11a8ﾡﾤ한", max_size=8),
    st.text(alphabet="ابتةىلاأإآ\u0640\u064b\u0651\u0670ﻻﷺﹰ\u200c\u200d\u200f۔،", max_size=8),
    st.text(alphabet="क्षिी\u093c\u200c\u200d।กำ่\u0e33ắ\u0301\u0323", max_size=8),
    st.text(alphabet="ｶﾞﾟがは\u3099ＡＺ０、。　漢", max_size=8),
    st.text(alphabet="😀👩\u200d💻\ufe0f🏴\U000e0067\U000e007f", max_size=6),
    st.text(alphabet="ÃÂ¡©é\xad\x85\x9fÐž€œ ", max_size=6),
    st.text(alphabet=" \t\n\r\x0b\x00\ufeff\u2028\u202e\ud800\udc00a", max_size=8),
    st.text(max_size=6),
)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(PIECES, max_size=5), st.sampled_from(["ko", "ar", "zh", "ja", "vi"]), st.booleans())
def test_twice_is_once(pieces: list[str], tag: str, strip: bool) -> None:
    policy = CleanPolicy(
        languages=(tag, "en"),
        tashkeel="strip" if strip else "keep",
        visual_order="repair" if strip else "keep",
    )
    once = normalise("".join(pieces), policy).text
    assert normalise(once, policy).text == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()


def test_a_scar_or_an_example_of_mojibake_does_not_condemn_a_document() -> None:
    """Shapes met in manuals: two broken bytes in a long line, and a text that shows what mojibake looks like."""
    scar = f"{KO} 이 항목은 텍스트§\x8c 옵 \x98을 써서 만들어야 하며, 그 밖의 항목은 목록에서 고르면 됩니다."
    example = (
        f"{AR} وإذا ظهرت بعض الحروف مثل ”Ã©“ أو ”Ã¨“ أو ”Ã§“ فالملف مقروء بترميز آخر وليس تالفا على الإطلاق."
    )
    for text, tag in ((scar, "ko"), (example, "ar")):
        assert normalise(text, CleanPolicy(languages=(tag, "en"))).refused is None
    broken = "".join(KO.encode().decode("latin-1", "replace").split("\xeb"))
    assert normalise(broken, CleanPolicy(languages=("ko", "en"))).refused == "mojibake"


@pytest.mark.parametrize(
    ("tag", "codec", "body"), [("ja", "cp932", JA), ("zh", "gb18030", ZH), ("ko", "cp949", KO)]
)
def test_a_heading_full_of_latin_words_is_read_as_the_lines_below_it(tag: str, codec: str, body: str) -> None:
    heading = {"ja": "netdevice - Linux device driver ネットワーク", "zh": "(Matrix multiplication) https://a.org 矩阵相乘",
               "ko": "(virtual console) https://a.org 가상 콘솔"}[tag]  # fmt: skip
    text = f"{heading}\n{body}\n{body}"
    assert clean(text.encode(codec).decode("latin-1"), tag) == text
