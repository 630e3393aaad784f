#!/usr/bin/env python
"""Training speed and memory of sovtune beside trl, LLaMA-Factory and ms-swift: equal tokens, adapter and machine.

    python scripts/bench_train.py CORPORA --peers trl llamafactory swift     works A and B
    python scripts/bench_train.py CORPORA --qwen FOLDER                       work C: against the matmul roofline
    python scripts/bench_train.py --load FOLDER                               peak memory of loading a base in NF4

Each peer, and sovtune, lives in an environment of its own under ~/.cache/sovtune-bench, made on first use. CORPORA is a
folder with chatbot_ko/ChatbotData.csv and python_docs_ko/ko.jsonl. Everything runs with two threads, one job at a time;
on a busy machine only the ratios mean something, and the load average is printed beside them.

Work A: 256 dialogues of chatbot_ko, at most 512 tokens, 8 at a time, prompts masked. Work B: 200 kB of Korean running
text in pieces of at most 1024 tokens, one at a time. All: NF4 with double quantisation, bf16, rank 16, alpha 32, seven
projections, AdamW at 2e-4 with a cosine, no checkpointing, the order of the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_peers import COMMANDS, HOME, PEERS, Work, fresh, programs

THREADS = "2"


@dataclass
class Result:
    """One run of one tool."""

    tool: str
    seconds: float
    peak_bytes: int
    first_step_seconds: float
    losses: list[float]
    tokens_seen: int | None = None


def dialogues(corpora: Path) -> list[tuple[str, str]]:
    """The first 256 exchanges of the corpus after a shuffle with seed 0."""
    with (corpora / "chatbot_ko" / "ChatbotData.csv").open(encoding="utf-8") as stream:
        rows = [(row["Q"], row["A"]) for row in csv.DictReader(stream)]
    random.Random(0).shuffle(rows)
    return rows[:256]


def work_a(corpora: Path, base: Path, folder: Path) -> Work:
    """Dialogues, prompts masked."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    rows, messages = [], []
    for question, answer in dialogues(corpora):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        messages.append(json.dumps({"messages": turns}, ensure_ascii=False))
        asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        prompt = tokenizer.encode(asked, add_special_tokens=False).ids
        reply = tokenizer.encode(f"{answer}<|im_end|>\n", add_special_tokens=False).ids
        rows.append(one_row(prompt, reply))
    (folder / "train.jsonl").write_text("\n".join(messages) + "\n", encoding="utf-8")
    return Work("A", "chat", 512, 8, folder, rows)


def one_row(prompt: list[int], reply: list[int]) -> dict[str, list[int]]:
    """A row as sovtune's engine reads it."""
    ids = prompt + reply
    return {"input_ids": ids, "labels": [-100] * len(prompt) + reply, "lengths": [len(ids)]}


