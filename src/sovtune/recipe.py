"""The recipe: everything about one run as a frozen, strict schema of small sections.

The sections for base, adapter, training, data gate and launching have modules of their own. Validators do no I/O and
import nothing heavy; reading files and origins of values live in ``recipe_file``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.recipe_adapter import Adapter
from sovtune.recipe_base import Base
from sovtune.recipe_curate import Curate
from sovtune.recipe_distil import Distil
from sovtune.recipe_launch import Launch
from sovtune.recipe_train import Train
from sovtune.section import (
    SHARE,
    Conflict,
    LanguageTag,
    LocalPath,
    Section,
    Share,
    Text,
    Url,
    first_repeat,
    form,
    unit,
)

SCHEMA_VERSION = 1
PERCENT = unit("percent, 3 is three percent")
PREFERENCE_METHODS = {
    "margin": ("simpo",),
    "label_smoothing": ("dpo",),
    "sft_weight": ("dpo", "simpo"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}
"""Key of ``preference`` -> the methods that read it."""


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


class Mix(Section):
    """Shares of the training tokens by language, beside those by source, and how exactly all shares must be met."""

    languages: dict[LanguageTag, Share] = Field(default={}, max_length=64)
    """Share of the training tokens (0 to 1] of each language, by the language measured in each document."""
    tolerance: float = Field(default=0.02, gt=0, le=0.5, json_schema_extra=SHARE)
    """How far a share may be off in the packed rows, by language and by source, before the run is refused."""

    def _languages_fill_the_mixture(self) -> Conflict | None:
        total = sum(self.languages.values())
        if self.languages and abs(total - 1) > 1e-6:
            return Conflict(f"the shares of all languages add up to {total:g}, not 1", ("languages",))
        return None

    rules = (_languages_fill_the_mixture,)


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
    pairs: tuple[HeldOut, ...] = Field(default=(), max_length=32)
    """Held-out comparisons (kind preference): how often base and adapter find the chosen answer likelier."""
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

    def _pairs_differ(self) -> Conflict | None:
        return first_repeat([pair.card for pair in self.pairs], "pairs", "this held-out set is named twice")

    rules = (_gate_has_a_set, _sets_differ, _pairs_differ)

    @property
    def held_out(self) -> tuple[HeldOut, ...]:
        """Every held-out set, whatever is measured on it."""
        return (*self.texts, *self.pairs)


class Override(Section):
    """One refusal of the licence check that somebody overrules."""

    refusal: Text
    """The refusal's id, as the error names it: for example `sample-ko-instruct.non-commercial`."""
    name: Text
    """Who decided: a person or an office."""
    reason: Text
    """Why, in words that can stand in the model card."""


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
    licence_policy: Literal["strict", "advisory"] = "strict"
    """strict: what licences forbid or leave open stops the run; advisory: open questions become warnings."""
    overrides: tuple[Override, ...] = Field(default=(), max_length=32)
    """Refusals of the licence check that a named person answers for; each is printed in the model card."""


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


