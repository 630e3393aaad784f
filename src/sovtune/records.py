"""Frozen records that pass between stages; each is saved as JSON in the run folder and read back strictly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sovtune.errors import UsageError

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHash:
    """One file: path relative to its folder, size in bytes, SHA-256 in lower-case hex."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base model as it was resolved: what was named, where it came from, what it hashes to.

    ``content_sha256`` is the SHA-256 of the sorted ``path sha256`` lines of ``files``; ``source`` never holds a
    local path, only its kind (``folder``), a Hub endpoint, or ``package==version:file``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    model: str
    revision: str
    model_type: str
    source_kind: str
    source: str
    content_sha256: str
    files: tuple[FileHash, ...]
    converted_from: FileHash | None
    parameters: int
    licence_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetRecord:
    """One data card as it was read: what it states, rows, tokens, what was dropped and why.

    ``compared`` says of each statement of the card how it was held against a measurement, or why it was not;
    ``documents`` are the licence's evidence and the letter of permission, by hash; ``outputs_of`` licences of models
    that wrote the data and whose duties go along with what they wrote. ``tokens_available`` are those of all its
    documents that could be taken, ``tokens`` those in the rows, where a document may stand more than once.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    card_id: str
    version: str
    title: str
    licence: str
    languages: dict[str, float]
    source: str
    personal_data: str
    files: tuple[FileHash, ...]
    rows_read: int
    rows_used: int
    dropped: dict[str, int]
    tokens: int
    supervised_tokens: int
    share_asked: float | None
    share_reached: float
    basis: str = "licence"
    attribution: str | None = None
    commercial: str = "unknown"
    territory: tuple[str, ...] = ()
    sensitivity: str = "internal"
    allowed_regions: tuple[str, ...] = ()
    export: bool = False
    synthetic_share: float = 0.0
    outputs_of: tuple[str, ...] = ()
    documents: dict[str, FileHash] = field(default_factory=dict)
    compared: dict[str, str] = field(default_factory=dict)
    tokens_available: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRecord:
    """One language of the training data; a document counts as a whole for the language most of its letters are in.

    ``share_before`` is of all letters that came to the data gate (weighted, see ``data.language``; None without a
    gate), for what the gate drops is never tokenised. ``tokens_available`` and ``share_available`` are of all
    documents that could be taken, ``tokens`` and ``share_reached`` of the packed rows.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    tag: str
    share_asked: float | None
    share_before: float | None = None
    tokens_available: int
    share_available: float
    tokens: int
    share_reached: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A refusal of the licence check that a person answers for: its id, what it said, who, why."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    refusal: str
    question: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What the data stage made: documents rendered, masked and packed into rows of at most ``max_length`` tokens.

    ``overlap_dropped`` counts documents dropped for sharing text with a held-out set (None: it was not looked for);
    ``masked`` counts personal data and secrets replaced by placeholders, by kind.
    ``decisions`` are refusals that people answer for, ``open_questions`` what the policy ``advisory`` let pass.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    cache_key: str
    datasets: tuple[DataSetRecord, ...]
    documents: int
    rows: int
    tokens: int
    supervised_tokens: int
    max_length: int
    longest_document: int
    overlong: dict[str, int]
    tokens_cut: int
    row_fill: float
    template_sha256: str
    template_source: str
    tokenizer_sha256: str
    stop_token: str
    warnings: tuple[str, ...] = ()
    curated: bool = False
    overlap_dropped: int | None = None
    masked: dict[str, int] = field(default_factory=dict)
    licence_policy: Literal["strict", "advisory"] = "strict"
    decisions: tuple[Decision, ...] = ()
    open_questions: tuple[str, ...] = ()
    languages: tuple[LanguageRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """A change that makes a run need less: dotted keys with their new values, bytes saved on top of earlier changes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    values: dict[str, bool | int | float | str]
    saves_bytes: int
    total_bytes: int
    cost: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Arithmetic made before a step is spent: counts, seconds, bytes by part. ``notes`` says what is estimated.

    The parts of ``memory_bytes`` add up to the peak; ``phases`` has the peak of each stage and ``others`` what stands
    in no peak. ``micro_rows`` go through the model at once. ``changes`` would make the run fit, one on top of another.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    steps: int
    rows_per_step: int
    tokens: int
    epochs: float
    seconds: float | None
    memory_bytes: dict[str, int]
    memory_available_bytes: int
    fits: bool
    notes: tuple[str, ...] = ()
    machine: str = "this machine"
    micro_rows: int = 1
    energy_kwh: float | None = None
    phases: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    changes: tuple[PlanChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRecord:
    """The larger model that a run learnt from: ``weight`` of the loss, ``top`` tokens kept at each place.

    ``covered`` is the mean probability that it gave to those; ``rows_asked`` were not in the cache, which took
    ``seconds``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    model: str
    revision: str
    licence: str
    content_sha256: str
    parameters: int
    quantisation: str
    weight: float
    temperature: float
    top: int
    covered: float
    rows_asked: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The finished training: what was spent, what the loss did, with which versions on which device.

    Losses are means over supervised tokens in nats; ``peak_rss_bytes`` is the process's high-water mark.
    ``continued_from`` are the files of the earlier adapter that training began with.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    steps: int
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float
    first_loss: float
    last_loss: float
    mean_loss_last_10: float
    trainable_parameters: int
    total_parameters: int
    peak_rss_bytes: int
    device: str
    engine: str
    engine_notes: tuple[str, ...]
    targets: tuple[str, ...]
    resumed_from: tuple[int, ...]
    adapter_files: tuple[FileHash, ...]
    versions: dict[str, str]
    started_at: str
    saving_seconds: float = 0.0
    """What checkpoints took, since the run began or was resumed."""
    events: tuple[str, ...] = ()
    continued_from: tuple[FileHash, ...] = ()
    teacher: TeacherRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """Bits per byte of one held-out set: base, adapter, change in percent, each with a 95 % interval.

    Intervals are (low, high) from a bootstrap over documents; the change is paired. Negative change is better.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    language: str
    role: str
    card_id: str
    sha256: str
    documents: int
    bytes: int
    tokens: int
    base: float
    base_interval: tuple[float, float]
    adapter: float
    adapter_interval: tuple[float, float]
    change_percent: float
    change_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """Held-out comparisons: the share in which the chosen answer is likelier per token, under base and adapter.

    Margins are mean leads of the chosen answer in nats per token. ``reward`` is the share in which training made the
    chosen answer likelier, relative to the rejected one, and its margin is in nats. Intervals are 95 %.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    card_id: str
    sha256: str
    pairs: int
    base: float
    base_interval: tuple[float, float]
    adapter: float
    adapter_interval: tuple[float, float]
    base_margin: float
    adapter_margin: float
    reward: float
    reward_interval: tuple[float, float]
    reward_margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """One prompt answered greedily by base and adapter."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    language: str
    prompt: str
    base: str
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One quality gate: the limit, what was measured, whether it holds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    limit: float
    measured: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Base against adapter on held-out text, plus sample answers and the gates."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    scores: tuple[TextScore, ...]
    samples: tuple[SampleAnswer, ...]
    gates: tuple[GateResult, ...]
    decoding: str
    bootstrap: str
    seconds: float
    pairs: tuple[PairScore, ...] = ()
    base_measured_on: tuple[str, ...] = ()
    """Days of earlier evaluations from which figures of the base were taken; empty when it was measured anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReport:
    """The written model card and HTML report, by hash, with the lint's verdict."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    readme_sha256: str
    report_sha256: str
    licence: str
    obligations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReceipt:
    """What was published where; every file was read back and compared."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    target: str
    repo_id: str | None
    tag: str
    commit: str | None
    private: bool
    dry_run: bool
    files: tuple[FileHash, ...]
    verified: bool
    published_at: str
    notes: tuple[str, ...] = field(default=())


def to_json(record: Any) -> str:
    """A record as indented JSON with sorted keys and a final newline; NaN is refused (it is not JSON)."""
    return json.dumps(asdict(record), ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(kind: type[R], text: str, *, where: str = "record") -> R:
    """Read a record back.

    Raises:
        UsageError: the text is not JSON or does not have exactly the record's fields.
    """
    try:
        record: R = TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f"cannot read {kind.__name__}: {error.errors()[0]['msg']}",
            where=where,
            why="the file was edited by hand or written by another version of sovtune",
            fix="repeat the stage that writes it",
        ) from error
    return record


def read_record(kind: type[R], path: Path) -> R:
    """Read a record from a file (see ``from_json``)."""
    return from_json(kind, path.read_text(encoding="utf-8"), where=str(path))
