"""Calls the real command in a process of its own, on a tiny base and small cards made for the test."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tiny_models import make_base

QUESTIONS = [
    "전입신고는 언제 하나요?",
    "하늘은 왜 파란가요?",
    "김치찌개는 어떻게 끓이나요?",
    "도서관은 몇 시에 여나요?",
]
ANSWERS = [
    "이사한 날부터 열네 날 안에 합니다.",
    "빛이 공기에 흩어지기 때문입니다.",
    "김치를 볶고 물을 부어 끓입니다.",
    "아침 아홉 시에 엽니다.",
]


def write_card(
    folder: Path, name: str, rows: list[dict], *, kind: str, language: str, training: str = "yes"
) -> Path:
    """A data card with its file beside it; rows are written as JSON Lines."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    content = file.read_bytes()
    card = {
        "schema_version": 1, "id": name, "version": "1.0", "title": f"{name} test rows",
        "files": [{"path": file.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "rows": len(rows)}],
        "languages": [{"tag": language, "share": 1.0}],
        "licence": {"expression": "CC0-1.0"},
        "rights": {"basis": "own-work", "training": training},
        "sources": [{"kind": "own", "name": "written for this test"}],
        "annotation": {"by": "the authors of this test"},
        "personal_data": {"contains": "none"},
        "contact": "the authors of this test",
        "format": {"kind": kind},
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def write_project(folder: Path, **train: object) -> Path:
    """A tiny base, three cards and a recipe in a folder; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    make_base(folder / "base", dtype="bfloat16")
    pairs = [
        (f"{number}. {question}", answer)
        for number in range(10)
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs
    ]
    write_card(folder, "train-ko", rows, kind="chat", language="ko")
    write_card(
        folder, "held-ko", [{"text": answer} for answer in ANSWERS], kind="text", language="ko", training="no"
    )
    texts = [{"text": f"The library opens at {hour} in the morning."} for hour in ("eight", "nine", "ten")]
    write_card(folder, "held-en", texts, kind="text", language="en", training="no")
    recipe = {
        "schema_version": 1, "name": "tiny-run", "language": "ko", "seed": 7, "method": "sft",
        "base": {
            "model": "test/tiny", "revision": "main", "licence": "Apache-2.0", "mirrors": [{"folder": "base"}],
            "quantisation": {"kind": "nf4"},
        },
        "adapter": {"kind": "qlora", "rank": 4, "alpha": 8},
        "data": [{"card": "train-ko.yaml"}],
        "train": {
            "steps": 8, "batch_tokens": 256, "learning_rate": 5e-3, "rows": {"max_length": 256},
            "run": {"checkpoint_steps": 2}, **train,
        },
        "evaluate": {
            "texts": [{"card": "held-ko.yaml", "role": "target"}, {"card": "held-en.yaml", "role": "replay"}],
            "prompts": [QUESTIONS[0]], "max_new_tokens": 4, "max_length": 64, "fail_if_replay_rises": 50,
        },
        "card": {"licence": "apache-2.0"},
        "publish": {"to": f"dir:{folder / 'published'}"},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The child's environment: caches in the test's folder, one thread."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SOVTUNE_"))}
    return {**keep, "SOVTUNE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", **more}


def sovtune(
    *arguments: object, folder: Path, prefix: tuple[str, ...] = (), timeout_s: int = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [*prefix, sys.executable, "-m", "sovtune", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start(*arguments: object, folder: Path, **env: str) -> subprocess.Popen[str]:
    """Start the command and leave it running."""
    command = [sys.executable, "-m", "sovtune", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, **env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def step_losses(run_dir: Path) -> list[float]:
    """The losses of metrics.jsonl."""
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Return as soon as metrics.jsonl has that many lines."""
    import time

    end = time.monotonic() + timeout_s
    metrics = run_dir / "metrics.jsonl"
    while time.monotonic() < end:
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        if process.poll() is not None:
            raise AssertionError(f"the run ended early: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached in {timeout_s} s")
