#!/usr/bin/env python
"""Planned against measured memory: real steps in processes of their own, over models, lengths, batches, checkpointing.

    python scripts/bench_plan.py --out plan.jsonl             the grid: 3 models x 4 lengths x 3 batches x on/off
    python scripts/bench_plan.py --out plan.jsonl --base DIR  the same for a base on disk, such as Qwen2.5-Coder-1.5B
    python scripts/bench_plan.py --out plan.jsonl --mixed 16  the same in 16 steps of rows that all differ
    python scripts/bench_plan.py --out plan.jsonl --show      the table of what was measured so far
    python scripts/bench_plan.py --runtime                    what a process needs for a tiny model: memory.RUNTIME

The models are SmolLM2-135M (fetch it with `sovtune fetch recipes/quickstart-ko.yaml`), and two with random weights: one
of 0.5 billion parameters in the shape of Qwen2.5-0.5B, one of 56 million in the shape of llama with an output layer of
its own. Each point trains two steps on rows of one document that fills them, all of it with loss: the peak of the
process is what is compared. With --mixed the rows hold documents of many lengths, packed as for training, and only the
first is one document that fills it. Points that are in the file already are not measured again. What else the machine
does changes no peak, only how long it takes: about 25 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sovtune.base import cache_home, resolve
from sovtune.machine import Machine
from sovtune.plan import DataSize, make_plan, read_base_facts
from sovtune.probe import run_probe
from sovtune.recipe import Recipe
from sovtune.recipe_file import load_recipe

QUICKSTART = Path(__file__).resolve().parent.parent / "recipes" / "quickstart-ko.yaml"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "random-0.5b": (
        "qwen2",
        {
            "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True,
        },
    ),
    "random-56m": (
        "llama",
        {
            "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
            "intermediate_size": 1408, "vocab_size": 32_000, "tie_word_embeddings": False,
        },
    ),
    "tiny": (
        "llama",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 64, "vocab_size": 512, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
"""Name -> model type and configuration of models with random weights."""
LENGTHS, ROWS = (128, 256, 512, 1024), (1, 2, 4)
MOST_OVER, MOST_UNDER = 0.10, -0.05
ROOMY = Machine(device="cpu", memory_available_bytes=2**60)


@dataclass(frozen=True, slots=True)
class Point:
    """One combination; ``storage`` and ``engine`` as in a recipe, ``mixed`` steps over rows that differ (0: equal)."""

    model: str
    length: int
    rows: int
    checkpointing: bool
    storage: str
    engine: str
    mixed: int = 0

    @property
    def key(self) -> str:
        """What the point is, as a line's name."""
        switch = "on" if self.checkpointing else "off"
        rows = f" mixed {self.mixed}" if self.mixed else ""
        return f"{self.model} {self.length} x {self.rows} checkpointing {switch} {self.storage} {self.engine}{rows}"


def recipe_of(point: Point) -> Recipe:
    """A recipe whose only micro-batch is the point."""
    return Recipe.model_validate(
        {
            "name": "bench-plan", "language": "en", "seed": 1, "method": "cpt",
            "base": {
                "model": f"bench/{point.model}", "revision": "main", "licence": "Apache-2.0",
                "quantisation": {"kind": point.storage},
            },
            "adapter": {"kind": "lora" if point.storage == "none" else "qlora"},
            "data": [{"card": "card.yaml"}], "card": {"licence": "Apache-2.0"},
            "train": {
                "steps": point.mixed or 2, "batch_tokens": point.length * point.rows,
                "rows": {"max_length": point.length},
                "run": {
                    "device": "cpu", "micro_rows": point.rows, "engine": point.engine,
                    "gradient_checkpointing": point.checkpointing,
                },
            },
        }
    )  # fmt: skip


def rows_of(point: Point, vocabulary: int) -> list[dict[str, Any]]:
    """Rows of random tokens, all with loss: one document in each, or many in all but the first."""
    generator = random.Random(point.length)
    lengths = [[point.length]] * point.rows
    if point.mixed:
        lengths = [[point.length]]
        lengths += [packed(point.length, generator) for _ in range(1, point.rows * point.mixed)]
    ids = [[generator.randrange(5, vocabulary - 5) for _ in range(sum(row))] for row in lengths]
    return [{"input_ids": row, "labels": row, "lengths": of} for row, of in zip(ids, lengths, strict=True)]


def packed(room: int, generator: random.Random) -> list[int]:
    """Lengths of the documents of a row, until one is too long: 16 to 32 tokens are as likely as 512 to 1,024."""
    lengths: list[int] = []
    while True:
        length = round(16 * (room / 16) ** generator.random())
        if sum(lengths) + length > room:
            return lengths
        lengths.append(length)


