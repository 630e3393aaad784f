"""Bytes to text: UTF-8 first, then the codecs that the language was written in before Unicode."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sovtune.data.scripts import BAD, OTHER, SCRIPT_CLASS, SYMBOL, class_counts, primary, scripts_of

SAMPLE_BYTES = 65_536
"""How much of a file decides on its codec."""

REPLACEMENT = "\ufffd"

_CODECS: dict[str, tuple[str, ...]] = {
    "ko": ("cp949", "euc_kr"),
    "zh": ("gb18030", "cp950", "big5hkscs"),
    "ja": ("cp932", "euc_jp", "euc_jis_2004"),
    "ar": ("cp1256", "iso8859_6"),
    "fa": ("cp1256",),
    "ur": ("cp1256",),
    "th": ("cp874",),
    "vi": ("cp1258",),
    "tr": ("cp1254",),
    "az": ("cp1254",),
    "ru": ("cp1251", "koi8_r", "iso8859_5"),
    "uk": ("cp1251", "koi8_u"),
    "be": ("cp1251",),
    "bg": ("cp1251",),
    "sr": ("cp1251", "cp1250"),
    "mk": ("cp1251",),
    "kk": ("kz1048", "cp1251"),
    "el": ("cp1253",),
    "he": ("cp1255", "iso8859_8"),
    "pl": ("cp1250", "iso8859_2"),
    "cs": ("cp1250", "iso8859_2"),
    "sk": ("cp1250", "iso8859_2"),
    "hu": ("cp1250", "iso8859_2"),
    "ro": ("cp1250", "iso8859_2"),
    "hr": ("cp1250", "iso8859_2"),
    "sl": ("cp1250", "iso8859_2"),
    "lt": ("cp1257",),
    "lv": ("cp1257",),
    "et": ("cp1257",),
}
"""Language -> codecs of its files before Unicode, commonest first.

cp949 covers EUC-KR but for spelt-out syllables (filler A4D4 and three jamo); gb18030 covers GBK and GB2312.
"""

_HANS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"
    "同工也能下过子说产种面而方后多定行学法所民得经"
)
_HANT = (
    "的一是在不了有和人這中大為上個國我以要他時來用們生到作地於出就分對成會可主發年動"
    "同工也能下過子說產種面而方後多定行學法所民得經"
)
_CJK_MARKS = "，。、；：“”（）《》「」『』！？　"
_MARKS = "’‘“”«»–—…·°€£§№"

_COMMON: dict[str, str] = {
    "ko": "이다는에의을가한지로고하를은기도사서니자정어인리해있스나대시수그라들일아여상과보전으만주장부"
    "제것유공성구원면모했습된게동내적없야중소경위세신안용생우할간거연국분치화물계미조러음회았었던때선문방오려무요체",
    "zh": _HANS + _CJK_MARKS,
    "zh-Hant": _HANT + _CJK_MARKS,
    "ja": "ぁ-んァ-ヶー" + _CJK_MARKS,
    "Arabic": "اليمونرتبسعدكةفقهأیک،؟" + "\u200c",
    "Cyrillic": "оеаинтсрвлкмдпуяы",
    "Devanagari": "ािीेोंक्रनतसमयहलप।",
    "Greek": "αοιετσνηυρπκμλς",
    "Hebrew": "יוהלאמרשבתנ",
    "Thai": "านรอกเงมยลวดทสตะปบคหแจพชขใไโ่้ีิัุู็์ำ",
    "vi": "àáâãèéêìíòóôõùúýăđĩũơưÀÁÂÔĐƯ\u0300\u0301\u0303\u0309\u0323"
    "ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ" + _MARKS,
    "tr": "çğıöşüÇĞİÖŞÜâîû" + _MARKS,
    "az": "çəğıöşüÇƏĞİÖŞÜ" + _MARKS,
    "cp1250": "ąćęłńóśźżáčďéěíňřšťúůýžöüőűăâîșțşţđÁČÉŁÓŚŠŽŻ" + _MARKS,
    "cp1257": "āčēģīķļņšūžąęėįųõäöü" + _MARKS,
    "Latin": "éèàùçâêîôûëïüöäßñáíóúãõåæøœìòÉÈÀÇÖÜÄÑÅØ¿¡ºª©®" + _MARKS,
}
"""Characters beyond ASCII that make up roughly half or more of running text, by language, script, code page.

