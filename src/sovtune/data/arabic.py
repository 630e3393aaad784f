"""Arabic script as PDFs leave it: presentation forms, and lines stored as they are seen (reversed)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache

HAS_ARABIC = re.compile("[\u0620-\u06d3\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc]")
HAS_FORMS = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]")
TATWEEL = re.compile("\u0640+")
TASHKEEL = re.compile("[\u064b-\u0652\u0670]+")

VISUAL = 0.5
"""``visual_order_score`` of a reversed text. Measured on documents of 200 letters and more in Arabic and Persian: good
ones score up to 0.2, reversed ones 0.81 and more."""

_LETTER = "\u0620-\u063f\u0641-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f"
_NOT_BEFORE, _NOT_AFTER = f"(?<![{_LETTER}])", f"(?![{_LETTER}])"
_ZWNJ = "\u200c"
_TOKEN = re.compile(f"[{_LETTER}{_ZWNJ}]+")

# Small words of Arabic, Persian and Urdu whose mirror image is no word in any of them.
_SMALL_WORDS = (
    "في|من|على|إلى|عن|هذا|أن|إن|أو|قد|هو|هي|لكن|إذا|ذلك|كان|كما|بعد|عند|بين|غير|أي|تم|يتم|يمكن|يجب|لا|ولا|فلا"
    "|از|که|این|است|برای|های|ها|شود|را|به|حق|آن|می|خود|باید|دارد|باشد|ترین|تا|هر|شد|بود|کند|شده|کرده|کنید|کنند|کردن"
    "|خواهد|آنها|شما|اگر|هیچ|نیست|دیگر|باشند|گردد|بوده|هستند|هست|توان|تواند|دارند|نباید|داشت|خواهند|کس|چه|اند"
    "|بدون|بیشتر|شوند|کنیم|چند|چون|زیرا|بسیار|همچنین|روی|دارید|نشود|بشود|نشده|باشید|ولی|پس|هنوز|شدند|بودند|کردند"
    "|داشتند|گفت|رفت|رفتند|کے|میں|ہے|ہیں|اور|سے|نے|کو|کا|نہیں|گیا|تھا|جو|لیے|سکتا|کر"
)
_WORDS = frozenset(_SMALL_WORDS.split("|"))
_JOINED = frozenset(("ها", "های", "هایی", "ای", "ام", "اند", "تر", "ترین"))
"""Persian endings that are set apart from their word by a zero-width non-joiner."""
_ONLY_FORWARD = _WORDS | {"در"}  # its mirror image is a word
_WORDS_TURNED, _JOINED_TURNED = (frozenset(word[::-1] for word in group) for group in (_WORDS, _JOINED))

# Shapes that only one reading direction has: the article opens words; ta marbuta, alef maksura, yeh barree, noon
# ghunna and a lone hamza close them, and no word begins with a hamza on waw or yeh or with heh doachashmee; alef with
# madda or with hamza below opens words. The Farsi yeh closes many words and opens few, which begin like these.
_YEH_OPENS = "[کاعہهز]|ون|ور|وس|وگ|خ[^ل]|قین"
_OPENS = re.compile("(?:[وفبك]?ال|لل|[وف]?[إآ])..")
_CLOSES = re.compile(".[ةىےں]$|..[ءی]$")
_CLOSES_TURNED = re.compile("..(?:لا[وفبك]?|لل|[إآ][وف]?)$")
_OPENS_TURNED = re.compile(f"[ةىےںءئؤھ].|ی(?!{_YEH_OPENS})..")


@lru_cache(maxsize=1 << 16)
def _shapes(token: str) -> tuple[int, int]:
    """Telling shapes of a word, (forward, backward); its parts stand between zero-width non-joiners."""
    forward = backward = 0
    parts = token.split(_ZWNJ)
    for index, part in enumerate(parts):
        if part in _ONLY_FORWARD or (index and part in _JOINED):
            forward += 1
        else:
            forward += (_OPENS.match(part) is not None) + (_CLOSES.search(part) is not None)
        if part in _WORDS_TURNED or (index + 1 < len(parts) and part in _JOINED_TURNED):
            backward += 1
        else:
            backward += (_OPENS_TURNED.match(part) is not None) + (_CLOSES_TURNED.search(part) is not None)
    return forward, backward


def _evidence(text: str) -> tuple[int, int]:
    """Telling word shapes of a text, (forward, backward)."""
    forward = backward = 0
    for token, count in Counter(_TOKEN.findall(text)).items():
        shapes = _shapes(token)
        forward += count * shapes[0]
        backward += count * shapes[1]
    return forward, backward


_STRAY_MARKS = re.compile('(?<![^\\s(«"])[\u064b-\u0655\u0670]')
"""Marks before their letter: text was reversed character by character."""
_LEAST_EVIDENCE = 2
MIXED = 0.2
"""From here on some lines of a text may be reversed."""


@cache
def _form_table() -> dict[int, str]:
    """NFKC of each presentation form; the blank that carries an isolated mark is left away."""
    table = {}
    for code in (*range(0xFB50, 0xFE00), *range(0xFE70, 0xFEFD)):
        folded = unicodedata.normalize("NFKC", chr(code)).lstrip(" ")
        if folded != chr(code):
            table[code] = folded
    return table


def fold_forms(text: str) -> str:
    """Presentation forms (U+FB50-FDFF, U+FE70-FEFC) as plain letters, everything else as it is."""
    return text.translate(_form_table())


def visual_order_score(text: str) -> float:
    """How surely Arabic-script text is stored in visual order: 1 reversed, 0 not or no evidence.

    The score is the share of reversed word shapes among all telling word shapes. Measured by the article
    alone: words that begin with it against words that end with its mirror image are 0.282 / 0.009 in good
    text and 0.000 / 0.252 in a corpus of reversed PDFs.
    """
    if HAS_FORMS.search(text):
        text = fold_forms(text)
    stray = len(_STRAY_MARKS.findall(text))
    text = TASHKEEL.sub("", TATWEEL.sub("", text))
    forward, backward = _evidence(text)
    backward += stray
    return backward / (backward + forward) if backward >= _LEAST_EVIDENCE else 0.0


_MIRROR = str.maketrans("()[]{}<>«»‹›", ")(][}{><»«›‹")
_LEFT_TO_RIGHT = re.compile(
    r"[^\W\d_\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc][^\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\n]*"
    r"[^\W_\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]"
    r"|[0-9\u0660-\u0669\u06f0-\u06f9]"
    r"(?:[0-9\u0660-\u0669\u06f0-\u06f9.,:/\u066b\u066c-]*[0-9\u0660-\u0669\u06f0-\u06f9])?"
)
_STRAY_MARK = re.compile("(?:^|\\s)[\u064b-\u0652]")
_CLUSTER = re.compile("[^\u064b-\u0652\u0670][\u064b-\u0652\u0670]+")
_OPENING, _CLOSING = re.compile(r"[(\[{«]"), re.compile(r"[)\]}»]")

# A lam-alef glyph comes out of a PDF as lam, alef in reading order even where the line is reversed, so that
# turning the line swaps the pair. Shapes that no Arabic word has tell where that happened.
_LAM_ALEF: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(f"{_NOT_BEFORE}([وفبك]?)ا([اأإآ])ل(?=[{_LETTER}])"), r"\1ال\2"),
    (re.compile(f"{_NOT_BEFORE}([وف]?)([إأ])ال{_NOT_AFTER}"), r"\1\2لا"),
    (re.compile(f"{_NOT_BEFORE}([وف]?)ال{_NOT_AFTER}"), r"\1لا"),
    (re.compile(f"{_NOT_BEFORE}ل([أإآ])ل(?=[{_LETTER}])"), r"لل\1"),
)
_SWAPPED_ARTICLE = re.compile(f"{_NOT_BEFORE}[وفبك]?ا[اأإآ]ل(?=[{_LETTER}])")
# Frequent stems with lam-alef inside, as they look after the swap; none is the stem of a frequent other word.
_STEMS = (
    "سالم|عالق|بالد|ثالث|خالل|عالج|أوالد|كالم|مالحظ|إعالم|اتصاالت|مجاالت|حاالت"
    "|انتقاال|والي|استقالل|صالحي|صالة"
)
_STEM = re.compile(_STEMS)


def _turn(line: str) -> str:
    """One line from visual to reading order; numbers and Latin runs keep theirs."""
    if _CLUSTER.search(line) and not _STRAY_MARK.search(line):
        turned = _CLUSTER.sub(lambda match: match[0][::-1], line)[::-1]  # marks already follow their letters
    else:
        turned = line[::-1]
    opening, closing = _OPENING.search(turned), _CLOSING.search(turned)
    if closing and (not opening or closing.start() < opening.start()):
        turned = turned.translate(_MIRROR)
    return _LEFT_TO_RIGHT.sub(lambda match: match[0][::-1], turned)


def _mend_lam_alef(text: str) -> str:
    """Put lam-alef pairs right that the turning of the line has swapped."""
    swapped = _SWAPPED_ARTICLE.search(text) is not None
    for pattern, mended in _LAM_ALEF:
        text = pattern.sub(mended, text)
    if swapped:
        text = _STEM.sub(lambda match: match[0].replace("ال", "لا"), text)
    return text


def repair_visual_order(text: str) -> str:
    """Turn the reversed lines of a text round; lines in reading order stay.

    A line too short to show its own direction follows the whole text. Numbers and Latin runs are taken to
    be in reading order already, as PDF extractors leave them. Swapped lam-alef pairs are put right where
    the word shape leaves no doubt; an ambiguous pair inside a word stays as it is.
    """
    whole = visual_order_score(text) >= VISUAL
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if not HAS_ARABIC.search(line):
            continue
        forward, backward = _evidence(fold_forms(line))
        telling = whole or backward >= _LEAST_EVIDENCE
        if (telling and backward > forward) or (whole and backward == forward):
            lines[index] = _mend_lam_alef(fold_forms(_turn(line)))
    return "\n".join(lines)
