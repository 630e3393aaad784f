"""Plant defects of every kind in clean text, put it through the data gate, and print what was caught.

    python scripts/measure_gate.py FOLDER --held-back OTHER
    python scripts/measure_gate.py ko=ko.jsonl ar=ar.jsonl zh=zh.jsonl ja=ja.jsonl hi=hi.jsonl
    python scripts/measure_gate.py ko=ko.jsonl --count 10 --json

FOLDER holds clean documents of one language in files of its name, one folder a source: SOURCE/ko.jsonl (rows with
`text`) or SOURCE/ko.txt (a document a line). The limits of the gate were set on text; figures from the same text say
too much. OTHER is text of other sources that nobody looked at while limits were set: its figures are the honest ones,
and stand in a table of their own.

First the documents go through the gate as they are: what it drops of them is a false alarm, unless it is a
repetition. Then one defect each is planted in documents of at least 60 letters that passed. Exit code 1 when a recall
is below 0.95 or more than 0.5 % of the clean documents are dropped, in either table.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plant_defects import HELD_OUT, TWIN, Field, plant, said

from sovtune.data.document import joined
from sovtune.data.files import LocalFile
from sovtune.data.gate import JudgedRow, curate
from sovtune.data.gate_read import GateSource, rows_of, slices
from sovtune.data.gate_settings import GateSettings

LEAST_RECALL, MOST_FALSE = 0.95, 0.005
LONGEST = 1500
LANGUAGES = ("ko", "ar", "fa", "zh", "ja", "hi")


@dataclass(slots=True)
class Figures:
    """What was caught of each kind (by language), and how many clean documents were dropped, why."""

    caught: dict[str, dict[str, list[bool]]] = field(default_factory=dict)
    clean: int = 0
    alarms: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, list[bool]]:
        """Hits and misses by kind over all languages."""
        kinds: dict[str, list[bool]] = {}
        for one in self.caught.values():
            for kind, results in one.items():
                kinds.setdefault(kind, []).extend(results)
        return kinds

    @property
    def false_alarms(self) -> int:
        """Clean documents that were dropped."""
        return sum(reasons.total() for reasons in self.alarms.values())

    def hold(self) -> bool:
        """Whether every recall and the rate of false alarms are good enough."""
        recalls = [sum(results) / len(results) for results in self.kinds.values()]
        return min(recalls) >= LEAST_RECALL and self.false_alarms <= MOST_FALSE * self.clean

    def values(self) -> dict[str, object]:
        """For programs."""
        kinds = self.kinds
        return {
            "planted": sum(map(len, kinds.values())),
            "recall": {kind: sum(results) / len(results) for kind, results in kinds.items()},
            "missed": {
                f"{language}: {kind}": f"{results.count(False)} of {len(results)}"
                for language, one in self.caught.items()
                for kind, results in one.items()
                if not all(results)
            },
            "clean": self.clean,
            "false_alarms": self.false_alarms,
            "reasons": {language: dict(reasons) for language, reasons in self.alarms.items() if reasons},
        }


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", metavar="FOLDER or LANGUAGE=FILE")
    parser.add_argument("--held-back", nargs="+", default=[], metavar="FOLDER or LANGUAGE=FILE")
    parser.add_argument("--count", type=int, default=4, help="defects of each kind and language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="show what was missed")
    arguments = parser.parse_args()
    tuned = measure_all(documents_of(arguments.texts), arguments)
    held_back = measure_all(documents_of(arguments.held_back), arguments) if arguments.held_back else None
    if arguments.json:
        more = {} if held_back is None else {"held_back": held_back.values()}
        print(json.dumps({**tuned.values(), **more}, ensure_ascii=False))
    else:
        show("Text that limits were set on" if held_back else "", tuned)
        if held_back is not None:
            show("\nHeld-back text, of other sources", held_back)
    return int(not all(figures.hold() for figures in (tuned, held_back) if figures is not None))


def documents_of(words: Sequence[str]) -> dict[str, list[str]]:
    """Language -> documents, from folders or files."""
    files: dict[str, list[Path]] = {}
    for word in words:
        language, equals, path = word.partition("=")
        if equals:
            files.setdefault(language, []).append(Path(path))
            continue
        for language in LANGUAGES:
            found = sorted(
                path for end in ("jsonl", "txt") for path in Path(word).glob(f"*/{language}.{end}")
            )
            files.setdefault(language, []).extend(found)
    texts = {language: [text for path in paths for text in read(path)] for language, paths in files.items()}
    if not any(texts.values()):
        raise SystemExit(f"no text in {', '.join(words)}")
    return {language: list(dict.fromkeys(found)) for language, found in texts.items() if found}


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


def measure_all(texts: dict[str, list[str]], arguments: argparse.Namespace) -> Figures:
    """Clean run and planted run of each language."""
    chance = random.Random(arguments.seed)
    figures = Figures()
    for language, documents in texts.items():
        hosts, reasons = pass_clean(language, documents, arguments.verbose)
        figures.clean += len(documents)
        figures.alarms[language] = reasons
        foreign = [text for other, group in texts.items() if other != language for text in group]
        planted = plant(language, hosts, foreign, arguments.count, chance)
        figures.caught[language] = catch(planted, arguments.verbose)
    return figures


def pass_clean(language: str, documents: list[str], verbose: bool) -> tuple[list[str], Counter[str]]:
    """The documents that the gate leaves as they are but for normalising, and why it dropped others."""
    reasons: Counter[str] = Counter()
    hosts = []
    with tempfile.TemporaryDirectory() as scratch:
        source = write(Path(scratch) / "clean.jsonl", documents)
        for text, row in zip(documents, judged([source], [], language, Path(scratch)), strict=True):
            if row.reason is None and not row.found:
                hosts.append(text)
            elif row.reason is not None and "duplicate" not in row.reason:
                reasons[row.reason] += 1
                if verbose:
                    print(f"FALSE {language} {row.reason}: {text[:300]!r}", file=sys.stderr)
    return hosts, reasons


def judged(
    sources: list[GateSource], held_out: list[GateSource], language: str, scratch: Path
) -> list[JudgedRow]:
    """What the gate says of every row."""
    settings = GateSettings(language=language, candidates=(language, "en"))
    with curate(sources, settings, scratch / "work", held_out=held_out, workers=1) as curated:
        return list(curated.rows())


def catch(planted: Field, verbose: bool) -> dict[str, list[bool]]:
    """Write the planted rows, run the gate, and compare row by row."""
    rows = [one for one in planted.plants if one.codec == "utf-8"]
    legacy = [one for one in planted.plants if one.codec != "utf-8"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = [write(folder / "rows.jsonl", [one.text for one in rows])]
        if legacy:
            (folder / "legacy.txt").write_bytes(
                b"".join(one.text.encode(one.codec) + b"\n" for one in legacy)
            )
            sources.append(GateSource(file=LocalFile(path=folder / "legacy.txt", shown="legacy.txt")))
        held_out = [write(folder / "held-out.jsonl", planted.held_out)]
        verdicts = judged(sources, held_out, planted.language, folder)
    caught: dict[str, list[bool]] = {}
    before: JudgedRow | None = None
    for one, row in zip([*rows, *legacy], verdicts, strict=True):
        # Two documents of one source may in truth share a passage, also with one that was held out.
        shared = row.reason == "contamination" and one.kind != HELD_OUT
        if one.kind != TWIN and not shared:
            hit = one.caught(row) or (one.pair and before is not None and one.caught(before))
            caught.setdefault(one.kind, []).append(hit)
            if not hit and verbose:
                print(
                    f"MISSED {planted.language} {one.kind}: {row.reason} {row.changed} {row.found}\n"
                    f"  in:  {one.text[:300]!r}\n  out: {said(row)[:300]!r}",
                    file=sys.stderr,
                )
        before = row
    return caught


def write(path: Path, texts: list[str]) -> GateSource:
    """Texts as JSON lines."""
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8"
    )
    return GateSource(file=LocalFile(path=path, shown=path.name))


def show(title: str, figures: Figures) -> None:
    """Print recall by kind over all languages, misses by language, and false alarms."""
    values = figures.values()
    if title:
        print(title)
    for kind, results in figures.kinds.items():
        print(f"{kind:<32} {len(results):>4} planted  recall {sum(results) / len(results):.3f}")
    print(f"{values['planted']} defects planted; missed: {values['missed'] or 'none'}")
    rate = figures.false_alarms / figures.clean
    print(
        f"{figures.clean} clean documents, {figures.false_alarms} dropped ({rate:.2%}): {values['reasons'] or 'none'}"
    )


if __name__ == "__main__":
    sys.exit(main())
