"""Defects to plant in clean text, each with a way to see that the data gate caught it; used by measure_gate.py."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sovtune.data.clean import CleanPolicy, normalise
from sovtune.data.document import joined
from sovtune.data.gate import JudgedRow
from sovtune.data.pii import checks

HOST_LETTERS, LINE_LETTERS, LINES = 60, 25, 5
"""Letters of a text that a defect is planted in, and of a single line to reverse; lines to reverse for each text."""
LEGACY = {"ko": "cp949", "zh": "gb18030", "ja": "cp932", "ar": "cp1256"}
REVERSIBLE = ("ar", "fa")
TWIN, HELD_OUT = "(twin)", "held-out text"
LABELS = {
    "ko": ("전화번호: ", "이메일: ", "카드번호: ", "주민등록번호: "),
    "ar": ("رقم الهاتف: ", "البريد الإلكتروني: ", "رقم البطاقة: ", "رقم الهوية: "),
    "zh": ("电话：", "电子邮箱：", "银行卡号：", "身份证号："),
    "ja": ("電話番号：", "メール：", "カード番号：", "マイナンバー："),
    "hi": ("फ़ोन: ", "ईमेल: ", "कार्ड संख्या: ", "आधार संख्या: "),
}
PHONES = {
    "ko": "010-{}-{}",
    "ar": "+966 50 {0:.3} {1}",
    "zh": "138{}{}",
    "ja": "090-{}-{}",
    "hi": "+91 98{0:.3} 2{1}",
}
IDENTIFIERS: dict[str, tuple[str, str, Callable[[str], bool]]] = {
    "ko": ("kr_rrn", "9001012", checks.kr_check_digit),
    "ar": ("sa_id", "1", checks.sa_id),
    "zh": ("cn_rid", "11010519900307", checks.cn_rid),
    "ja": ("jp_my_number", "4", checks.jp_my_number),
    "hi": ("in_aadhaar", "5", checks.in_aadhaar),
}
LENGTHS = {"kr_rrn": 13, "sa_id": 10, "cn_rid": 18, "jp_my_number": 12, "in_aadhaar": 12}


@dataclass(slots=True)
class Plant:
    """One planted row: its kind, its text, and how to see that it was caught.

    Of a ``pair`` it is enough that this row or the one before it was caught.
    """

    kind: str
    text: str
    caught: Callable[[JudgedRow], bool]
    codec: str = "utf-8"
    pair: bool = False


@dataclass(slots=True)
class Field:
    """The planted rows of one language, and the held-out texts."""

    language: str
    plants: list[Plant] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


def plant(language: str, hosts: list[str], foreign: list[str], count: int, chance: random.Random) -> Field:
    """Give each defect a host of its own, so that nothing is planted twice in the same text.

    Args:
        language: the hosts' language.
        hosts: clean texts, no two of them alike.
        foreign: clean texts in other languages.
        count: defects of each kind.
        chance: where random choices come from.
    """
    planted = Field(language)
    pool = [text for text in hosts if sum(map(str.isalpha, text)) >= HOST_LETTERS]
    chance.shuffle(pool)
    given = Hosts(pool, language)
    makers = [wrong_bytes, twins, credentials, overlaps, *([personal] if language in LABELS else [])]
    for done in range(count):
        try:
            round_of_plants = [one for make in makers for one in make(planted, given, chance)]
        except TooFewDocuments as error:
            if not done:
                raise SystemExit(str(error)) from error
            print(f"{error}: {done} of each kind instead of {count}", file=sys.stderr)
            break
        planted.plants += round_of_plants
    others = [text for text in foreign if HOST_LETTERS <= len(text) <= 2000]
    for text in chance.sample(others, min(count, len(others))):
        planted.plants.append(Plant("wrong language", text, lambda row: row.reason == "wrong_language"))
    return planted


class TooFewDocuments(Exception):
    """There is no clean document left to plant in."""


class Hosts(Iterator[str]):
    """Documents, each given out once; says so when there are no more."""

    def __init__(self, pool: list[str], language: str):
        self._left, self._language = iter(pool), language

    def __next__(self) -> str:
        for text in self._left:
            return text
        raise TooFewDocuments(f"{self._language}: too few documents of {HOST_LETTERS} letters")


def said(row: JudgedRow) -> str:
    """The curated text of a row, nothing when it was dropped."""
    return joined(row.document) if row.document is not None else ""


def restored(text: str) -> Callable[[JudgedRow], bool]:
    """The row reads as the clean host does after the gate's own normalising, however lines are broken."""
    return lambda row: said(row).split() == normalise(text, CleanPolicy(languages=("en",))).text.split()


def restored_or_gone(text: str) -> Callable[[JudgedRow], bool]:
    """The row was repaired or dropped."""
    return lambda row: row.document is None or restored(text)(row)


def wrong_bytes(planted: Field, hosts: Iterator[str], chance: random.Random) -> Iterator[Plant]:
    """NFD, mojibake, legacy codecs, reversed Arabic."""
    host = next(hosts)
    if unicodedata.normalize("NFD", host) != host:
        yield Plant("NFD", unicodedata.normalize("NFD", host), restored(host))
    for codec in ("latin-1", "cp1252"):
        host = next(hosts)
        broken = host.encode().decode(codec, "replace")
        yield Plant(f"UTF-8 read as {codec}", broken, restored_or_gone(host))
    if planted.language in REVERSIBLE:
        backwards = "\n".join(line[::-1] for line in next(hosts).split("\n"))
        yield Plant("reversed Arabic script", backwards, lambda row: row.reason == "visual_order")
        for _ in range(LINES):
            line = max(next(hosts).split("\n"), key=lambda line: sum(map(is_arabic, line)))
            if sum(map(is_arabic, line)) >= LINE_LETTERS:
                yield Plant("reversed single line", line[::-1], lambda row: row.reason == "visual_order")
    legacy = LEGACY.get(planted.language)
    if legacy is None:
        return
    host = encodable(hosts, legacy)
    yield Plant(f"{legacy} read as latin-1", host.encode(legacy).decode("latin-1"), restored_or_gone(host))
    host = encodable(hosts, legacy)
    yield Plant(f"row in {legacy}", host.replace("\n", " "), restored(host), codec=legacy)


