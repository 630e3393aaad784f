"""Normalise text without changing what it says: Unicode forms, invisible characters, mojibake, blanks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sovtune.data import arabic, mojibake
from sovtune.data.han import han_variant
from sovtune.data.matching import batches
from sovtune.data.scripts import codes_of
from sovtune.errors import EnvironmentFault

if TYPE_CHECKING:
    from opencc import OpenCC


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanPolicy:
    """What may differ from corpus to corpus; everything else is always done.

    ``languages`` are the tags the corpus may be in, likeliest first: they choose the legacy codecs that
    mojibake is tried against. ``width`` folds full-width Latin letters and digits and half-width kana and
    Hangul; ideographic punctuation stays. ``visual_order`` is for reversed Arabic. ``chinese`` needs the
    extra ``sovtune[zh]``.
    """

    languages: tuple[str, ...]
    tatweel: Literal["strip", "keep"] = "strip"
    tashkeel: Literal["keep", "strip"] = "keep"
    width: Literal["fold", "keep"] = "fold"
    mojibake: Literal["repair", "keep"] = "repair"
    visual_order: Literal["drop", "repair", "keep"] = "drop"
    chinese: Literal["keep", "s2t", "t2s"] = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """Clean text, the steps that changed something, and the reason when the text must not be used."""

    text: str
    changed: tuple[str, ...] = ()
    refused: str | None = None


# Emoji, pictographs and the signs that join them.
_PICTURE = "\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff"
# Letters and marks of scripts in which a joiner changes the shape or the word: Arabic, Syriac, Mongolian,
# Indic, Tibetan, Burmese, Khmer.
_JOINS = (
    "\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff\u0710-\u074f"
    "\u0900-\u0dff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u1820-\u18aa"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufff9-\ufffc\ufffe\uffff]+")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f]+")
_ZERO_WIDTH = re.compile("[\xad\u180e\u200b\u2060-\u2064\ufeff]+")
# Invisible tag characters can smuggle text; they are genuine only after the black flag, in regional flags.
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007f]*)|[\U000e0000-\U000e007f]+")
_JOINER_RUN = re.compile("([\u200c\u200d])[\u200c\u200d]+")
_JOINER = re.compile(
    f"\u200c(?:(?<![{_JOINS}]\u200c)|(?![{_JOINS}]))"
    f"|\u200d(?<![{_JOINS}]\u200d)(?:(?<![{_PICTURE}]\u200d)|(?![{_PICTURE}]))"
)
_HALF_KANA = re.compile("[\uff61-\uff9f]+")
_WIDE = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff61-\uff9f\uffa1-\uffdc\uffe0-\uffe6]")
_BLANK_ENDS = re.compile("[^\\S\n]+(?=\n)")
_BLANK_BEFORE_BREAK = re.compile("[ \t\xa0\u2000-\u200a\u202f\u205f\u3000]\n")
_EMPTY_LINES = re.compile("\n{4,}")

_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u0640\u0620-\u06d3\u0750-\u077f\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufb50-\ufdff\ufe70-\ufefc\ufeff\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff61-\uff9f"
    "\uffa1-\uffdc\uffe0-\uffe6\ufff9-\ufffc\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Every character some step may act on; text without one needs no step but NFC, mojibake and blanks."""

_PASSES = 4

_LOOK, _BLANK = 1, 2


@cache
def _width_table() -> dict[int, str]:
    table = {code: chr(code - 0xFEE0) for code in range(0xFF10, 0xFF5B) if chr(code).isalnum()}
    for code in (*range(0xFFA1, 0xFFDD), *range(0xFFE0, 0xFFE7)):
        # One step only: the full-width twin. NFKC would go on to conjoining jamo and lose ㄱ for U+1100.
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2:
            table[code] = chr(int(parts[1], 16))
    return table


def _fold_width(text: str) -> str:
    text = _HALF_KANA.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return text.translate(_width_table())


@cache
def _opencc(direction: str) -> OpenCC:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise EnvironmentFault(
            "converting Chinese script needs OpenCC, which is not installed",
            why=f"the recipe asks for `chinese: {direction}`",
            fix="pip install 'sovtune[zh]', or set `chinese: keep`",
        ) from error
    return OpenCC(direction)


def _convert_chinese(text: str, direction: str) -> str:
    if han_variant(text) == ("Hant" if direction == "s2t" else "Hans"):
        return text
    converted: str = _opencc(direction).convert(text)
    return converted


def _blanks(text: str) -> str:
    if _BLANK_BEFORE_BREAK.search(text):
        text = _BLANK_ENDS.sub("", text)
    return _EMPTY_LINES.sub("\n\n\n", text).lstrip("\n").rstrip()


