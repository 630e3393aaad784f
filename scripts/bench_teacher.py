#!/usr/bin/env python
"""Peak memory while a teacher is loaded and reads rows, beside what `sovtune plan` says, and tokens a second.

    python scripts/bench_teacher.py FOLDER ...        each a base; in bf16 and in NF4, a process for each

The rows are of random tokens, 700 to 1,000 each, read one at a time with two threads.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, LENGTHS, WORDS = 6, (700, 1000), 40_000


def measure(folder: Path, kind: str) -> dict[str, float]:
    """Load, read, and plan the same."""
    from sovtune.stack import import_stack

    import_stack()
    from sovtune.model import load_teacher
    from sovtune.plan import DataSize, Machine, make_plan, read_base_facts
    from sovtune.recipe import Recipe
    from sovtune.train.taught import TaughtStore
    from sovtune.train.teacher import Teacher, grouped

    base = {"model": "bench/base", "revision": "main", "licence": "Apache-2.0"}
    recipe = Recipe.model_validate(
        {
            "name": "bench", "language": "ko", "seed": 1, "method": "cpt", "base": base,
            "distil": {"teacher": {**base, "quantisation": {"kind": kind}}},
            "data": [{"card": "none.yaml"}], "card": {"licence": "apache-2.0"},
            "train": {"steps": 1, "batch_tokens": 1024, "learning_rate": 1e-4, "rows": {"max_length": 1024},
                      "run": {"device": "cpu"}},
        }
    )  # fmt: skip
    section = recipe.distil
    assert section is not None
    made = random.Random(0)
    rows = []
    for _ in range(ROWS):
        ids = [made.randrange(WORDS) for _ in range(made.randint(*LENGTHS))]
        rows.append({"input_ids": ids, "labels": ids, "lengths": [len(ids)]})
    facts = read_base_facts(folder)
    loaded = load_teacher(recipe, section.teacher.quantisation, folder)
    teacher = Teacher(loaded.model, fast=loaded.fast, section=section, words=facts.vocabulary)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        list(TaughtStore(Path(place), section.top).add(grouped(rows, 1), teacher))
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = sum(len(row["input_ids"]) for row in rows)
    data = DataSize(tokens=tokens, supervised_tokens=tokens, rows=ROWS, documents=ROWS, longest=LENGTHS[1])
    place_of = Machine(device="cpu", memory_available_bytes=1 << 40)
    planned = make_plan(recipe, facts, data, machine=place_of, teacher=facts).phases["teacher"]
    return {"peak": peak, "planned": planned, "tokens_per_second": tokens / seconds}


def main() -> None:
    """A process for each base and storage, and the table."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
        return
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for folder in sys.argv[1:]:
        for kind in ("none", "nf4"):
            command = [sys.executable, __file__, "--one", folder, kind]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            off = found["planned"] / found["peak"] - 1
            print(
                f"{Path(folder).resolve().name:24.24} {kind:5} {found['peak'] / 1e9:6.2f} GB measured, "
                f"{found['planned'] / 1e9:6.2f} planned ({off:+.1%}), {found['tokens_per_second']:5.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