def planned(point: Point, base: Path) -> int:
    """Bytes the plan expects at the peak."""
    rows = [row["lengths"] for row in rows_of(point, vocabulary=1000)]
    tokens = sum(map(sum, rows))
    data = DataSize(
        tokens=tokens,
        supervised_tokens=tokens,
        rows=len(rows),
        documents=sum(map(len, rows)),
        longest=point.length,
        alike=not point.mixed,
    )
    plan = make_plan(recipe_of(point), read_base_facts(base), data, machine=ROOMY)
    return sum(plan.memory_bytes.values())


def measure(point: Point, base: Path) -> dict[str, Any]:
    """A line of the table."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    started = time.monotonic()
    rows = rows_of(point, config["vocab_size"])
    found = run_probe(recipe_of(point), base, rows, rows_per_step=point.rows if point.mixed else None)
    return {
        "point": point.key,
        "peak_bytes": found.peak_bytes,
        "out_of_memory": found.out_of_memory,
        "seconds_of_a_step": round(found.seconds, 2),
        "seconds": round(time.monotonic() - started, 1),
    }


def smollm2() -> Path:
    """The folder of SmolLM2-135M, which the quickstart fetches."""
    loaded = load_recipe(QUICKSTART)
    return resolve(loaded.resolved().base, root=loaded.root, offline=True).folder


def random_base(name: str) -> Path:
    """A base with random weights and SmolLM2's tokenizer, made on first use."""
    folder = cache_home() / "bench" / name
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, shape = SHAPES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape), dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=cache_home()) as made:
        model.save_pretrained(made)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(smollm2() / file, Path(made) / file)
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured so far, by point."""
    if not path.is_file():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["point"]: line for line in lines}


def show(points: list[Point], bases: dict[str, Path], measured: dict[str, dict[str, Any]]) -> None:
    """Planned beside measured, and how far they are apart."""
    off: list[tuple[float, str]] = []
    print(f"{'point':58} {'planned':>9} {'measured':>9} {'error':>7}")
    for point in points:
        line = measured.get(point.key)
        if line is None:
            continue
        expected = planned(point, bases[point.model])
        if line["peak_bytes"] is None:
            print(f"{point.key:58} {expected / 1e6:6.0f} MB   not measured: {line['out_of_memory']}")
            continue
        error = expected / line["peak_bytes"] - 1
        off.append((error, point.key))
        print(f"{point.key:58} {expected / 1e6:6.0f} MB {line['peak_bytes'] / 1e6:6.0f} MB {error:+7.1%}")
    if off:
        inside = sum(MOST_UNDER <= error <= MOST_OVER for error, _ in off)
        print(f"\n{inside} of {len(off)} within {MOST_UNDER:.0%} and {MOST_OVER:+.0%}")
        print(f"most over   {max(off)[0]:+.1%}  {max(off)[1]}")
        print(f"most under  {min(off)[0]:+.1%}  {min(off)[1]}")


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench_plan.jsonl"), help="lines of JSON, one a point"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--runtime", action="store_true", help="peak for a tiny model only")
    parser.add_argument("--base", type=Path, help="a base's folder instead of the three models")
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "random-0.5b", "random-56m"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--checkpointing", nargs="+", choices=["off", "on"], default=["off", "on"])
    parser.add_argument("--storage", nargs="+", default=["nf4"])
    parser.add_argument("--engine", nargs="+", default=["auto"])
    parser.add_argument("--mixed", type=int, default=0, metavar="STEPS", help="rows that differ")
    asked = parser.parse_args()
    if asked.runtime:
        asked.models, asked.lengths, asked.rows, asked.checkpointing = ["tiny"], [64], [1], ["off"]
    names = [asked.base.name] if asked.base else asked.models
    bases = {
        name: asked.base or (smollm2() if name == "smollm2-135m" else random_base(name)) for name in names
    }
    switches = [switch == "on" for switch in asked.checkpointing]
    grid = product(names, asked.lengths, asked.rows, switches, asked.storage, asked.engine, [asked.mixed])
    points = [Point(*values) for values in grid]
    measured = read_lines(asked.out)
    for number, point in enumerate(points, 1):
        if asked.show or (point.key in measured and not asked.runtime):
            continue
        line = measure(point, bases[point.model])
        measured[point.key] = line
        if not asked.runtime:
            with asked.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        print(f"{number} of {len(points)}  {point.key}  {line['seconds']} s", flush=True)
    show(points, bases, measured)


if __name__ == "__main__":
    main()