class Preference(Section):
    """Learning from comparisons: dpo, kto, orpo, simpo."""

    beta: float | None = Field(default=None, gt=0, le=100)
    """How strongly preferences pull; default 0.1 (dpo, kto, orpo: its lambda) and 2.0 (simpo)."""
    margin: float | None = Field(default=None, ge=0, le=100)
    """For simpo: reward by which the chosen answer must lead; default 1.0."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, json_schema_extra=SHARE)
    """For dpo: share of comparisons taken to be the wrong way round (conservative DPO)."""
    sft_weight: float = Field(default=0.0, ge=0, le=100)
    """For dpo and simpo: weight of the plain loss of the chosen answer, which keeps it likely."""
    desirable_weight: float | None = Field(default=None, gt=0, le=100)
    """For kto: weight of good answers; default 1."""
    undesirable_weight: float | None = Field(default=None, gt=0, le=100)
    """For kto: weight of bad answers; default 1."""


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
    method: Literal["sft", "cpt", "dpo", "kto", "orpo", "simpo"]
    """sft: answers in dialogues; cpt: plain text; dpo, orpo, simpo: pairs of answers; kto: judged answers."""
    base: Base
    """The model that is adapted."""
    adapter: Adapter = Adapter()
    """The adapter that is trained."""
    data: tuple[DataSource, ...] = Field(min_length=1, max_length=64)
    """Training data, each behind a data card."""
    mix: Mix | None = None
    """Shares by language; without it only the shares of the sources count, with the usual tolerance."""
    curate: Curate | None = None
    """The data gate; without this section documents are only normalised to NFC."""
    train: Train
    """How long, how fast, how much at once."""
    preference: Preference | None = None
    """For dpo, kto, orpo and simpo; without it their usual values."""
    distil: Distil | None = None
    """With sft and cpt: learn from a larger model's probabilities as well."""
    launch: Launch = Launch()
    """Where the work runs."""
    evaluate: Evaluate = Evaluate()
    """Before and after."""
    card: Card
    """What only a person can say."""
    publish: Publish | None = None
    """Where the adapter goes; without it nothing is published."""

    def _adapter_fits_base(self) -> Conflict | None:
        kind, storage = self.adapter.kind, self.base.quantisation.kind
        if kind == "qlora" and storage == "none":
            message = (
                "qlora trains on a quantised base: set base.quantisation.kind to nf4, or write lora here"
            )
            return Conflict(message, ("adapter", "kind"))
        if kind == "lora" and storage != "none":
            message = f"lora trains on an unquantised base, base.quantisation.kind is {storage}: write qlora"
            return Conflict(message, ("adapter", "kind"))
        if kind == "full" and storage != "none":
            message = f"{storage} weights cannot be trained: set base.quantisation.kind to none, or write qlora here"
            return Conflict(message, ("adapter", "kind"))
        if self.adapter.init == "loftq" and storage not in ("nf4", "fp4"):
            message = f"loftq makes up for what 4 bits lose, base.quantisation.kind is {storage}"
            return Conflict(message, ("adapter", "init"))
        return None

    def _full_stands_alone(self) -> Conflict | None:
        if self.adapter.kind != "full":
            return None
        if self.publish is not None:
            message = "adapters are published; full gives a whole model, which stays in the run folder: leave this out"
            return Conflict(message, ("publish",))
        if self.method in ("dpo", "kto"):
            message = f"{self.method} needs an adapter: write lora or qlora here, or orpo or simpo above"
            return Conflict(message, ("adapter", "kind"))
        if self.train.finer.lora_plus is not None:
            return Conflict("full has no matrices A and B", ("train", "finer", "lora_plus"))
        return None

    def _strategy_fits(self) -> Conflict | None:
        """Pairs that were tried with peft 0.21, bitsandbytes 0.50 and deepspeed 0.19, and end in an error of theirs."""
        strategy, storage = self.launch.strategy, self.base.quantisation.kind
        if strategy == "fsdp2" and self.adapter.kind == "full":
            message = "fsdp2 shares a frozen base among processes, and full trains it: write zero3, or train an adapter"
            return Conflict(message, ("launch", "strategy"))
        if strategy == "fsdp2" and storage == "int8":
            message = (
                "fsdp2 cannot share out a base in int8, whose parts would lose their scales: write zero3, or "
                "base.quantisation.kind: nf4"
            )
            return Conflict(message, ("launch", "strategy"))
        if strategy == "zero3" and self.adapter.dora and storage in ("nf4", "fp4"):
            message = (
                "dora on a base in 4 bits makes weights that zero3 does not know: write launch.strategy: fsdp2, "
                "or leave dora out"
            )
            return Conflict(message, ("adapter", "dora"))
        return None

    def _finer_fits_method(self) -> Conflict | None:
        finer = self.train.finer
        asked = {
            "label_smoothing": finer.label_smoothing > 0,
            "z_loss": finer.z_loss > 0,
            "neftune": finer.neftune is not None,
        }
        for name, wanted in asked.items():
            if wanted and self.method not in ("sft", "cpt"):
                message = f"method {self.method} does not read this, sft and cpt do"
                return Conflict(message, ("train", "finer", name))
        return None

    def _preference_fits_method(self) -> Conflict | None:
        if self.preference is None:
            return None
        if self.method in ("sft", "cpt"):
            return Conflict(f"method {self.method} compares nothing: leave this section out", ("preference",))
        for name, methods in PREFERENCE_METHODS.items():
            given = getattr(self.preference, name) != Preference.model_fields[name].default
            if given and self.method not in methods:
                verb = "does" if len(methods) == 1 else "do"
                message = f"method {self.method} does not read this, {' and '.join(methods)} {verb}"
                return Conflict(message, ("preference", name))
        return None

    def _distil_fits(self) -> Conflict | None:
        if self.distil is None:
            return None
        if self.method not in ("sft", "cpt"):
            message = f"a teacher stands beside text, method {self.method} compares answers: leave this out"
            return Conflict(message, ("distil",))
        finer = self.train.finer
        for name in ("label_smoothing", "z_loss"):
            if getattr(finer, name) > 0:
                message = "a run with a teacher does not read this: the teacher says what else is likely"
                return Conflict(message, ("train", "finer", name))
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
        for name, sets in (("texts", self.evaluate.texts), ("pairs", self.evaluate.pairs)):
            for index, held_out in enumerate(sets):
                if held_out.card in trained:
                    message = "this card is also under data: text that is trained on cannot be held out"
                    return Conflict(message, ("evaluate", name, index, "card"))
        return None

    def _dialogues_stay_whole(self) -> Conflict | None:
        if self.method != "cpt" and self.train.rows.overlong == "split":
            message = f"split would cut dialogues apart; with method {self.method} write error or drop"
            return Conflict(message, ("train", "rows", "overlong"))
        return None

    rules = (
        _adapter_fits_base,
        _full_stands_alone,
        _strategy_fits,
        _finer_fits_method,
        _preference_fits_method,
        _distil_fits,
        _all_or_no_shares,
        _shares_fill_the_mixture,
        _sources_differ,
        _held_out_is_held_out,
        _dialogues_stay_whole,
    )
