"""Print MB/s of each text step of the data gate, and what it would drop from corpora known to be clean.

    python scripts/bench_clean.py FOLDER

FOLDER holds one folder per corpus with `.jsonl` (field `text`), `.txt` (a document per line), `.csv` or `.tsv`
files; the language is in the file's name (`ar.jsonl`) or else Korean. One core; the fastest of three passes counts.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from sovtune.data.clean import CleanPolicy, normalise
from sovtune.data.decode import decode
from sovtune.data.language import identify_document
from sovtune.data.quality import Thresholds, judge, measure

CANDIDATES = ("ko", "en", "ar", "zh", "ja", "hi", "fa", "vi", "th", "tr", "id", "ru", "es", "fr")
LANGUAGES = (*CANDIDATES, "zh-hant")


def documents(path: Path) -> Iterator[str]:
    """The texts of one file."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for line in file:
                row = json.loads(line)
                yield row["text"] if "text" in row else row["ko"]
        elif path.suffix == ".txt":
            yield from (line.rstrip("\n") for line in file if line.strip())
        else:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            names = ("Q", "A") if path.suffix == ".csv" else ("sentence", "1", "2")
            for row in rows:
                yield from (row[name] for name in names)


def corpora(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(name, language tag, texts) of every file."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix in (".jsonl", ".txt", ".csv", ".tsv"):
            stem = path.stem.lower()
            tag = {"zh-hant": "zh-Hant"}.get(stem, stem) if stem in LANGUAGES else "ko"
            yield f"{path.parent.name}/{path.name}", tag, list(documents(path))


def megabytes_per_second(step: Callable[[str], object], texts: list[str]) -> float:
    """The fastest of three passes over the texts."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for text in texts:
            step(text)
        best = min(best, time.perf_counter() - start)
    return size / best


def drops(tag: str, texts: list[str]) -> Counter[str]:
    """How many texts each step changes or would drop; every text counts as clean."""
    found: Counter[str] = Counter()
    policy = CleanPolicy(languages=(tag, "en"))
    candidates = (tag, *(other for other in CANDIDATES if other != tag))
    for text in texts:
        read = decode(text.encode(), (tag,))
        if read.codec != "utf-8" or read.text != text:
            found["drop decode"] += 1
        cleaned = normalise(text, policy)
        if cleaned.refused:
            found[f"drop {cleaned.refused}"] += 1
        found.update(f"change {name}" for name in cleaned.changed)
        if not identify_document(cleaned.text, candidates).passes(tag):
            found["drop language"] += 1
        reason = judge(measure(cleaned.text, tag), Thresholds())
        if reason:
            found[f"drop {reason}"] += 1
    return found


def main(folder: Path) -> None:
    """Both tables, one line per corpus file."""
    print(
        f"{'corpus':38s} {'tag':7s} {'texts':>6s} {'MB':>6s}  decode  clean  language  quality  (MB/s)",
        flush=True,
    )
    report = []
    for name, tag, texts in corpora(folder):
        policy = CleanPolicy(languages=(tag, "en"))
        candidates = (tag, *(other for other in CANDIDATES if other != tag))
        raw = {text: text.encode() for text in texts}
        clean = [normalise(text, policy).text for text in texts]
        speeds = (
            megabytes_per_second(lambda text: decode(raw[text], (tag,)), texts),  # noqa: B023
            megabytes_per_second(lambda text: normalise(text, policy), clean),  # noqa: B023
            megabytes_per_second(lambda text: identify_document(text, candidates), clean),  # noqa: B023
            megabytes_per_second(lambda text: measure(text, tag), clean),  # noqa: B023
        )
        size = sum(map(len, raw.values())) / 1e6
        print(
            f"{name:38s} {tag:7s} {len(texts):6d} {size:6.2f} "
            f"{speeds[0]:7.0f} {speeds[1]:6.0f} {speeds[2]:9.1f} {speeds[3]:8.1f}"
        )
        report.append((name, len(texts), drops(tag, texts)))
    print("\nTexts of these clean corpora that a step would drop (percent) or change (count)")
    for name, total, found in report:
        dropped = [f"{key[5:]} {100 * n / total:.2f} %" for key, n in found.items() if key.startswith("drop")]
        changed = [f"{key[7:]} {n}" for key, n in found.items() if key.startswith("change")]
        print(f"{name:38s} drop: {', '.join(dropped) or 'none'}; change: {', '.join(changed) or 'none'}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python scripts/bench_clean.py FOLDER (for example a folder of corpora)")
    main(Path(sys.argv[1]))
