"""Log-probabilities of answers under the model as training begins: measured once, kept in the run folder.

The reference is the model itself before its first step, with whatever adapter it starts with: a fresh one changes
nothing, so it is the base; one that is continued is where learning starts from. No second model is ever in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sovtune.train.rows import Row, digest

REFERENCE = "reference.jsonl"

Tick = Callable[[str, int, int], None]


def reference_key(fingerprint: str, model: Any, engine: str) -> str:
    """What the reference depends on: the run, the weights that training will change, the engine that measures."""
    content = hashlib.sha256(f"{fingerprint} {engine}".encode())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            content.update(name.encode())
            content.update(parameter.detach().float().cpu().numpy().tobytes())
    return content.hexdigest()


def reference_log_probs(
    rows: Iterable[Row], measure: Callable[[Row], list[float]], path: Path, key: str, tick: Tick
) -> dict[str, list[float]]:
    """Log-probabilities of every row's answers by the row's digest; what the file knows is not measured again.

    Each row is written as soon as it is measured, so that a run that is killed goes on where it was.

    Args:
        rows: rows; equal ones are measured once.
        measure: row -> log-probability of each answer in nats.
        path: the file; one with another key is begun anew.
        key: see ``reference_key``.
        tick: progress, called with (what, done, of).
    """
    wanted = {digest(row): row for row in rows}
    found = _read(path, key)
    missing = [name for name in wanted if name not in found]
    part = path.with_suffix(".part")
    lines = [json.dumps({"key": key}), *(_line(name, values) for name, values in found.items())]
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(part, path)
    with path.open("a", encoding="utf-8") as stream:
        for done, name in enumerate(missing, 1):
            found[name] = measure(wanted[name])
            stream.write(_line(name, found[name]) + "\n")
            stream.flush()
            tick("reference", done, len(missing))
    return found


def _line(name: str, values: list[float]) -> str:
    return json.dumps({"row": name, "log_probs": values})


def _read(path: Path, key: str) -> dict[str, list[float]]:
    """What a file knows; nothing when it has another key. A last line that a kill cut in half is left out."""
    if not path.is_file():
        return {}
    found: dict[str, list[float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            break
        if number == 0:
            if value != {"key": key}:
                return {}
            continue
        found[value["row"]] = value["log_probs"]
    return found