def is_arabic(char: str) -> bool:
    """Whether a character is a letter of the Arabic block."""
    return "\u0620" <= char <= "\u06d3" and char.isalpha()


def encodable(hosts: Iterator[str], codec: str) -> str:
    """The next host that the codec can hold."""
    for host in hosts:
        try:
            host.encode(codec)
        except UnicodeEncodeError:
            continue
        return host
    raise TooFewDocuments(f"too few documents that {codec} can hold")


def twins(planted: Field, hosts: Iterator[str], chance: random.Random) -> Iterator[Plant]:
    """A copy with one word changed, and one with other spacing and punctuation; either twin may go."""
    host = next(hosts)
    words = host.split()
    if planted.language not in ("zh", "ja"):
        words[len(words) // 2] = words[0]
        copy = " ".join(words)
    else:
        middle = len(host) // 2
        copy = host[: middle - 1] + host[:2] + host[middle + 1 :]
    yield Plant(TWIN, host, lambda row: True)
    yield Plant("near-duplicate", copy, lambda row: "duplicate" in (row.reason or ""), pair=True)
    host = next(hosts)
    yield Plant(TWIN, host, lambda row: True)
    spaced = "\u00a0 ".join(host.replace(". ", " ! ").split())
    yield Plant("other spacing", spaced, lambda row: "duplicate" in (row.reason or ""), pair=True)


def digits(chance: random.Random, count: int) -> str:
    """Random digits."""
    return "".join(chance.choice("0123456789") for _ in range(count))


def completed(chance: random.Random, head: str, length: int, holds: Callable[[str], bool]) -> str:
    """Digits that begin with ``head`` and satisfy a rule."""
    while True:
        number = head + digits(chance, length - len(head))
        if holds(number):
            return number


def personal(planted: Field, hosts: Iterator[str], chance: random.Random) -> Iterator[Plant]:
    """A telephone number, an address, a card and a national identifier, valid and with a wrong check digit."""
    language = planted.language
    phone, email, card, identity = LABELS[language]
    kind, head, holds = IDENTIFIERS[language]
    number = PHONES[language].format("2" + digits(chance, 3), digits(chance, 4))
    address = (
        f"{chance.choice(('minji', 'omar', 'wei', 'yuki', 'asha'))}{digits(chance, 3)}@univ-{language}.ac.kr"
    )
    good_card = completed(chance, "4", 16, checks.luhn)
    good_id = completed(chance, head, LENGTHS[kind], holds)
    valid = (
        ("phone", phone, number),
        ("email", email, address),
        ("payment_card", card, good_card),
        (kind, identity, good_id),
    )
    for name, label, value in valid:
        shown = f"{value[:6]}-{value[6:]}" if name == "kr_rrn" else value
        yield Plant(f"{name}", f"{next(hosts)}\n{label}{shown}", masked(name, shown))
    bad_card = completed(chance, "4", 16, lambda value: not checks.luhn(value))
    bad_id = (
        f"991301-{digits(chance, 7)}"
        if kind == "kr_rrn"
        else completed(chance, head, LENGTHS[kind], lambda value: not holds(value))
    )
    for name, value in (("payment_card", bad_card), (kind, bad_id)):
        yield Plant(f"invalid {name} left alone", f"{next(hosts)}\n{value}", unmasked(name))


def masked(kind: str, value: str) -> Callable[[JudgedRow], bool]:
    """The kind was found and the value is gone."""
    return lambda row: kind in row.found and value not in said(row)


def unmasked(kind: str) -> Callable[[JudgedRow], bool]:
    """The kind was not found."""
    return lambda row: kind not in row.found


def credentials(planted: Field, hosts: Iterator[str], chance: random.Random) -> Iterator[Plant]:
    """A key of a service, a private key, an address with a password."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    body = "".join(chance.choice(letters + "0123456789") for _ in range(40))
    secrets = (
        f"sk-{body[:20]}7{body[20:30]}",
        f"ghp_{body[:36]}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n{body[::-1]}\n-----END RSA PRIVATE KEY-----",
        f"https://admin:{body[:12]}@db.example.org/x",
    )
    value = chance.choice(secrets)
    core = body[:12]
    # A long key in a short text of another script may also take the row for one in another language: it is gone too.
    yield Plant("secret", f"{next(hosts)}\n{value}", lambda row: core not in said(row))


def overlaps(planted: Field, hosts: Iterator[str], chance: random.Random) -> Iterator[Plant]:
    """A held-out text inside a row, with other spacing."""
    held_out, host = next(hosts), next(hosts)
    planted.held_out.append(held_out)
    copy = (
        held_out.replace(" ", "")
        if planted.language in ("ko", "zh", "ja")
        else held_out.replace(" ", "\u00a0 ")
    )
    half = len(host) // 2
    text = f"{host[:half]}\n{copy}\n{host[half:]}"
    yield Plant(HELD_OUT, text, lambda row: row.reason == "contamination")