def work_text(name: str, corpora: Path, base: Path, folder: Path, *, size: int, length: int) -> Work:
    """Running text in pieces below ``length`` tokens, cut at line ends, so that no tool has to cut or pack."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    held = 0
    with (corpora / "python_docs_ko" / "ko.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            text = json.loads(line)["text"].strip()
            lines += [part for part in text.split("\n") if part.strip()]
            held += len(text.encode())
            if held >= size:
                break
    pieces, piece, used = [], [], 0
    for line in lines:
        cost = len(tokenizer.encode(line + "\n", add_special_tokens=False).ids)
        if cost > length // 2:
            continue
        if piece and used + cost > length - 24:  # room for what a tool adds at the ends
            pieces.append("\n".join(piece))
            piece, used = [], 0
        piece.append(line)
        used += cost
    ids = [[*tokenizer.encode(text, add_special_tokens=False).ids, end_of(base)] for text in pieces]
    rows = [{"input_ids": one, "labels": list(one), "lengths": [len(one)]} for one in ids]
    data = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in pieces)
    (folder / "train.jsonl").write_text(data + "\n", encoding="utf-8")
    return Work(name, "text", length, 1, folder, rows)


def end_of(base: Path) -> int:
    """The base's end-of-text id."""
    ends = json.loads((base / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return int(ends if isinstance(ends, int) else ends[0])


def sovtune_command(
    work: Work, base: Path, *, engine: str = "auto", checkpointing: bool = False
) -> list[str]:
    """This script as a worker: sovtune's engine on the rows."""
    fresh(work.folder / "sovtune-out")
    (work.folder / "rows.json").write_text(json.dumps(work.rows), encoding="utf-8")
    job = {
        "base": str(base), "folder": str(work.folder), "length": work.length, "batch": work.batch,
        "engine": engine, "checkpointing": checkpointing,
    }  # fmt: skip
    python = programs("sovtune") / "python"
    return [str(python), str(Path(__file__).resolve()), "--worker", json.dumps(job)]


def worker(job: dict[str, Any], watch: Callable[[int], None] | None = None) -> None:
    """Train on finished rows with sovtune's engine and print one JSON object per step, or call ``watch`` with it."""
    from sovtune.stack import import_stack

    import_stack()
    from datasets import Dataset

    from sovtune.model import load_with_new_adapter
    from sovtune.recipe import Recipe
    from sovtune.train import engine

    rows = json.loads((Path(job["folder"]) / "rows.json").read_text(encoding="utf-8"))
    steps = -(-len(rows) // job["batch"])
    recipe = Recipe.model_validate(
        {
            "name": "bench", "language": "ko", "seed": 42, "method": "cpt",
            "base": {"model": "bench/base", "revision": "main", "licence": "Apache-2.0"},
            "data": [{"card": "none.yaml"}], "card": {"licence": "apache-2.0"},
            "train": {
                "steps": steps, "batch_tokens": job["batch"] * job["length"], "learning_rate": 2e-4, "warmup": 0,
                "rows": {"max_length": job["length"], "packing": False},
                "run": {"engine": job["engine"], "gradient_checkpointing": job["checkpointing"],
                        "micro_rows": job["batch"], "checkpoint_steps": 10**6, "device": "cpu"},
            },
        }
    )  # fmt: skip
    loaded = load_with_new_adapter(recipe, Path(job["base"]))

    def told(metrics: Any, _: int) -> None:
        if watch is not None:
            return watch(metrics.step)
        print(json.dumps({"loss": metrics.loss, "tokens": metrics.tokens}), flush=True)
        return None

    outcome = engine.run(
        engine.TrainJob(
            recipe=recipe,
            rows=Dataset.from_list(rows),
            steps=steps,
            rows_per_step=job["batch"],
            tokenizer_folder=Path(job["base"]),
            run_dir=Path(job["folder"]) / "sovtune-out",
            fingerprint="bench",
            progress=told,
        ),
        loaded,
        resume=False,
    )
    if watch is None:
        print(json.dumps({"train_runtime": outcome.seconds}), flush=True)


def run(tool: str, command: list[str]) -> Result:
    """Run one tool; losses, times and the peak memory of its largest process.

    Raises:
        SystemExit: the tool failed; its last lines are printed.
    """
    environment = {
        **os.environ, "OMP_NUM_THREADS": THREADS, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "TOKENIZERS_PARALLELISM": "false",
        "USE_MODELSCOPE_HUB": "0",
    }  # fmt: skip
    environment["PATH"] = f"{Path(command[0]).parent}:{environment['PATH']}"
    begun = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd="/tmp"
    )
    lines, arrivals, losses = [], [], []
    seconds, seen = 0.0, None
    for line in child.stdout or ():
        lines.append(line)
        logged = parse_log(line)
        if "loss" in logged:
            losses.append(float(logged["loss"]))
            arrivals.append(time.monotonic() - begun)
        seconds = float(logged.get("train_runtime", seconds))
        seen = logged.get("num_input_tokens_seen", logged.get("tokens", seen))
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0 or not losses or not seconds:
        sys.exit(f"{tool} failed:\n" + "".join(lines[-30:]))
    first = arrivals[0] - seconds / len(losses)
    return Result(tool, seconds, usage.ru_maxrss * 1024, first, losses, int(float(seen)) if seen else None)


def parse_log(line: str) -> dict[str, Any]:
    """A line that is a dictionary, in JSON or in Python's way; anything else is an empty one."""
    import ast

    start = line.find("{")
    if start < 0 or not ("loss" in line or "train_runtime" in line):
        return {}
    text = line[start:].strip()
    try:
        value = json.loads(text) if '"' in text else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


def matmul_peak() -> float:
    """FLOP/s of bf16 products on this machine, now, with two threads."""
    import torch

    torch.set_num_threads(int(THREADS))
    a, b = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best


def linear_parameters(base: Path) -> int:
    """Weights of linear layers and of the head, which every token goes through."""
    from sovtune.plan import read_base_facts

    facts = read_base_facts(base)
    return facts.linear + facts.vocabulary * facts.hidden


def compare(work: Work, base: Path, peers: list[str], repeats: int) -> list[dict[str, Any]]:
    """Every tool on one work, in turns, and the medians."""
    print(
        f"\nwork {work.name}: {work.tokens:,} tokens, {work.supervised:,} supervised, {len(work.rows)} rows"
    )
    runs: dict[str, list[Result]] = {}
    peak, linear = matmul_peak(), linear_parameters(base)
    for _ in range(repeats):
        runs.setdefault("sovtune", []).append(run("sovtune", sovtune_command(work, base)))
        for peer in peers:
            runs.setdefault(peer, []).append(run(peer, COMMANDS[peer](work, base)))
        peak = max(peak, matmul_peak())  # what else the host does can only lower it
    rows = []
    for tool, results in runs.items():
        seconds = statistics.median(one.seconds for one in results)
        last = results[-1]
        rows.append(
            {
                "work": work.name,
                "tool": tool,
                "tokens_seen": last.tokens_seen,
                "seconds": round(seconds, 2),
                "tokens_per_second": round(work.tokens / seconds, 1),
                "peak_gb": round(statistics.median(one.peak_bytes for one in results) / 1e9, 2),
                "first_step_s": round(statistics.median(one.first_step_seconds for one in results), 1),
                "first_loss": round(last.losses[0], 4),
                "mean_loss": round(statistics.mean(last.losses), 4),
                "last_loss": round(last.losses[-1], 4),
                "roofline": round(4 * linear * work.tokens / seconds / peak, 3),
            }
        )
    ours = rows[0]
    for row in rows:
        row["speed_ratio"] = round(ours["tokens_per_second"] / row["tokens_per_second"], 2)
        row["memory_ratio"] = round(ours["peak_gb"] / row["peak_gb"], 2)
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items() if key != "work"))
    print(f"  bf16 matmul peak {peak / 1e9:.0f} GFLOP/s, load average {os.getloadavg()[0]:.1f}")
    return rows


