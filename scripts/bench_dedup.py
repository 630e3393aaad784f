"""Speed and recall of duplicate search and contamination search on real text.

    python scripts/bench_dedup.py FOLDER [--every 4] [--runs 3] [--json]

FOLDER holds ``.txt`` (one paragraph a line) and ``.jsonl`` (field ``text``) files, in subfolders or not; a
file name up to its first dot is taken as the language. Prints, per language and in all: MB/s of sketching, of
searching the index and of contamination search; the share of planted copies, each with one word changed, that
is found (``true``: of those whose exact index suffices); the share of rows dropped wrongly; the share of
evaluation texts found again after their spacing and punctuation were changed. Targets: sketch 3.5,
contamination 8 MB/s per core, recall 0.97, wrongly dropped 0.1 %.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sovtune.data.contamination import RUN, RUN_WORDS, EvalIndex
from sovtune.data.dedup import MIN_CHARACTERS, THRESHOLD, Sketch, required_similarity, sketch_all
from sovtune.data.duplicate_index import find_clusters

UNSPACED = {"zh", "zh-hant", "ja", "th"}
TOLERANCE = 0.1
"""A row is wrongly dropped when the true Jaccard index is 2.5 standard errors under the threshold."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table; speeds in MB/s of UTF-8, shares from 0 to 1."""

    language: str
    megabytes: float
    paragraphs: int
    sketch: float
    search: float
    copies: int
    recall: float
    recall_true: float
    wrong: float
    contamination: float
    planted: int
    hit: float


def read_folder(folder: Path) -> dict[str, list[str]]:
    """Paragraphs by language, without repetition."""
    found: dict[str, dict[str, None]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".jsonl") and p.is_file()):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = lines
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in lines if line.strip()]
            texts = [part for row in rows for part in str(row.get("text", "")).split("\n\n")]
        language = path.name.split(".")[0]
        if path.parent.name == "ud_korean_kaist":
            language = "ko"
        found.setdefault(language, {}).update(dict.fromkeys(text.strip() for text in texts if text.strip()))
    return {language: list(texts) for language, texts in found.items() if texts}


def change_one_word(text: str, language: str, vocabulary: Sequence[str], dice: random.Random) -> str:
    """The text with one word (unspaced scripts: two characters) replaced by one from elsewhere."""
    if language in UNSPACED:
        at = dice.randrange(len(text) - 1)
        source = dice.choice(vocabulary)
        return text[:at] + source[:2].ljust(2, source[0]) + text[at + 2 :]
    words = text.split(" ")
    at = dice.randrange(len(words))
    words[at] = dice.choice([word for word in dice.sample(vocabulary, 8) if word != words[at]])
    return " ".join(words)


def shingles(text: str) -> set[str]:
    """Character 5-grams without white space and punctuation, computed apart from the library under test."""
    letters = "".join(char for char in text.casefold() if unicodedata.category(char)[0] not in "PZC")
    return {letters[at : at + 5] for at in range(len(letters) - 4)}


def jaccard(first: str, second: str) -> float:
    """The true Jaccard index of two texts' 5-grams without white space."""
    one, other = shingles(first), shingles(second)
    return len(one & other) / len(one | other) if one or other else 1.0


def required(first: str, second: str) -> float:
    """The Jaccard index from which the two are near-duplicates."""
    fewest = min(len(shingles(first)), len(shingles(second)))
    return float(required_similarity(np.array([fewest]), THRESHOLD)[0])


def speed(size: int, runs: int, work: Callable[[], object]) -> float:
    """MB/s of the fastest of ``runs``."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return size / best / 1e6


def near_duplicates(
    rows: Sequence[str], sketches: Sequence[Sketch], origin: dict[int, int]
) -> tuple[float, float, float, float]:
    """Recall on planted copies, on those truly alike enough, share wrongly dropped, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        numbered = ((row, sketch, False) for row, sketch in enumerate(sketches))
        dropped = {gone.row: gone for gone in find_clusters(numbered, Path(folder))}
        seconds = time.perf_counter() - start
    found = {copy: copy in dropped or source in dropped for copy, source in origin.items()}
    true = [
        copy
        for copy, source in origin.items()
        if jaccard(rows[copy], rows[source]) >= required(rows[copy], rows[source])
    ]
    wrong = [
        gone
        for gone in dropped.values()
        if gone.reason == "near_duplicate"
        and jaccard(rows[gone.row], rows[gone.kept]) < required(rows[gone.row], rows[gone.kept]) - TOLERANCE
    ]
    return (
        sum(found.values()) / max(1, len(found)),
        sum(found[copy] for copy in true) / max(1, len(true)),
        len(wrong) / max(1, len(rows)),
        seconds,
    )


