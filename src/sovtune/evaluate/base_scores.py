"""What a base scored before any training, kept for the next run on it: half of an evaluation is the base's."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault
from sovtune.evaluate.bits import TextCost


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseScores:
    """Scores in a folder, each under the hash of all it depends on.

    ``setting`` is what every score depends on: the base's content, how it is stored and computed, on which kind of
    processor, with which versions. ``days`` are those on which the scores were measured that were taken from here.

    Raises:
        EnvironmentFault: a file in the folder is damaged.
    """

    folder: Path
    setting: Mapping[str, Any]
    days: set[str] = field(default_factory=set)

    def costs(
        self, texts: Sequence[str], asked: Mapping[str, Any], measure: Callable[[], list[TextCost]]
    ) -> list[TextCost]:
        """Of texts, measured as ``asked`` says: from an earlier run, or now."""
        found = self._kept(
            {"texts": list(texts), **asked}, lambda: [list(astuple(cost)) for cost in measure()]
        )
        return [TextCost(bits=bits, bytes=size, tokens=tokens) for bits, size, tokens in found]

    def answers(
        self, prompts: Sequence[str], asked: Mapping[str, Any], write: Callable[[], list[str]]
    ) -> list[str]:
        """To prompts, written as ``asked`` says: from an earlier run, or now."""
        return [str(answer) for answer in self._kept({"prompts": list(prompts), **asked}, write)]

    def _kept(self, asked: Mapping[str, Any], make: Callable[[], list[Any]]) -> list[Any]:
        said = json.dumps({**self.setting, **asked}, sort_keys=True, ensure_ascii=False)
        file = self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.json"
        if file.is_file():
            day, values = _read(file)
            os.utime(file)  # of use today
            self.days.add(day)
            return values
        values = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        day = datetime.now(UTC).date().isoformat()
        part.write_text(json.dumps({"day": day, "values": values}, ensure_ascii=False), encoding="utf-8")
        os.replace(part, file)
        return values


def _read(file: Path) -> tuple[str, list[Any]]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return str(kept["day"]), list(kept["values"])
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            "what the base scored in an earlier run cannot be read",
            where=str(file),
            why=f"{type(error).__name__}: {error}",
            fix=f"rm '{file}', then run the same command again: the base is measured anew",
        ) from error


def setting_of(model: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What scores of a model depend on: ``facts`` about the base, and what computes.

    The processor counts, since bf16 products are added up in another order on another one.
    """
    from importlib.metadata import version

    import torch

    from sovtune import __version__

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    cuda = model.device.type == "cuda"
    packages = ("torch", "transformers", "bitsandbytes", "tokenizers")
    return {
        **facts,
        "attention": causal.config._attn_implementation,
        "processor": torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
        "versions": {"sovtune": __version__, **{name: version(name) for name in packages}},
    }
