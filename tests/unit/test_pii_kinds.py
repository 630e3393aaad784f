"""Every kind of personal datum planted in sentences of its language: found when right, else left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from sovtune.data.pii import find_personal_data

RANDOM = random.Random(20_261)


def digits(count: int, first: str = "0123456789") -> str:
    return RANDOM.choice(first) + "".join(RANDOM.choice("0123456789") for _ in range(count - 1))


def complete(body: str, holds: Callable[[str], bool], alphabet: str = "0123456789") -> str:
    """The body with the one last character for which the rule holds."""
    fitting = [body + last for last in alphabet if holds(body + last)]
    assert len(fitting) == 1, fitting
    return fitting[0]


# The rules, written a second time and in another way than in the product.
def luhn_holds(number: str) -> bool:
    table = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    odd, even = number[-1::-2], number[-2::-2]
    return (sum(map(int, odd)) + sum(table[int(d)] for d in even)) % 10 == 0


def verhoeff_holds(number: str) -> bool:
    d = ["0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
         "5987604321", "6598710432", "7659821043", "8765932104", "9876543210"]  # fmt: skip
    p = [
        "0123456789",
        "1576283094",
        "5803796142",
        "8916043527",
        "9453126870",
        "4286573901",
        "2793806415",
        "7046913258",
    ]
    check = 0
    for place, digit in enumerate(reversed(number)):
        check = int(d[check][int(p[place % 8][int(digit)])])
    return check == 0


def weighted(number: str, *weights: int) -> int:
    return sum(int(a) * b for a, b in zip(number, weights, strict=False))


RRN_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)


def date6() -> str:
    return f"{RANDOM.randint(60, 99)}{RANDOM.randint(1, 12):02}{RANDOM.randint(1, 28):02}"


def make_rrn(gender: str = "12", base: int = 11) -> str:
    body = date6() + RANDOM.choice(gender) + digits(5)
    return body + str((base - weighted(body, *RRN_WEIGHTS) % 11) % 10)


def make_frn() -> str:
    return make_rrn("56", 13)


def make_brn() -> str:
    def holds(n: str) -> bool:
        total = weighted(n[:8], 1, 3, 7, 1, 3, 7, 1, 3) + sum(divmod(int(n[8]) * 5, 10)) + int(n[9])
        return total % 10 == 0

    return complete(
        RANDOM.choice(["124", "215", "606", "301"]) + RANDOM.choice(["81", "86", "12"]) + digits(4), holds
    )


def make_cn_rid() -> str:
    year, month, day = RANDOM.randint(1950, 2010), RANDOM.randint(1, 12), RANDOM.randint(1, 28)
    body = f"{RANDOM.choice(['110105', '310104', '440306', '510107'])}{year}{month:02}{day:02}{digits(3)}"
    rest = weighted(body, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2) % 11
    return body + "10X98765432"[rest]


def make_uscc() -> str:
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    body = (
        "91"
        + RANDOM.choice(["110108", "310115", "440300"])
        + "MA"
        + "".join(RANDOM.choice(alphabet) for _ in range(7))
    )
    weights = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
    total = sum(alphabet.index(c) * w for c, w in zip(body, weights, strict=True))
    return body + alphabet[(31 - total % 31) % 31]


def make_my_number() -> str:
    body = digits(11, "123456789")
    rest = weighted(body, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2) % 11
    return body + str(0 if rest <= 1 else 11 - rest)


def make_sa_id() -> str:
    return complete(digits(9, "12"), luhn_holds)


def make_ae_id() -> str:
    return complete(f"784{RANDOM.randint(1950, 2010)}{digits(7)}", luhn_holds)


def make_aadhaar() -> str:
    return complete(digits(11, "23456789"), verhoeff_holds)


def make_pan() -> str:
    letters = "".join(RANDOM.choice("ABCDEFGHKLMNRSTVXYZ") for _ in range(3))
    return letters + "P" + RANDOM.choice("ABKMRS") + digits(4, "123456789") + RANDOM.choice("ABCDEFGHKL")


def make_tckn() -> str:
    nine = digits(9, "123456789")
    tenth = (weighted(nine, 7, -1, 7, -1, 7, -1, 7, -1, 7)) % 10
    return f"{nine}{tenth}{(sum(map(int, nine)) + tenth) % 10}"


def make_nik() -> str:
    day = RANDOM.randint(1, 28) + RANDOM.choice([0, 40])
    region = RANDOM.choice(["317404", "327301", "357801", "517102"])
    return f"{region}{day:02}{RANDOM.randint(1, 12):02}{RANDOM.randint(60, 99)}{digits(4, '123')}"


def make_cccd() -> str:
    return (
        RANDOM.choice(["001", "079", "048", "092"])
        + RANDOM.choice("01")
        + f"{RANDOM.randint(60, 99)}"
        + digits(6, "123")
    )


def make_card() -> str:
    return complete(
        RANDOM.choice(["4", "51", "55", "62", "3530", "9410"]).ljust(6, "1") + digits(9), luhn_holds
    )


def make_iban() -> str:
    country, size = RANDOM.choice([("SA", 24), ("AE", 23), ("TR", 26), ("DE", 22), ("KW", 30)])
    account = digits(size - 4)
    letters = "".join(str("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(c)) for c in account + country)
    return f"{country}{98 - int(letters + '00') % 97:02}{account}"


def make_ip() -> str:
    octets = [RANDOM.choice([121, 175, 211, 39, 82]), *(RANDOM.randint(40, 250) for _ in range(3))]
    return ".".join(map(str, octets))


def group(value: str, sizes: tuple[int, ...], join: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(value[at : at + size])
        at += size
    return join.join([*parts, value[at:]] if at < len(value) else parts)


def korean_mobile() -> str:
    # No 5: 010-597x to 010-599x are not allotted.
    return f"010-{digits(4, '2346789')}-{digits(4)}"


def spoil_last(value: str) -> str:
    return value[:-1] + (str((int(value[-1]) + 1) % 10) if value[-1].isdigit() else "0")


class Case(NamedTuple):
    """A kind, a sentence with {} for the value, how to make and write it, whether it is believed alone."""

    kind: str
    language: str
    sentence: str
    make: Callable[[], str]
    write: Callable[[str], str] = str
    alone: bool = True


PLANTED = [
    Case("kr_rrn", "ko", "신청인의 주민등록번호는 {}입니다.", make_rrn, lambda v: group(v, (6,), "-")),
    Case("kr_rrn", "ko", "주민번호 {}로 조회하세요.", make_rrn),
    Case("kr_rrn", "ko", "신청인({})이 방문했다.",
         lambda: make_rrn()[:-1] + digits(1), lambda v: group(v, (6,), "-")),
    Case("kr_frn", "ko", "외국인등록번호: {}", make_frn, lambda v: group(v, (6,), "-")),
    Case("kr_brn", "ko", "사업자등록번호 {}의 대표입니다.", make_brn, lambda v: group(v, (3, 2), "-")),
    Case("kr_brn", "ko", "사업자번호는 {}이다.", make_brn, alone=False),
    Case("cn_rid", "zh", "他的身份证号是{}，请核对。", make_cn_rid),
    Case("cn_rid", "zh", "持证人{}已登记。", make_cn_rid, lambda v: group(v, (6, 8), " ")),
    Case("cn_uscc", "zh", "统一社会信用代码为{}。", make_uscc),
    Case("jp_my_number", "ja", "マイナンバーは{}です。", make_my_number, alone=False),
    Case("jp_my_number", "ja", "個人番号：{}", make_my_number, lambda v: group(v, (4, 4), " ")),
    Case("sa_id", "ar", "رقم الهوية الوطنية {} للمواطن.", make_sa_id, alone=False),
    Case("sa_id", "ar", "رقم الإقامة: {}", make_sa_id, alone=False),
    Case("ae_id", "ar", "رقم الهوية الإماراتية {} ساري.", make_ae_id, lambda v: group(v, (3, 4, 7), "-")),
    Case("ae_id", "ar", "سجل {} في النظام.", make_ae_id),
    Case("in_aadhaar", "hi", "मेरा आधार {} है।", make_aadhaar, alone=False),
    Case("in_aadhaar", "hi", "आधार संख्या {} दर्ज करें।", make_aadhaar, lambda v: group(v, (4, 4), " ")),
    Case("in_pan", "hi", "पैन {} के साथ आवेदन करें।", make_pan),
    Case("tr_tckn", "tr", "T.C. kimlik numarası {} olan kişi başvurdu.", make_tckn),
    Case("id_nik", "id", "NIK {} tercantum pada KTP.", make_nik),
    Case("vn_cccd", "vi", "Số căn cước công dân {} do công an cấp.", make_cccd, alone=False),
    Case("payment_card", "ko", "카드 {} 결제를 취소해 주세요.",
         make_card, lambda v: group(v, (4, 4, 4), "-")),
    Case("payment_card", "ar", "رقم البطاقة {} منتهي.", make_card, lambda v: group(v, (4, 4, 4), " ")),
    Case("payment_card", "ja", "クレジットカード{}で支払う。", make_card, alone=False),
    Case("iban", "ar", "حوّل المبلغ إلى {} اليوم.",
         make_iban, lambda v: group(v, (4,) * (len(v) // 4), " ")),
    Case("iban", "tr", "Hesap: {}", make_iban),
    Case("ip", "ko", "접속 IP는 {}이었다.", make_ip),
    Case("ip", "vi", "Máy {} đã kết nối.", make_ip),
    Case("phone", "ko", "문의는 {}으로 주세요.", korean_mobile),
    Case("phone", "ko", "제 번호는 {}입니다.", lambda: f"010{digits(4, '2346789')}{digits(4)}"),
    Case("phone", "ko", "사무실 {} 내선 3번", lambda: f"02-{digits(3, '5')}-{digits(4)}"),
    Case("phone", "ko", "해외에서는 {}로 거세요.", lambda: f"+82-10-{digits(4, '2346789')}-{digits(4)}"),
    Case("phone", "zh", "请拨打{}联系我。", lambda: f"138{digits(8)}"),
    Case("phone", "zh", "办公室{}。", lambda: f"010-{digits(8, '68')}"),
    Case("phone", "ja", "電話は{}まで。", lambda: f"090-{digits(4, '123456789')}-{digits(4)}"),
    Case("phone", "ar", "رقم الجوال {} للتواصل.", lambda: f"05{digits(1, '03456789')}{digits(7)}"),
    Case("phone", "ar", "اتصل على {} الآن.",
         lambda: f"+9665{digits(1, '03456789')} {digits(3)} {digits(4)}"),
    Case("phone", "hi", "फ़ोन {} पर बात करें।", lambda: f"98{digits(8)}", alone=False),
    Case("phone", "hi", "मेरा नंबर +91 {} है।", lambda: f"98{digits(3)} {digits(5)}", alone=False),
    Case("phone", "tr", "Telefon: {}", lambda: f"0532 {digits(3, '23456')} {digits(2)} {digits(2)}"),
    Case("phone", "id", "Hubungi {} untuk info.", lambda: f"0812-{digits(4, '123456789')}-{digits(4)}"),
    Case("phone", "vi", "Gọi {} để đặt lịch.", lambda: f"091{digits(1)} {digits(3)} {digits(3)}"),
    Case("phone", "en", "Call (212) {} today.", lambda: f"{digits(3, '5')}-{digits(4)}", alone=False),
    Case("email", "ko", "메일은 {}으로 보내세요.", lambda: f"minsu.kim{digits(2)}@naver.com"),
    Case("email", "ar", "البريد {}، شكراً.", lambda: f"sara_{digits(3)}@mail.gov.sa"),
]  # fmt: skip


def expected(sentence: str, written: str) -> tuple[str, int, int]:
    """The text, and where the value stands in it (a prefix in the sentence such as +91 or (212) counts)."""
    text = sentence.format(written)
    start = text.index(written)
    for prefix in ("+91 ", "(212) "):
        if text[:start].endswith(prefix):
            start -= len(prefix)
    return text, start, text.index(written) + len(written)


IDS = [f"{case.kind}-{case.language}-{number}" for number, case in enumerate(PLANTED)]


@pytest.mark.parametrize("case", PLANTED, ids=IDS)
def test_planted_values_are_found_at_their_place(case: Case) -> None:
    for _ in range(8):
        text, start, end = expected(case.sentence, case.write(case.make()))
        found = find_personal_data(text, [case.language])
        assert [(item.kind, item.start, item.end) for item in found] == [(case.kind, start, end)], text


SCRIPTS = {
    "full-width": "０１２３４５６７８９",
    "arabic": "٠١٢٣٤٥٦٧٨٩",
    "persian": "۰۱۲۳۴۵۶۷۸۹",
    "devanagari": "०१२३४५६७८९",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("case", [case for case in PLANTED if case.kind != "email"])
def test_digits_of_other_scripts_are_read(case: Case, script: str) -> None:
    text, start, end = expected(case.sentence, case.write(case.make()))
    turned = text.translate(str.maketrans("0123456789", SCRIPTS[script]))
    assert len(turned) == len(text)
    found = find_personal_data(turned, [case.language])
    assert [(item.kind, item.start, item.end) for item in found] == [(case.kind, start, end)]


UNCHECKED = ("kr_rrn", "kr_frn", "in_pan", "id_nik", "vn_cccd", "ip", "phone", "email")


@pytest.mark.parametrize("case", [case for case in PLANTED if case.kind not in UNCHECKED])
def test_a_wrong_check_digit_is_no_hit(case: Case) -> None:
    for _ in range(8):
        text = case.sentence.format(case.write(spoil_last(case.make())))
        assert case.kind not in {item.kind for item in find_personal_data(text, [case.language])}, text


@pytest.mark.parametrize("case", [case for case in PLANTED if not case.alone and case.kind != "phone"])
def test_a_bare_number_without_a_label_is_no_hit(case: Case) -> None:
    for _ in range(8):
        found = find_personal_data(f"= {case.make()} ;", [case.language])
        assert case.kind not in {item.kind for item in found}


# An address in a link is found on purpose; in two sentences a part of the number stands in the sentence.
WHOLE = [
    case for case in PLANTED if case.kind != "email" and not set("+(") & set(case.sentence.split("{")[0])
]


@pytest.mark.parametrize("case", WHOLE)
def test_inside_longer_runs_identifiers_and_links_nothing_is_found(case: Case) -> None:
    for pattern in ("7{}", "{}7", "id_{}", "{}_x", "abc{}", "{}abc", "https://a.kr/{}", "x-{}"):
        if case.kind == "phone" and pattern == "{}7" and case.language == "id":
            continue  # Indonesian mobile numbers have 10 to 13 digits: one more may be another number
        text = case.sentence.format(pattern.format(case.write(case.make())))
        assert case.kind not in {item.kind for item in find_personal_data(text, [case.language])}, text