def contamination(texts: Sequence[str], dice: random.Random, runs: int) -> tuple[float, int, float]:
    """MB/s, texts planted with changed spacing and punctuation, share found under their own number."""
    long = [
        text for text in texts if sum(map(str.isalnum, text)) >= 2 * RUN and len(text.split()) >= RUN_WORDS
    ]
    long = long or [text for text in texts if len(text) >= 2 * RUN]
    held_out = dice.sample(long, len(long) // 10)
    index = EvalIndex.build(("held-out", text) for text in held_out)
    clean = [text for text in texts if text not in set(held_out)]
    rate = speed(sum(len(text.encode()) for text in clean), runs, lambda: index.scan(clean))
    planted = []
    for text in held_out:
        changed = text.replace(" ", dice.choice(["", "  ", "\n"])).replace(".", dice.choice(["!", " . ", ""]))
        planted.append(f"{dice.choice(clean)}\n{changed}\n{dice.choice(clean)}")
    hits = index.scan(planted)
    found = sum(any(hit.item == item for hit in found) for item, found in enumerate(hits))
    return rate, len(planted), found / max(1, len(planted))


def measure(language: str, texts: list[str], every: int, runs: int) -> Figures:
    """All figures of one language."""
    dice = random.Random(7)
    long = [text for text in texts if sum(map(str.isalnum, text)) >= MIN_CHARACTERS]
    vocabulary = sorted({word for text in texts[:2000] for word in text.split() if word.isalpha()}) or texts
    size = sum(len(text.encode()) for text in texts)
    rows, origin = list(texts), {}
    places = {text: at for at, text in enumerate(texts)}
    for text in long[::every]:
        origin[len(rows)] = places[text]
        rows.append(change_one_word(text, language, vocabulary, dice))
    recall, recall_true, wrong, seconds = near_duplicates(rows, sketch_all(rows), origin)
    rate, planted, hit = contamination(texts, dice, runs)
    return Figures(
        language=language,
        megabytes=size / 1e6,
        paragraphs=len(texts),
        sketch=speed(size, runs, lambda: sketch_all(texts)),
        search=size / seconds / 1e6,
        copies=len(origin),
        recall=recall,
        recall_true=recall_true,
        wrong=wrong,
        contamination=rate,
        planted=planted,
        hit=hit,
    )


def total(lines: Sequence[Figures]) -> Figures:
    """All languages together: speeds by bytes, shares by what they are shares of."""

    def by(weight: str, field: str) -> float:
        whole = sum(getattr(line, weight) for line in lines)
        return sum(getattr(line, weight) * getattr(line, field) for line in lines) / whole if whole else 0.0

    size = sum(line.megabytes for line in lines)
    return Figures(
        language="all",
        megabytes=size,
        paragraphs=sum(line.paragraphs for line in lines),
        sketch=size / sum(line.megabytes / line.sketch for line in lines),
        search=size / sum(line.megabytes / line.search for line in lines),
        copies=sum(line.copies for line in lines),
        recall=by("copies", "recall"),
        recall_true=by("copies", "recall_true"),
        wrong=by("paragraphs", "wrong"),
        contamination=size / sum(line.megabytes / line.contamination for line in lines),
        planted=sum(line.planted for line in lines),
        hit=by("planted", "hit"),
    )


HEAD = (
    f"{'':8}{'MB':>7}{'rows':>8}{'sketch':>9}{'search':>9}{'copies':>8}{'recall':>8}{'true':>8}{'wrong':>9}"
    f"{'contam.':>9}{'planted':>9}{'found':>8}\n{'':23}{'MB/s':>9}{'MB/s':>9}{'':33}{'MB/s':>9}"
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=4, help="plant a changed copy of every n-th paragraph")
    parser.add_argument("--runs", type=int, default=3, help="timings are the best of this many runs")
    parser.add_argument("--json", action="store_true", help="one JSON object per language on stdout")
    options = parser.parse_args()
    corpora = read_folder(options.folder) if options.folder.is_dir() else {}
    if not corpora:
        print(f"{options.folder}: no .txt or .jsonl file with text", file=sys.stderr)
        return 2
    lines = [measure(language, texts, options.every, options.runs) for language, texts in corpora.items()]
    lines.append(total(lines))
    if options.json:
        print("\n".join(json.dumps(asdict(line)) for line in lines))
        return 0
    print(HEAD)
    for f in lines:
        print(
            f"{f.language:8}{f.megabytes:7.2f}{f.paragraphs:8}{f.sketch:9.1f}{f.search:9.1f}{f.copies:8}"
            f"{f.recall:8.3f}{f.recall_true:8.3f}{f.wrong:9.2%}{f.contamination:9.1f}{f.planted:9}{f.hit:8.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
