"""The steps of the data gate as one would write them for `datasets.map` in an afternoon; bench_data.py starts it.

    python bench_data_datasets.py '{"files": FOLDER, "held_out": FILE, "work": FOLDER, "workers": 1}'

Prints one line of JSON: wall and processor seconds in all, wall seconds by step, rows kept. NFC and ftfy, py3langid,
shares of letters, of repeated lines and of repeated runs of words, expressions for e-mail, telephone and IP addresses,
SHA-256 of the text. There is no search for near-duplicates or held-out text and no look for credentials.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
PHONE = re.compile(r"\+?\d[\d .()-]{7,}\d")
ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")
Row = dict[str, Any]


def normalise(row: Row) -> Row:
    """NFC, and what ftfy repairs."""
    import ftfy

    return {"text": unicodedata.normalize("NFC", ftfy.fix_text(row["text"], uncurl_quotes=False))}


@cache
def identifier() -> Any:
    """py3langid, restricted to the candidates."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(["en", "ko"])
    return model


def is_korean(row: Row) -> bool:
    """Whether py3langid says so of the whole text."""
    return bool(identifier().classify(row["text"])[0] == "ko")


def is_good(row: Row) -> bool:
    """Letters, repeated lines, repeated runs of two to four words."""
    text, words = row["text"], row["text"].split()
    lines = [line for line in text.split("\n") if line.strip()]
    if sum(map(str.isalpha, text)) < 0.3 * len(text) or len(set(lines)) < 0.5 * len(lines):
        return False
    for length in (2, 3, 4):
        runs = Counter(zip(*(words[start:] for start in range(length)), strict=False))
        if len(words) > 50 and runs.most_common(1)[0][1] * length > 0.4 * len(words):
            return False
    return True


def mask(row: Row) -> Row:
    """Placeholders in the stead of what looks like personal data."""
    text = EMAIL.sub("<email>", row["text"])
    return {"text": PHONE.sub("<phone>", ADDRESS.sub("<ip>", text))}


def fingerprint(row: Row) -> Row:
    """SHA-256 of the text."""
    return {"sha256": hashlib.sha256(row["text"].encode()).hexdigest()}


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Run, and print what it took."""
    import datasets

    settings = json.loads(sys.argv[1])
    datasets.disable_progress_bars()
    work, processes = Path(settings["work"]), settings["workers"] if settings["workers"] > 1 else None
    identifier()
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - begun

    begun, used = time.perf_counter(), processor_seconds()
    with timed("read"):
        files = sorted(map(str, Path(settings["files"]).glob("*.jsonl")))
        rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(work))
        rows = rows.select_columns(["text"])
    with timed("normalise"):
        rows = rows.map(normalise, num_proc=processes)
    with timed("language"):
        rows = rows.filter(is_korean, num_proc=processes)
    with timed("quality"):
        rows = rows.filter(is_good, num_proc=processes)
    with timed("personal_data"):
        rows = rows.map(mask, num_proc=processes)
    with timed("duplicates"):
        rows = rows.map(fingerprint, num_proc=processes)
        first = {value: place for place, value in reversed(list(enumerate(rows["sha256"])))}
        rows = rows.select(sorted(first.values()))
    with timed("read"):
        rows.to_json(str(work / "kept.jsonl"), force_ascii=False)
    result = {"wall": time.perf_counter() - begun, "cpu": processor_seconds() - used, "steps": seconds}
    print(json.dumps({**result, "kept": len(rows)}))


if __name__ == "__main__":
    main()
