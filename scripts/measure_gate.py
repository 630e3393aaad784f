"""Plant defects of every kind in clean text, put it through the data gate, and print what was caught.

    python scripts/measure_gate.py ko=ko.jsonl ar=ar.jsonl zh=zh.jsonl ja=ja.jsonl hi=hi.jsonl
    python scripts/measure_gate.py ko=ko.jsonl --count 10 --json

Each file holds clean documents of one language (.jsonl with `text`, or .txt). Documents of at least 60 letters are
taken as hosts, one for each planted defect, so nothing is planted twice in the same text. What is left is clean, and
what the gate drops of it is counted as a false alarm. Exit code 1 when a recall is below 0.95 or more than 0.5 % of
the clean documents are dropped.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sovtune.data.clean import CleanPolicy, normalise
from sovtune.data.files import LocalFile
from sovtune.data.gate import JudgedRow, curate
from sovtune.data.gate_read import GateSource, joined, rows_of, slices
from sovtune.data.gate_settings import GateSettings
from sovtune.data.pii import checks

LEAST_RECALL, MOST_FALSE = 0.95, 0.005
HOST_LETTERS, LONGEST = 60, 1500
LEGACY = {"ko": "cp949", "zh": "gb18030", "ja": "cp932", "ar": "cp1256"}
TWIN = "(twin)"
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
    """The planted rows of one language, the clean rest, and the held-out texts."""

    language: str
    plants: list[Plant] = field(default_factory=list)
    clean: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="LANGUAGE=FILE")
    parser.add_argument("--count", type=int, default=4, help="defects of each kind and language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="show what was missed")
    arguments = parser.parse_args()
    texts = {word.partition("=")[0]: read(Path(word.partition("=")[2])) for word in arguments.files}
    chance = random.Random(arguments.seed)
    found: dict[str, dict[str, list[bool]]] = {}
    false: dict[str, tuple[int, int, dict[str, int]]] = {}
    for language, documents in texts.items():
        foreign = [text for other, group in texts.items() if other != language for text in group]
        planted = plant(language, documents, foreign, arguments.count, chance)
        found[language], false[language] = measure(planted, arguments.verbose)
    return show(found, false, as_json=arguments.json)


def read(path: Path) -> list[str]:
    """The documents of a file as text."""
    source = GateSource(file=LocalFile(path=path, shown=path.name))
    with tempfile.TemporaryDirectory() as scratch:
        parts = slices(0, source, [], 8 << 20, Path(scratch))
        rows = [row for part in parts for row in rows_of(part, source, [])]
    texts = [unicodedata.normalize("NFC", joined(row.document)) for row in rows if row.document is not None]
    return [piece for text in texts for piece in pieces(text)]


def pieces(text: str) -> Iterator[str]:
    """A text, or when it is long its lines in pieces of about ``LONGEST`` characters: more hosts."""
    held: list[str] = []
    for line in text.split("\n"):
        if sum(map(len, held)) + len(line) > LONGEST and held:
            yield "\n".join(held)
            held = []
        held.append(line)
    yield "\n".join(held)


def plant(
    language: str, documents: list[str], foreign: list[str], count: int, chance: random.Random
) -> Field:
    """Give each defect a host of its own; what is left of the documents stays clean."""
    planted = Field(language)
    fit = (text for text in dict.fromkeys(documents) if sum(map(str.isalpha, text)) >= HOST_LETTERS)
    pool = [text for text in fit if "@" not in text]  # what is masked anyway could not be compared
    chance.shuffle(pool)
    hosts = Hosts(pool, language)
    for make in (wrong_bytes, twins, personal, credentials, overlaps):
        for _ in range(count):
            planted.plants += make(planted, hosts, chance)
    others = [text for text in foreign if HOST_LETTERS <= len(text) <= 2000]
    for text in chance.sample(others, min(count, len(others))):
        planted.plants.append(Plant("wrong language", text, lambda row: row.reason == "wrong_language"))
    used = hosts.given
    planted.clean = [text for text in dict.fromkeys(documents) if text not in used]
    return planted


class Hosts(Iterator[str]):
    """Documents, each given out once; says so when there are no more."""

    def __init__(self, pool: list[str], language: str):
        self._left, self._language = iter(pool), language
        self.given: set[str] = set()

    def __next__(self) -> str:
        for text in self._left:
            self.given.add(text)
            return text
        raise SystemExit(f"{self._language}: too few documents of {HOST_LETTERS} letters; lower --count")


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
    legacy = LEGACY.get(planted.language)
    if legacy is None:
        return
    host = encodable(hosts, legacy)
    yield Plant(f"{legacy} read as latin-1", host.encode(legacy).decode("latin-1"), restored_or_gone(host))
    host = encodable(hosts, legacy)
    yield Plant(f"row in {legacy}", host.replace("\n", " "), restored(host), codec=legacy)
    if planted.language == "ar":
        backwards = "\n".join(line[::-1] for line in next(hosts).split("\n"))
        yield Plant("reversed Arabic", backwards, lambda row: row.reason == "visual_order")


def encodable(hosts: Iterator[str], codec: str) -> str:
    """The next host that the codec can hold."""
    for host in hosts:
        try:
            host.encode(codec)
        except UnicodeEncodeError:
            continue
        return host
    raise SystemExit(f"too few documents that {codec} can hold")


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
    yield Plant(
        "secret", f"{next(hosts)}\n{value}", lambda row: "secret" in row.found and core not in said(row)
    )


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
    yield Plant("held-out text", text, lambda row: row.reason == "contamination")


def measure(planted: Field, verbose: bool) -> tuple[dict[str, list[bool]], tuple[int, int, dict[str, int]]]:
    """Write the files, run the gate, and compare row by row."""
    rows = [one for one in planted.plants if one.codec == "utf-8"]
    legacy = [one for one in planted.plants if one.codec != "utf-8"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = [
            write(folder / "clean.jsonl", planted.clean),
            write(folder / "rows.jsonl", [one.text for one in rows]),
        ]
        if legacy:
            (folder / "legacy.txt").write_bytes(
                b"".join(one.text.encode(one.codec) + b"\n" for one in legacy)
            )
            sources.append(GateSource(file=LocalFile(path=folder / "legacy.txt", shown="legacy.txt")))
        held_out = [write(folder / "held-out.jsonl", planted.held_out)]
        settings = GateSettings(language=planted.language, candidates=(planted.language, "en"))
        with curate(sources, settings, folder / "work", held_out=held_out, workers=1) as curated:
            judged = list(curated.rows())
    caught: dict[str, list[bool]] = {}
    before: JudgedRow | None = None
    for one, row in zip([*rows, *legacy], [row for row in judged if row.file != "clean.jsonl"], strict=True):
        if one.kind != TWIN:
            hit = one.caught(row) or (one.pair and before is not None and one.caught(before))
            caught.setdefault(one.kind, []).append(hit)
            if not hit and verbose:
                print(
                    f"MISSED {planted.language} {one.kind}: {row.reason} {row.changed} {row.found}",
                    file=sys.stderr,
                )
                print(f"  in:  {one.text[:300]!r}\n  out: {said(row)[:300]!r}", file=sys.stderr)
        before = row
    reasons: dict[str, int] = {}
    for row in judged:
        # Documents of one corpus may in truth repeat each other or a text that was held out: no false alarm.
        repeats = row.reason is not None and ("duplicate" in row.reason or row.reason == "contamination")
        if row.file == "clean.jsonl" and row.reason is not None and not repeats:
            if verbose:
                print(
                    f"FALSE {planted.language} {row.reason}: {planted.clean[row.row - 1][:300]!r}",
                    file=sys.stderr,
                )
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    return caught, (sum(reasons.values()), len(planted.clean), reasons)


def write(path: Path, texts: list[str]) -> GateSource:
    """Texts as JSON lines."""
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8"
    )
    return GateSource(file=LocalFile(path=path, shown=path.name))


def show(
    found: dict[str, dict[str, list[bool]]],
    false: dict[str, tuple[int, int, dict[str, int]]],
    *,
    as_json: bool,
) -> int:
    """Print recall by kind over all languages, misses by language, and false alarms; returns the exit code."""
    kinds: dict[str, list[bool]] = {}
    for caught in found.values():
        for kind, results in caught.items():
            kinds.setdefault(kind, []).extend(results)
    recall = {kind: sum(results) / len(results) for kind, results in kinds.items()}
    planted = sum(map(len, kinds.values()))
    alarms, clean = (
        sum(column) for column in zip(*((one[0], one[1]) for one in false.values()), strict=True)
    )
    rate = alarms / clean if clean else 0.0
    missed = {
        f"{language}: {kind}": f"{results.count(False)} of {len(results)}"
        for language, caught in found.items()
        for kind, results in caught.items()
        if not all(results)
    }
    reasons = {language: one[2] for language, one in false.items() if one[2]}
    if as_json:
        print(json.dumps(
            {"planted": planted, "recall": recall, "missed": missed, "clean": clean, "false_alarms": alarms,
             "reasons": reasons}, ensure_ascii=False))  # fmt: skip
    else:
        for kind, value in recall.items():
            print(f"{kind:<32} {len(kinds[kind]):>4} planted  recall {value:.3f}")
        print(f"{planted} defects planted; missed: {missed or 'none'}")
        print(f"{clean} clean documents, {alarms} dropped ({rate:.2%}): {reasons or 'none'}")
    return int(min(recall.values()) < LEAST_RECALL or rate > MOST_FALSE)


if __name__ == "__main__":
    sys.exit(main())
