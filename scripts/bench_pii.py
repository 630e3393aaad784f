"""How fast personal data is found, and what is found in real text.

usage: python scripts/bench_pii.py FOLDER [--repeat 3] [--lines]

Prints MB per second of processor time and findings per kind for each file. A file named by a language
(ko.jsonl, ar.txt) is read in that language, any other as Korean. Of .jsonl every string value of a row but
its id is a document, of other files every line. --lines prints where findings stand (document, characters,
kind), never the value.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sovtune.data.pii import count, find_personal_data

IDS = frozenset({"id", "src"})
LANGUAGES = frozenset(
    ["ko", "ar", "zh", "ja", "hi", "tr", "id", "vi", "en", "fa", "de", "es", "fr", "ru", "th"]
)


def language_of(path: Path) -> str:
    """The language a file is named by."""
    return path.stem if path.stem in LANGUAGES else "ko"


def documents(path: Path) -> Iterator[str]:
    """The texts of a file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if path.suffix == ".jsonl":
                row = json.loads(line)
                yield from (value for key, value in row.items() if key not in IDS and isinstance(value, str))
            elif line.strip():
                yield line


def main() -> None:
    """Measures every file of the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=3, help="passes over each file; the fastest counts")
    parser.add_argument("--lines", action="store_true", help="print the place and kind of every finding")
    options = parser.parse_args()
    files = sorted(
        path for path in options.folder.rglob("*") if path.suffix in (".jsonl", ".txt", ".csv", ".tsv")
    )
    if not files:
        parser.error(f"no .jsonl, .txt, .csv or .tsv file under {options.folder}")

    find_personal_data("010-1234-5678", ["ko"])  # loads the numbering plans before the clock starts
    all_bytes, all_seconds = 0, 0.0
    print(f"{'MB/s':>7} {'MB':>6} {'docs':>6} {'hit':>4}  file: findings by kind")
    for path in files:
        texts = list(documents(path))
        languages = [language_of(path), "en"]
        size = sum(len(text.encode()) for text in texts)
        seconds = float("inf")
        for _ in range(options.repeat):
            begin = time.process_time()
            found = [find_personal_data(text, languages) for text in texts]
            seconds = min(seconds, time.process_time() - begin)
        all_bytes, all_seconds = all_bytes + size, all_seconds + seconds
        kinds: Counter[str] = Counter()
        for findings in found:
            kinds.update(count(findings))
        hit = sum(map(bool, found))
        name = path.relative_to(options.folder)
        print(f"{size / 1e6 / seconds:7.1f} {size / 1e6:6.2f} {len(texts):6} {hit:4}  {name}: {dict(kinds)}")
        if options.lines:
            for number, findings in enumerate(found, start=1):
                for item in findings:
                    place = f"document {number}, characters {item.start}-{item.end}"
                    print(f"        {place}: {item.kind}, {item.confidence}")
    print(f"{all_bytes / 1e6 / all_seconds:7.1f} {all_bytes / 1e6:6.2f}  all")


if __name__ == "__main__":
    main()
