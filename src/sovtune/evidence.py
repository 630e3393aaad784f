"""The records of one run, read together: all that card and report may state."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from sovtune.data.card import load_card
from sovtune.data.gate_report import DataGateReport
from sovtune.errors import CardError, UsageError
from sovtune.recipe import Recipe
from sovtune.records import BaseRecord, DataReport, EvalReport, Plan, TrainReport, from_json
from sovtune.runs import LOCK, RunFolder

METRICS = "metrics.jsonl"
GATE = "gate.json"
HUB_PREFIX = "hub:"
LANGUAGE_FLOOR = 0.01
"""A language below this share of the training tokens is not claimed in the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of ``metrics.jsonl``; loss in nats per supervised token, seconds since training began.

    Preference methods have a loss per pair or judged answer, and rewards (see ``train.watch.StepMetrics``).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    supervised_tokens: int
    seconds: float
    rss_bytes: int
    reward_chosen: float | None = None
    reward_rejected: float | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One run: what was asked (recipe) and what was recorded; ``lock_sha256`` is of the lock file's bytes.

    ``gate`` is what the data gate did, None when the data did not go through it. ``text_may_go_out``: every data card
    allows its text in a page that is published with the adapter.
    """

    recipe: Recipe
    base: BaseRecord
    data: DataReport
    train: TrainReport
    evaluation: EvalReport
    plan: Plan | None
    steps: tuple[Step, ...]
    lock_sha256: str
    gate: DataGateReport | None = None
    text_may_go_out: bool = False

    @property
    def name(self) -> str:
        """What the adapter is called where it goes: the repository's name, else the run's."""
        publish = self.recipe.publish
        if publish is not None and publish.to.startswith(HUB_PREFIX):
            return publish.to.rsplit("/", maxsplit=1)[1]
        return self.recipe.name

    @property
    def data_licences(self) -> dict[str, str]:
        """Data card id -> licence expression."""
        return {entry.card_id: entry.licence for entry in self.data.datasets}

    @property
    def hub_datasets(self) -> tuple[str, ...]:
        """Ids of the training sets that are on a Hub; local files have none."""
        paths = (file.path for entry in self.data.datasets for file in entry.files)
        return tuple(
            dict.fromkeys(path.removeprefix(HUB_PREFIX) for path in paths if path.startswith(HUB_PREFIX))
        )

    def language_shares(self) -> list[tuple[str, float]]:
        """Languages of the training tokens, largest share first: each card's shares weighed by its tokens."""
        tokens: dict[str, float] = defaultdict(float)
        for entry in self.data.datasets:
            for tag, part in entry.languages.items():
                tokens[tag] += part * entry.tokens
        whole = sum(tokens.values())
        shares = [
            (tag, count / whole) for tag, count in tokens.items() if count >= LANGUAGE_FLOOR * whole > 0
        ]
        return sorted(shares, key=lambda item: (-item[1], item[0]))


def _steps(path: Path) -> tuple[Step, ...]:
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(
        from_json(Step, line, where=f"{path.name}:{at}") for at, line in enumerate(lines, 1) if line.strip()
    )


def _gate(path: Path, data: DataReport) -> DataGateReport | None:
    """The gate's record; one that lies there from data that went through it earlier is not this run's."""
    if not data.curated or not path.is_file():
        return None
    return from_json(DataGateReport, path.read_text(encoding="utf-8"), where=path.name)


def _text_may_go_out(recipe: Recipe) -> bool:
    """Whether all cards say: public, and to be passed on. A card that cannot be read any more does not say so."""
    for source in recipe.data:
        try:
            card = load_card(Path(source.card)).card
        except CardError:
            return False
        if card.sensitivity != "public" or card.rights.redistribution != "yes":
            return False
    return True


def read_evidence(run_dir: Path, recipe: Recipe) -> Evidence:
    """Read every record that card and report state facts from.

    Args:
        run_dir: the run folder.
        recipe: the effective recipe of that run.

    Raises:
        UsageError: a stage was not done, or a record cannot be read.
    """
    folder = RunFolder(run_dir)
    lock = run_dir / LOCK
    if not lock.is_file():
        raise UsageError(f"there is no {LOCK}, so this is no run of sovtune", where=str(run_dir))
    data = folder.need("data", DataReport)
    gate = _gate(run_dir / GATE, data)
    return Evidence(
        recipe=recipe,
        base=folder.need("base", BaseRecord),
        data=data,
        train=folder.need("train", TrainReport),
        evaluation=folder.need("evaluate", EvalReport),
        plan=folder.load("plan", Plan),
        steps=_steps(run_dir / METRICS),
        lock_sha256=hashlib.sha256(lock.read_bytes()).hexdigest(),
        gate=gate,
        text_may_go_out=gate is not None and _text_may_go_out(recipe),
    )
