"""Personal data: what a finding tells, overlaps, masking, counting, and ordinary text that is left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.pii import KINDS, Finding, count, find_personal_data, mask, placeholder
from sovtune.data.pii.placeholders import ALL_PLACEHOLDERS, LANGUAGES
from sovtune.secrets import find_secrets, secret_spans

MIXED = "담당 홍길동, 주민등록번호 900101-1234567, 전화 010-2345-6789, minsu@naver.com, 서버 211.45.67.89."


def kinds(text: str, *languages: str) -> list[str]:
    return [item.kind for item in find_personal_data(text, languages or ("ko",))]


def test_findings_are_in_order_and_apart() -> None:
    found = find_personal_data(MIXED, ["ko"])
    assert [item.kind for item in found] == ["kr_rrn", "phone", "email", "ip"]
    assert all(left.end <= right.start for left, right in pairwise(found))


def test_a_finding_never_tells_the_value() -> None:
    for item in find_personal_data(MIXED, ["ko"]):
        assert set(Finding.__slots__) == {"kind", "start", "end", "confidence"}
        assert MIXED[item.start : item.end] not in repr(item)


def test_mask_puts_placeholders_in_the_language_of_the_corpus() -> None:
    found = find_personal_data(MIXED, ["ko"])
    assert mask(MIXED, found, "ko") == (
        "담당 홍길동, 주민등록번호 <주민등록번호>, 전화 <전화번호>, <이메일>, 서버 <IP 주소>."
    )
    assert "<رقم الهاتف>" in mask(
        "رقم الجوال ٠٥٠١٢٣٤٥٦٧", find_personal_data("رقم الجوال ٠٥٠١٢٣٤٥٦٧", ["ar"]), "ar-SA"
    )
    assert placeholder("cn_rid", "zh") == "<身份证号>"
    assert placeholder("cn_rid", "zh-TW") == placeholder("cn_rid", "zh-Hant-HK") == "<身分證號>"
    assert placeholder("jp_my_number", "ja") == "<マイナンバー>"
    assert placeholder("in_aadhaar", "hi") == "<आधार संख्या>"
    assert placeholder("phone", "eu") == "<phone number>"


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_tell_kinds_apart_and_are_never_found(language: str) -> None:
    texts = [placeholder(kind, language) for kind in KINDS]
    assert len(set(texts)) == len(KINDS)
    assert set(texts) <= ALL_PLACEHOLDERS
    assert find_personal_data(" ".join(texts), [language]) == []


def test_mask_refuses_findings_of_another_text() -> None:
    with pytest.raises(ValueError, match="outside a text of 2"):
        mask("가나", [Finding("phone", 1, 9, "high")], "ko")
    with pytest.raises(ValueError, match="no placeholder"):
        mask("가나", [Finding("shoe_size", 0, 1, "high")], "ko")


def test_mask_takes_findings_in_any_order_and_the_first_of_two_that_overlap() -> None:
    found = [Finding("email", 4, 6, "high"), Finding("phone", 0, 3, "high"), Finding("ip", 2, 4, "high")]
    assert mask("abcdefgh", found, "en") == "<phone number>d<email address>gh"


def test_count_is_by_kind() -> None:
    assert count(find_personal_data(MIXED + " 010-9876-5432", ["ko"])) == {
        "email": 1,
        "ip": 1,
        "kr_rrn": 1,
        "phone": 2,
    }
    assert count([]) == {}


FRAGMENTS = st.sampled_from(
    [
        "010-1234-5678",
        "900101-1234567",
        "4111 1111 1111 1111",
        "AE07 0331 2345 6789 0123 456",
        "13812345678",
        "11010519491231002X",
        "784-1985-1234567-1",
        "2341 2341 2346",
        "1234567890",
        "0501234567",
        "+82",
        "02",
        "1",
        "9",
        "211.45.67.89",
        "1.2.3.4",
        "minsu@naver.com",
        "@",
        "전화",
        "카드",
        "주민등록번호",
        "هوية",
        "身份证",
        "주문번호",
        "IP",
        "<전화번호>",
        "<",
        ">",
        " ",
        "  ",
        "-",
        ".",
        ",",
        "/",
        "(",
        ")",
        "a",
        "가",
        "\n",
        "https://a.kr/",
        "٠١٢٣",
        "２０２４",
        "\u200e",
        "-",
        ":",
        "_",
        "v",
        "tel:",
        "ABCPA1234F",
        "2404:6800::1",
    ]
)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(FRAGMENTS, max_size=14).map("".join), st.sampled_from(["ko", "ar", "zh", "ja", "hi", "tr", "en"])
)
def test_masking_twice_changes_nothing(text: str, language: str) -> None:
    found = find_personal_data(text, [language])
    masked = mask(text, found, language)
    assert find_personal_data(masked, [language]) == []
    assert all(0 <= item.start < item.end <= len(text) for item in found)
    assert all(left.end <= right.start for left, right in pairwise(found))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_survived(text: str) -> None:
    assert mask(text, find_personal_data(text, ["ko", "ar", "en"]), "ko") or not text


def test_a_value_freed_by_masking_its_neighbour_is_found_at_once() -> None:
    text = "minsu@naver.com010-1234-5678"
    masked = mask(text, find_personal_data(text, ["ko"]), "ko")
    assert find_personal_data(masked, ["ko"]) == []


def test_a_label_raises_the_confidence() -> None:
    (bare,) = find_personal_data("그는 010-2345-6789라고 적었다", ["ko"])
    (labelled,) = find_personal_data("휴대폰은 010-2345-6789", ["ko"])
    (behind,) = find_personal_data("010-2345-6789 (휴대폰)", ["ko"])
    assert (bare.confidence, labelled.confidence, behind.confidence) == ("medium", "high", "high")


def test_the_check_digit_of_a_resident_number_only_raises_the_confidence() -> None:
    (random_end,) = find_personal_data("홍길동(900101-1234567)", ["ko"])
    (checked,) = find_personal_data("홍길동(900101-1234568)", ["ko"])
    assert (random_end.confidence, checked.confidence) == ("medium", "high")


def test_addresses_of_example_domains_are_of_low_confidence() -> None:
    assert [item.confidence for item in find_personal_data("a@example.com b@mail.example.org", ["en"])] == [
        "low"
    ] * 2


def test_shapes_of_other_countries_need_their_label() -> None:
    assert kinds("كود 900101-1234568", "ar") == []
    assert kinds("تسجيل 주민등록번호 900101-1234568", "ar") == ["kr_rrn"]
    assert kinds("번호 2341 2341 2346", "ko") == []
    assert kinds("번호 2341 2341 2346", "hi") == ["in_aadhaar"]


def test_a_region_in_the_tag_narrows_the_telephone_plans() -> None:
    assert kinds("رقم 0101 234 5678", "ar-EG") == ["phone"]
    assert kinds("رقم 0101 234 5678", "ar-SA") == []


def test_two_numbers_side_by_side_are_two_findings() -> None:
    assert kinds("+82 10-1234-5678 02-555-1234") == ["phone", "phone"]
    assert kinds("홍길동,900101-1234567,010-2345-6789") == ["kr_rrn", "phone"]
    assert kinds("010-2345-6789/010-9876-5432") == ["phone", "phone"]


ORDINARY = [
    ("ko", "2024년 3월 15일 10시 30분에 12,345,678원을 결제했고 환율은 1,334.50원이었다."),
    ("ko", "2023-12-31부터 2024-01-01까지, 2024.01.15.~2024.02.15., 20240115"),
    ("ko", "ISBN 979-11-1234-567-8, ISSN 1225-1234, DOI 10.1000/182, 제10-1234567호 특허"),
    ("ko", "주문번호 20240115123456, 송장번호 123456789012, 일련번호 SN-20240115-0001"),
    ("ko", "파이썬 3.11.7, 커널 5.15.0-91-generic, 버전 10.0.19045.3803, 크롬 120.0.6099.109"),
    ("ko", "for i in range(1000000, 2000000): x = 0x7fffffff + 123456789 * 987654321 - 2147483647"),
    ("ko", "md5 d41d8cd98f00b204e9800998ecf8427e, 550e8400-e29b-41d4-a716-446655440000"),
    ("ko", "seed=1234567890, time=1700000000, ms=1700000000123, 1e-10, 6.02214076e23, 3.141592653589793"),
    ("ko", "해상도 1920x1080, 비율 16:9, 인구 51,780,579명, 좌표 37.566535, 126.977969"),
    ("ko", "@dataclass 장식자와 a @ b 행렬곱, print('@') 그리고 user@host 셸 프롬프트"),
    ("ko", "1980-1990년대, 1988~2002, 100-200쪽, 3-4-5 삼각형, 5·18"),
    ("ar", "في عام ١٩٩٥ بلغ عدد السكان ١٨٬١٣٦٬٠٠٠ نسمة، وفي ٢٠٢٤/٠١/١٥ ارتفع إلى 35,300,280."),
    ("ar", "رقم الطلب 1000000008 والفاتورة 2000000006 والسعر 1,299.00 ريال"),
    ("zh", "2024年1月15日，订单号202401151234567890，共计1,234,567元，版本号10.0.19045.3803。"),
    ("zh", "圆周率3.14159265358979323846，时间戳1700000000000，第123456789号"),
    ("ja", "２０２４年１月１５日、価格は１２３，４５６円、注文番号 1234-5678-9012、型番ABC-12345678。"),
    ("hi", "वर्ष २०२४ में जनसंख्या 1,42,86,27,663 थी और कीमत ₹12,34,567.00 है। ऑर्डर 123456789012"),
    ("tr", "15.01.2024 tarihinde 1.234.567,89 TL ödendi; sipariş no 12345678901, sürüm 1.2.3.4."),
    ("id", "Pada 15-01-2024 dibayar Rp1.234.567.890; nomor resi 1234567890123456, versi 2.10.3.4."),
    ("vi", "Ngày 15/01/2024 thanh toán 1.234.567.890 đồng; mã đơn hàng 123456789012."),
    ("en", "Pages 100-2000, 1990-2000, 4.2.10.20, 1,234,567,890, ZIP 02110-1301, room 555-1234."),
    ("en", "loopback 127.0.0.1, 192.168.1.1, 0.0.0.0, 255.255.255.0, ::1, fe80::1, 2001:db8::1"),
]


@pytest.mark.parametrize(("language", "text"), ORDINARY)
def test_ordinary_text_is_left_alone(language: str, text: str) -> None:
    assert [
        (item.kind, text[item.start : item.end]) for item in find_personal_data(text, [language, "en"])
    ] == []


def test_a_long_table_of_numbers_takes_linear_time() -> None:
    assert find_personal_data("1 " * 50_000, ["ko"]) == []
    assert find_personal_data("a@" * 50_000 + "(" * 50_000 + "7" * 50_000, ["ko"]) == []


# Put together here so that no key stands in the repository.
TOKEN = "hf_" + "aB3" * 12
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA\n" * 3 + "-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"토큰은 {TOKEN}입니다", TOKEN),
        (f"키:\n{PEM}\n끝", PEM),
        ("git clone https://minsu:" + "s3cret@git.example.kr/a", "minsu:s3cret"),
        ("Authorization: Bearer " + "x9" * 12 + " 를 보내라", "Authorization: Bearer " + "x9" * 12),
        (PEM.split("-----END", maxsplit=1)[0] + "그리고", PEM.split("-----END", maxsplit=1)[0]),
    ],
)
def test_secrets_are_masked_whole(text: str, secret: str) -> None:
    (span,) = secret_spans(text)
    name, start, end = span
    assert text[start:end] == secret
    assert [name] == [kind for kind, _ in find_secrets(text)]
    masked = mask(text, [Finding("secret", start, end, "high")], "ko")
    assert masked == text.replace(secret, "<비밀값>")
    assert secret_spans(masked) == find_secrets(masked) == []
