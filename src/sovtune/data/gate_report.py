"""What the data gate tells: per step counts, examples and time; shares before and after; how files were decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from pydantic import ConfigDict

from sovtune.data.gate_steps import STEPS

EXAMPLES = 5
"""Examples kept per reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateExample:
    """One row that was dropped: where it stands, the beginning of its text (personal data masked), more in words."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    where: str
    text: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStep:
    """One step: rows that came to it, changed rows by what changed, dropped rows by reason with examples.

    ``bytes`` are UTF-8 bytes of the texts that came to the step, ``seconds`` the time of all workers together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    rows: int
    changed: int
    changes: dict[str, int]
    dropped: dict[str, int]
    examples: dict[str, tuple[GateExample, ...]]
    bytes: int
    seconds: float

    @property
    def kept(self) -> int:
        """Rows that went on."""
        return self.rows - sum(self.dropped.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class GateInput:
    """One file: bytes on disk and their SHA-256, rows that came and stayed, rows by codec.

    ``letters`` are the weighted letters by language as the rows came (see ``data.language``), ``found`` personal data
    by kind: what a data card's statements are compared with.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    file: str
    card: str | None
    bytes: int
    sha256: str
    rows: int
    kept: int
    codecs: dict[str, int]
    letters: dict[str, float] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSet:
    """One held-out file: its texts, those too short to be looked for inside others, and rows that overlapped."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    texts: int
    too_short: int
    hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataGateReport:
    """One pass of the gate.

    Shares of languages are by letters, weighted so that parallel texts weigh the same (see ``data.language``).
    ``bytes_read`` and ``bytes_kept`` are UTF-8 bytes of texts. ``limits`` are the quality limits applied.
    ``seconds`` is wall time; ``shards_reused`` were found finished from an earlier run.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    language: str
    candidates: tuple[str, ...]
    settings: dict[str, str]
    inputs: tuple[GateInput, ...]
    rows: int
    kept: int
    bytes_read: int
    bytes_kept: int
    steps: tuple[GateStep, ...]
    personal_data: dict[str, int]
    languages_before: dict[str, float]
    languages_after: dict[str, float]
    limits: dict[str, float]
    held_out: tuple[HeldOutSet, ...]
    seconds: float
    workers: int
    shards: int
    shards_reused: int

    @property
    def dropped(self) -> dict[str, int]:
        """Dropped rows by reason, most frequent first."""
        counts: Counter[str] = Counter()
        for step in self.steps:
            counts.update(step.dropped)
        return dict(counts.most_common())

    @property
    def changed(self) -> dict[str, int]:
        """Changed rows by step, steps that changed nothing left out."""
        return {step.name: step.changed for step in self.steps if step.changed}

    def summary(self) -> dict[str, Any]:
        """The documented summary for scripts; see docs and `sovtune data scan --help`."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.dropped,
            "changed": self.changed,
            "pii": self.personal_data,
            "languages": {tag: round(share, 4) for tag, share in self.languages_before.items()},
        }


@dataclass(slots=True)
class Tally:
    """Counts of one step while rows pass; adds up over shards in the order of the input."""

    rows: int = 0
    changed: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    seconds: float = 0.0

    def wants_example(self, reason: str) -> bool:
        """Whether there is room for another example of this reason."""
        return len(self.examples.get(reason, ())) < EXAMPLES

    def drop(self, reason: str, *, where: str, text: str, note: str) -> None:
        """Count a dropped row; the text is kept while examples are wanted."""
        self.dropped[reason] += 1
        if self.wants_example(reason):
            self.examples.setdefault(reason, []).append({"where": where, "text": text, "note": note})

    def add(self, other: Tally) -> None:
        """Add the counts of a later part of the input."""
        self.rows += other.rows
        self.changed += other.changed
        self.changes.update(other.changes)
        self.dropped.update(other.dropped)
        self.found.update(other.found)
        self.bytes += other.bytes
        self.seconds += other.seconds
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += examples[: EXAMPLES - len(mine)]

    def as_json(self) -> dict[str, Any]:
        """Plain values (not ``asdict``, which cannot copy a ``Counter``)."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tally:
        """The inverse of ``as_json``."""
        counters = {name: Counter(values[name]) for name in ("changes", "dropped", "found")}
        return cls(**{**values, **counters})

    def step(self, name: str) -> GateStep:
        """The finished record."""
        return GateStep(
            name=name,
            rows=self.rows,
            changed=self.changed,
            changes=dict(self.changes.most_common()),
            dropped=dict(self.dropped.most_common()),
            examples={
                reason: tuple(GateExample(**example) for example in examples)
                for reason, examples in self.examples.items()
            },
            bytes=self.bytes,
            seconds=round(self.seconds, 3),
        )


def new_tallies() -> dict[str, Tally]:
    """A tally for every step, in order."""
    return {name: Tally() for name in STEPS}


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights as shares of their sum, largest first; empty when there is none."""
    total = sum(weights.values())
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return {tag: weight / total for tag, weight in ordered} if total else {}
