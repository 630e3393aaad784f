"""The recipe's section for what is trained: a low-rank adapter, or all weights."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from sovtune.section import (
    Conflict,
    LocalPath,
    Section,
    Text,
    unit,
)


class Adapter(Section):
    """The low-rank adapter that is trained."""

    kind: Literal["lora", "qlora", "full"] = "qlora"
    """lora on a 16/32-bit base, qlora on a quantised base; full trains every weight of an unquantised base."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Inner dimension r of the update B @ A."""
    alpha: float = Field(default=32, gt=0, le=4096)
    """Scale of the update is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; above 0 the fast CPU path does not apply."""
    targets: Literal["auto"] | tuple[Text, ...] = "auto"
    """auto: the linear layers known to be right for the model family; or a list of module names."""

    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353): magnitude and direction apart; better at small ranks, slower."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv 2312.03732), so that large ranks keep learning."""
    init: Literal["default", "pissa", "loftq"] = "default"
    """default: B is 0; pissa: principal singular vectors (arXiv 2404.02948); loftq: what 4 bits lost (2310.08659)."""
    layers: tuple[int, ...] | None = Field(default=None, json_schema_extra=unit("layer number, from 0"))
    """Only these layers get an adapter; default all."""
    rank_pattern: dict[Text, int] = Field(default={}, max_length=64)
    """Other ranks for some modules, by regular expression: `{layers.0.self_attn.q_proj: 64}`."""
    vocabulary: Literal["frozen", "all"] | tuple[Text, ...] = "frozen"
    """Embedding and output rows: frozen, all trained, or those of the tokens named (tokens the base never learnt)."""
    continue_from: LocalPath | None = None
    """Folder of an earlier adapter to begin with, relative to the recipe; a new run, not a resumed one."""

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and not value:
            raise ValueError("an empty list trains nothing; write auto or name modules")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("a module is named twice")
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _ranks_in_range(cls, value: dict[str, int]) -> dict[str, int]:
        for name, rank in value.items():
            if not 1 <= rank <= 1024:
                raise ValueError(f"rank {rank} of {name} is not between 1 and 1024")
            try:
                re.compile(name)
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from error
        return value

    @field_validator("vocabulary")
    @classmethod
    def _tokens_differ(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("name tokens, each once; or write frozen or all")
        return value

    @field_validator("layers")
    @classmethod
    def _layers_are_numbers_from_0(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 0 or len(set(value)) < len(value)):
            raise ValueError(
                "name layers by their numbers from 0, each once; leave the key out for all layers"
            )
        return value

    def _full_has_no_matrices(self) -> Conflict | None:
        if self.kind != "full":
            return None
        for name, usual in _DEFAULTS.items():
            if name != "kind" and getattr(self, name) != usual:
                return Conflict(
                    "full trains every weight of the base: there is no adapter to set this for", (name,)
                )
        return None

    def _one_beginning(self) -> Conflict | None:
        if self.continue_from is not None and self.init != "default":
            return Conflict("an adapter that goes on from another one is not initialised anew", ("init",))
        return None

    def _special_starts_stand_alone(self) -> Conflict | None:
        if self.init != "default" and self.dora:
            return Conflict(
                f"{self.init} moves weight into the adapter, dora scales what is left: not both", ("dora",)
            )
        return None

    @property
    def trains_output(self) -> bool:
        """Whether weights of the output layer are trained."""
        return self.kind == "full" or self.vocabulary != "frozen"

    rules = (_full_has_no_matrices, _one_beginning, _special_starts_stand_alone)


_DEFAULTS = {name: field.default for name, field in Adapter.model_fields.items()}