def roofline(base: Path, folder: Path, corpora: Path, *, steps: int, length: int) -> list[dict[str, Any]]:
    """Work C: a larger base, one row of ``length`` tokens a step, without and with checkpointing."""
    from dataclasses import replace

    work = work_text("C", corpora, base, folder, size=400_000, length=length)
    work = replace(work, rows=[row for row in work.rows if len(row["input_ids"]) > 0.9 * length][:steps])
    print(f"\nwork C: {work.tokens:,} tokens in {len(work.rows)} steps")
    table = []
    for checkpointing in (False, True):
        peak = matmul_peak()
        result = run("sovtune", sovtune_command(work, base, checkpointing=checkpointing))
        peak = max(peak, matmul_peak())
        again = 2 if checkpointing else 0
        flop = (4 + again) * linear_parameters(base) * work.tokens
        row = {
            "work": "C",
            "checkpointing": checkpointing,
            "tokens_per_second": round(work.tokens / result.seconds, 1),
            "roofline": round(4 * linear_parameters(base) * work.tokens / result.seconds / peak, 3),
            "matmul_share": round(flop / result.seconds / peak, 3),
            "peak_gb": round(result.peak_bytes / 1e9, 2),
            "mean_loss": round(statistics.mean(result.losses), 4),
            "matmul_gflops": round(peak / 1e9),
        }
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
        table.append(row)
    return table


def load_once(folder: Path) -> None:
    """Load a base in NF4 and print the peak memory of this process."""
    import resource

    from sovtune.model import load_base
    from sovtune.recipe_base import Quantisation

    begun = time.monotonic()
    load_base(folder, Quantisation(), "cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"loading {folder.name} in NF4: peak {peak:.2f} GB, {time.monotonic() - begun:.1f} s")


def demonstration_base() -> Path:
    """SmolLM2-135M-Instruct, fetched as the quickstart fetches it."""
    from sovtune.base import resolve
    from sovtune.recipe_file import load_recipe

    loaded = load_recipe(Path(__file__).parent.parent / "recipes" / "quickstart-ko.yaml")
    return resolve(
        loaded.resolved().base, root=loaded.root, say=lambda line: print(line, file=sys.stderr)
    ).folder


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="?", type=Path)
    parser.add_argument("--peers", nargs="*", default=[], choices=sorted(PEERS))
    parser.add_argument("--works", default="AB", help="which of A and B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, help="only so many rows of works A and B, where time is short")
    parser.add_argument("--steps", type=int, default=20, help="steps of work C")
    parser.add_argument("--qwen", type=Path, help="folder of a larger base, for work C")
    parser.add_argument("--load", type=Path, help="only measure loading this base")
    parser.add_argument("--json", type=Path, help="write the table here too")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(given.worker)
    if given.load:
        return load_once(given.load)
    if given.corpora is None:
        parser.error("name the folder of corpora")
    table: list[dict[str, Any]] = []
    base = demonstration_base()
    for name in given.works:
        place = HOME / "work" / name
        if name == "A":
            work = work_a(given.corpora, base, place)
        else:
            work = work_text("B", given.corpora, base, place, size=200_000, length=1024)
        if given.limit:
            del work.rows[given.limit :]
            data = (place / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            (place / "train.jsonl").write_text("".join(data[: given.limit]), encoding="utf-8")
        table += compare(work, base, given.peers, given.repeats)
    if given.qwen:
        table += roofline(given.qwen, HOME / "work" / "C", given.corpora, steps=given.steps, length=1024)
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