def _pair_surrogates(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _invisible_steps(text: str) -> Iterator[tuple[str, str]]:
    """(step, text after it) for everything that cannot be seen."""
    text = _BREAKS.sub("\n", text)
    yield "line_breaks", text
    text = _CONTROLS.sub("", text)
    yield "controls", text
    text = _BIDI.sub("", text)
    yield "bidi", text
    text = _ZERO_WIDTH.sub("", text)
    if _TAGS.search(text):
        text = _TAGS.sub(r"\1", text)
    if "\u200c" in text or "\u200d" in text:
        text = _JOINER.sub("", _JOINER_RUN.sub(r"\1", text))
    yield "zero_width", text


def _letter_steps(text: str, policy: CleanPolicy) -> Iterator[tuple[str, str]]:
    """(step, text after it) for Arabic letters, widths and Chinese variants."""
    if arabic.HAS_FORMS.search(text):
        text = arabic.fold_forms(text)
        yield "presentation_forms", text
    if policy.tatweel == "strip":
        text = arabic.TATWEEL.sub("", text)
        yield "tatweel", text
    if policy.tashkeel == "strip":
        text = arabic.TASHKEEL.sub("", text)
        yield "tashkeel", text
    if policy.width == "fold" and _WIDE.search(text):
        text = _fold_width(text)
        yield "width", text


def _steps(text: str, policy: CleanPolicy) -> Iterator[tuple[str, str]]:
    """(step, text after it) of one pass, in order; mojibake has been seen to."""
    if _SUSPECT.search(text):
        if _SURROGATE.search(text):
            text = _pair_surrogates(text)
            yield "surrogates", text
        for name, text in _invisible_steps(text):  # noqa: B020 - the next steps go on from the last text
            yield name, text
        if policy.visual_order == "repair" and arabic.visual_order_score(text) >= arabic.MIXED:
            text = arabic.repair_visual_order(text)
            yield "visual_order", text
        for name, text in _letter_steps(text, policy):  # noqa: B020
            yield name, text
    text = unicodedata.normalize("NFC", text)
    yield "nfc", text
    text = _blanks(text)
    yield "blanks", text
    if policy.chinese != "keep":
        text = _convert_chinese(text, policy.chinese)
        yield "chinese", text


def _is_reversed(text: str) -> bool:
    return arabic.HAS_ARABIC.search(text) is not None and arabic.visual_order_score(text) >= arabic.VISUAL


def normalise(text: str, policy: CleanPolicy) -> Cleaned:
    r"""Bring a text into its one normal form; doing it twice changes nothing more.

    Always: NFC (never NFKC: ㅋㅋ, ㈜ and ① survive), presentation forms of Arabic as letters, no control, bidi
    or zero-width characters except joiners that Persian, Indic scripts and emoji need, ``\n`` line ends, no
    blanks at line ends, at most two empty lines. By policy: tatweel, tashkeel, width, mojibake, reversed
    Arabic, Chinese.

    Returns:
        The text, the names of the steps that changed it in order, and ``refused`` set to ``visual_order`` or
        ``mojibake`` when the policy drops it or a tenth of it stays unreadable.

    Raises:
        EnvironmentFault: ``policy.chinese`` needs OpenCC and it is not installed.
    """
    changed: dict[str, None] = {}
    unreadable = False
    for _ in range(_PASSES):
        before = text
        if policy.mojibake == "repair" and mojibake.may_be_mojibake(text):
            text, left = mojibake.mend(text, policy.languages)
            unreadable |= left
            if text != before:
                changed["mojibake"] = None
        for name, after in _steps(text, policy):
            if after != text:
                changed[name] = None
                text = after
        if text == before:
            break
    refused = "mojibake" if unreadable else None
    if policy.visual_order == "drop" and _is_reversed(text):
        refused = "visual_order"
    return Cleaned(text=text, changed=tuple(changed), refused=refused)


@cache
def _signs() -> npt.NDArray[np.uint8]:
    """Code points that a step (NFC aside) may act on: _LOOK wherever they stand, _BLANK at the end of a line."""
    every = "".join(map(chr, range(0x110000)))
    table = np.zeros(0x110000, dtype=np.uint8)
    for pattern in (_SUSPECT, arabic.HAS_ARABIC):
        table[[match.start() for match in pattern.finditer(every)]] |= _LOOK
    table[[code for code, char in enumerate(every) if char.isspace() and char != "\n"]] |= _BLANK
    return table


def untouched(texts: Sequence[str], policy: CleanPolicy) -> list[bool]:
    """Whether ``normalise`` surely gives a text back as it is, without a reason to refuse it.

    Clean text is told from the rest by looking its characters up in a table, many texts at once; False says
    nothing, only that the steps have to be gone through.
    """
    if policy.chinese != "keep":
        return [False] * len(texts)
    return [plain for batch in batches(texts) for plain in _untouched(batch)]


def _untouched(texts: Sequence[str]) -> list[bool]:
    text = "".join(one + "\n" for one in texts)
    codes = codes_of(text)
    ends = np.cumsum([len(one) + 1 for one in texts]) - 1  # of the line break that was put behind each
    starts = np.concatenate(([0], ends[:-1] + 1))
    signs, breaks = _signs()[codes], codes == ord("\n")
    touched = (signs & _LOOK) != 0
    touched[:-1] |= ((signs[:-1] & _BLANK) != 0) & breaks[1:]
    if "\n\n\n\n" in text:
        touched[:-3] |= breaks[:-3] & breaks[1:-2] & breaks[2:-1] & breaks[3:]
    touched[starts] |= breaks[starts]  # empty, or a line break at the beginning
    touched[ends - 1] |= breaks[ends - 1]  # or at the end
    found = mojibake.suspicious(codes, starts)
    found[np.searchsorted(ends, np.flatnonzero(touched))] = True
    if not unicodedata.is_normalized("NFC", text):
        found |= [not unicodedata.is_normalized("NFC", one) for one in texts]
    plain: list[bool] = (~found).tolist()
    return plain
