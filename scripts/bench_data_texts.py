"""Text for the benchmarks of the data gate: real corpora as rows, and as much more like it as is asked for."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

KOREAN = ("python_docs_ko/ko.jsonl", "libreoffice_help/ko.jsonl")
HELD_OUT = "ud_korean_kaist/test.txt"
SHORTEST, LONGEST = 50, 200
"""Characters of a short row: a turn of a chat, a sentence."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_DISK = 5
"""Bytes of disk per byte of text: the file itself, rows and signatures of its shards, the index, what is kept."""
MB = 1e6


def long_rows(corpora: Path) -> list[str]:
    """The Korean documents: pages of a manual, 1,250 characters on average, up to 43,000."""
    rows = []
    for name in KOREAN:
        with (corpora / name).open(encoding="utf-8") as stream:
            rows += [str(json.loads(line)["text"]) for line in stream]
    return rows


def short_rows(corpora: Path) -> list[str]:
    """The sentences of the same documents that are as long as a turn of a chat, each once."""
    pieces = (piece.strip() for text in long_rows(corpora) for piece in _SENTENCE_END.split(text))
    return list(dict.fromkeys(piece for piece in pieces if SHORTEST <= len(piece) <= LONGEST))


def enlarged(rows: list[str], wanted: float) -> Iterator[str]:
    """The rows, and then copies with one word in three exchanged, until there are ``wanted`` bytes.

    Copies are no near-duplicates of each other, so they stay in every search. What is exchanged comes from all words
    of the rows, as a slice of a shuffled list: choosing one by one would take longer than the gate.
    """
    chance = random.Random(1)
    cut = [text.split(" ") for text in rows]  # line breaks stay inside the words
    pool = [word for words in cut for word in words]
    chance.shuffle(pool)
    longest = max(map(len, cut))
    made, turn = 0, 0
    while made < wanted:
        for text, words in zip(rows, cut, strict=True):
            row = text
            if turn:
                changed = words.copy()
                size = len(changed[turn % 3 :: 3])
                start = chance.randrange(len(pool) - longest)
                changed[turn % 3 :: 3] = pool[start : start + size]
                row = " ".join(changed).strip() or text
            yield row
            made += len(row.encode())
            if made >= wanted:
                return
        turn += 1


def write_rows(rows: Iterable[str], paths: list[Path]) -> int:
    """Rows as JSON lines, dealt out to the files in turn; returns their UTF-8 bytes."""
    size = 0
    streams = [path.open("w", encoding="utf-8") for path in paths]
    try:
        for number, row in enumerate(rows):
            streams[number % len(paths)].write(json.dumps({"text": row}, ensure_ascii=False) + "\n")
            size += len(row.encode())
    finally:
        for stream in streams:
            stream.close()
    return size


def write_held_out(corpora: Path, path: Path) -> None:
    """The held-out sentences as JSON lines, the same for every side."""
    lines = (corpora / HELD_OUT).read_text(encoding="utf-8").split("\n")
    write_rows((line for line in lines if line.strip()), [path])


def need_disk(folder: Path, megabytes: float) -> None:
    """Stop when a folder has too little room for text of that size and what the gate makes of it."""
    free, needed = shutil.disk_usage(folder).free / MB, _DISK * megabytes
    if free < needed:
        sys.exit(
            f"{folder} has {free:,.0f} MB free, {needed:,.0f} are needed; name a larger disk with --scratch"
        )