A wrong codec yields them only by chance. From letter frequencies of the languages; order does not matter.
"""
_FREQUENT = {"ko": 0.5, "zh": 0.35, "ja": 0.5, "Thai": 0.85}
_CONFIDENT = 0.55
_MARGIN = 0.05
_USABLE = 0.25
"""Below _USABLE a legacy codec is not believed; to be confident takes _CONFIDENT and a lead of _MARGIN.

Measured on the test corpora in lines: the right codec scores 0.7 to 1.25, a wrong one -1 to 0.4.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Text, the codec it was read with, how many U+FFFD that made, and whether the choice is beyond doubt."""

    text: str
    codec: str
    replaced: int
    confident: bool


class Reading(NamedTuple):
    """One way to read some bytes; a higher score is a more plausible text of ``language``."""

    score: float
    codec: str
    language: str
    text: str


def codecs_for(languages: Sequence[str]) -> list[tuple[str, str]]:
    """(codec, language) pairs worth trying, in the order of the languages; cp1252 comes last if unnamed."""
    pairs: list[tuple[str, str]] = []
    for tag in languages:
        named = _CODECS.get(primary(tag))
        if named is None:
            named = ("cp1252",) if scripts_of(tag) == ("Latin",) else ()
        if primary(tag) == "zh" and "Hant" in tag:
            named = ("cp950", "big5hkscs", "gb18030")
        pairs += [(codec, tag) for codec in named]
    if not any(codec == "cp1252" for codec, _ in pairs):
        pairs.append(("cp1252", "en"))
    return pairs


@cache
def _common(codec: str, tag: str) -> re.Pattern[str]:
    """The frequent characters to expect when ``codec`` is right for ``tag``."""
    language = primary(tag)
    if language == "zh" and (codec in ("cp950", "big5hkscs") or "Hant" in tag):
        language = "zh-Hant"
    script = scripts_of(tag)[0]
    key = next((name for name in (language, codec, script) if name in _COMMON), "Latin")
    if key == "Latin" and codec.startswith("iso8859_2"):
        key = "cp1250"
    return re.compile(f"[{_COMMON[key]}]")


_ASCII = re.compile(r"[\x00-\x7f]+")
_LATIN_RUN = re.compile(r"[\x80-\u02ff\u2000-\u2122]{2,}")


def plausibility(text: str, codec: str, tag: str) -> float:
    """How much the characters beyond ASCII look like running text of a language.

    1 and above: nearly all are letters of its script and as many as expected are frequent; 0 or below: no.
    """
    high = _ASCII.sub("", text)
    if not high:
        return 0.0
    size = len(high)
    frequent = (size - len(_common(codec, tag).sub("", high))) / size
    counts = class_counts(high)
    script = scripts_of(tag)
    letters = sum(int(counts[SCRIPT_CLASS[name]]) for name in script) / size
    odd = int(counts[[OTHER, SYMBOL]].sum()) / size
    bad = int(counts[BAD]) / size
    expected = _FREQUENT.get(primary(tag), _FREQUENT.get(script[0], 0.7))
    score = min(1.0, frequent / expected) + 0.25 * letters - odd - 3 * bad
    if script == ("Latin",) and codec != "cp1258":
        # Accented letters stand between plain ones; side by side they are another codec's bytes.
        score -= 1.5 * sum(map(len, _LATIN_RUN.findall(high if len(high) == len(text) else text))) / size
    return score


def readings(data: bytes, languages: Sequence[str], *, final: bool = True) -> list[Reading]:
    """Every legacy reading of some bytes, best first; with ``final=False`` a cut last character is ignored."""
    found = []
    for codec, tag in codecs_for(languages):
        text = codecs.getincrementaldecoder(codec)("replace").decode(data, final)
        found.append(Reading(plausibility(text, codec, tag), codec, tag, text))
    return sorted(found, key=lambda reading: -reading.score)


_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark shows in NUL bytes, which no other text codec has, on one side of its pairs."""
    if b"\0" not in data:
        return None
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if min(even, odd) * 20 > max(even, odd) or max(even, odd) * 50 < len(data):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_damaged_utf8(data: bytes) -> bool:
    """UTF-8 with some broken bytes: most bytes beyond ASCII still form whole characters.

    By chance (lead C2-DF, then 80-BF) EUC-KR, GB18030, Big5, Shift-JIS, EUC-JP and CP1256 texts show 0.0 to 0.5 whole
    UTF-8 characters per broken one, single short sentences up to 1.0.
    """
    text = data.decode("utf-8", "replace")
    broken = text.count(REPLACEMENT)
    whole = len(_ASCII.sub("", text)) - broken
    return whole >= 3 * broken


