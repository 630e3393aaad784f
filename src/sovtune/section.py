"""What every file that people write is made of: strict frozen sections, shared types, units and rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError


def _path_is_plain(value: str) -> str:
    if value.startswith("~"):
        raise ValueError("`~` is not expanded; write the path relative to the recipe or in full")
    if "\0" in value:
        raise ValueError("a path cannot hold a NUL character")
    return value


def unit(words: str) -> JsonDict:
    """What one of this number is; error messages and the reference page show it."""
    return {"unit": words}


def form(words: str) -> JsonDict:
    """A ``pattern`` in words; error messages and the reference page show it."""
    return {"form": words}


Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(_path_is_plain)]
Sha256 = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$", json_schema_extra=form("a SHA-256: 64 hexadecimal digits in lower case")
    ),
]
LanguageTag = Annotated[
    str,
    Field(
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        json_schema_extra=form("a language tag such as ko, ar or zh-Hant"),
    ),
]
Url = Annotated[
    str,
    Field(
        pattern=r"^https?://[^\s@]+$",
        json_schema_extra=form("an address such as https://hub.example.org, without user name or password"),
    ),
]
HttpsUrl = Annotated[
    str,
    Field(pattern=r"^https://\S+$", json_schema_extra=form("an address that begins with https://")),
]
PackagePin = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$",
        json_schema_extra=form("a package and its exact version, `name==1.2.3`"),
    ),
]
SHARE = unit("share, 0.5 is one half")
Share = Annotated[float, Field(gt=0, le=1, json_schema_extra=SHARE)]


class Conflict(NamedTuple):
    """Values that are right alone but wrong together; ``at`` is the key to look at, below the section."""

    message: str
    at: tuple[str | int, ...]


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes, values cannot change after loading.

    ``rules`` are the combinations a section refuses. They are plain functions of the section and not pydantic
    validators, so that ``explain`` can also try them when other values of the section are wrong.
    """

    # Field docstrings are read when someone asks (schema_walk.descriptions): pydantic's
    # use_attribute_docstrings parses every class at import, a fifth of what `sovtune check` takes to start.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    rules: ClassVar[tuple[Callable[..., Conflict | None], ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            conflict = rule(self)
            if conflict is not None:
                raise PydanticCustomError(
                    "conflict", "{reason}", {"reason": conflict.message, "at": conflict.at}
                )
        return self


def first_repeat(items: Sequence[object], key: str, message: str) -> Conflict | None:
    """A conflict at ``KEY.INDEX.card`` when an item stands a second time."""
    for index, item in enumerate(items):
        if item in items[:index]:
            return Conflict(message, (key, index, "card"))
    return None