def _choose(data: bytes, languages: Sequence[str], *, final: bool) -> tuple[str, bool]:
    """(codec, confident) for bytes that may end inside a character when ``final`` is False."""
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return codec, True
    unmarked = _unmarked_utf16(data)
    if unmarked:
        return unmarked, False
    if any(primary(tag) == "ja" for tag in languages) and (b"\x1b$B" in data or b"\x1b$@" in data):
        return "iso2022_jp_2", True
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(data, final)
    except UnicodeDecodeError:
        if _is_damaged_utf8(data):
            return "utf-8", True
    else:
        return "utf-8", True
    found = readings(data, languages, final=final)
    best = found[0]
    if best.score < _USABLE:
        return "utf-8", False
    rivals = [reading.score for reading in found if reading.text != best.text]
    sure = best.score >= _CONFIDENT and (not rivals or best.score - max(rivals) >= _MARGIN)
    return best.codec, sure


def sniff(sample: bytes, languages: Sequence[str]) -> str:
    """Python's name of the codec that a file, of which this is the beginning, is written in.

    Args:
        sample: the first bytes, best SAMPLE_BYTES of them; they may end inside a character.
        languages: tags that the file may be in, likeliest first.
    """
    return _choose(sample, languages, final=False)[0]


def decode(data: bytes, languages: Sequence[str]) -> Decoded:
    """Read bytes as text: marks first, UTF-8, then the legacy codec whose text looks most like the languages.

    Args:
        data: a whole file or row.
        languages: tags that it may be in, likeliest first.
    """
    try:
        if (
            not data.startswith(tuple(mark for mark, _ in _BOMS))
            and b"\0" not in data
            and b"\x1b" not in data
        ):
            return Decoded(text=data.decode("utf-8"), codec="utf-8", replaced=0, confident=True)
    except UnicodeDecodeError:
        pass  # decided below, on the evidence
    sample, final = data, True
    if len(data) > SAMPLE_BYTES and not data.startswith(tuple(mark for mark, _ in _BOMS)):
        first = _HIGH_BYTE.search(data)
        start = data.rfind(b"\n", 0, first.start()) + 1 if first else 0
        sample, final = data[start : start + SAMPLE_BYTES], start + SAMPLE_BYTES >= len(data)
    codec, confident = _choose(sample, languages, final=final)
    text = data.decode(codec, "replace")
    genuine = data.count(REPLACEMENT.encode()) if codec.startswith("utf-8") else 0
    replaced = text.count(REPLACEMENT) - genuine
    return Decoded(
        text=text, codec=codec, replaced=replaced, confident=confident and replaced * 50 <= len(text)
    )
