"""Who can read what is published where, and which data must not have been used for what goes there.

The rule, from what a data card states:

- ``public`` data: anywhere.
- ``internal`` data: no repository that everybody who reaches the Hub can read (``publish.private: false``).
- ``restricted`` data: the same, and no repository at all, also no private one, on a public Hub.
- ``residency.allowed_regions`` with ``export: false``: no Hub, until a person has stated by an override that its
  servers stand where the data may be; a public Hub is a prohibition, one's own Hub an open question.

A folder (``dir:``) publishes to nobody: its permissions decide, and they are the owner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from sovtune.licence_promises import LicenceProblem

PUBLIC_HUBS = ("huggingface.co", "hf.co", "hf.space", "modelscope.cn", "modelscope.ai")
"""Hubs that anybody may use, by host; subdomains too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Where an adapter goes: the target as a recipe writes it, the Hub's address, whether the repository is private."""

    to: str
    endpoint: str | None
    private: bool

    @property
    def is_hub(self) -> bool:
        """Whether it leaves for a Hub."""
        return self.to.startswith("hub:")

    @property
    def on_public_hub(self) -> bool:
        """Whether that Hub is one that anybody may use."""
        host = (urlsplit(self.endpoint).hostname or "") if self.endpoint else ""
        return self.is_hub and any(host == name or host.endswith(f".{name}") for name in PUBLIC_HUBS)

    @property
    def place(self) -> str:
        """In words: ``the public repository org/name of https://hub.example.org``."""
        kind = "private" if self.private else "public"
        return f"the {kind} repository {self.to.removeprefix('hub:')} of {self.endpoint}"

    def recorded(self, message: str) -> str:
        """A message for records that are published: without the Hub's address, which may be inside somebody's network.

        The first digits of the target's SHA-256 stand for it, so that an answer holds for this target alone.
        """
        digest = hashlib.sha256(f"{self.to} {self.endpoint} {self.private}".encode()).hexdigest()[:12]
        plain = message.replace(self.endpoint, "the Hub of the recipe") if self.endpoint else message
        return f"{plain} (target {digest})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one data card states about who may have the data, and where."""

    card: str
    sensitivity: str
    allowed_regions: tuple[str, ...]
    export: bool


def audience_problems(statement: Statement, audience: Audience) -> Iterator[LicenceProblem]:
    """Why what was trained on this data must not go to this audience."""
    if not audience.is_hub:
        return
    if statement.sensitivity == "restricted" and audience.on_public_hub:
        yield _problem(
            statement,
            "sensitivity",
            f"is restricted, and {audience.place} stands on a Hub that anybody may use",
            "publish to a Hub of your own, or to a folder (dir:PATH)",
            ("sensitivity",),
        )
    elif statement.sensitivity != "public" and not audience.private:
        yield _problem(
            statement,
            "sensitivity",
            f"is {statement.sensitivity}, and {audience.place} can be read by all who reach it",
            "write publish.private: true (on the command line, leave out --public)",
            ("sensitivity",),
        )
    if statement.allowed_regions and not statement.export:
        regions = ", ".join(statement.allowed_regions)
        yield _problem(
            statement,
            "residency",
            f"may not leave {regions}, and nothing says where the servers of {audience.endpoint} stand",
            "publish to a folder (dir:PATH), or let somebody state by an override where that Hub stands",
            ("residency", "allowed_regions"),
            settled=audience.on_public_hub,
        )


def _problem(
    statement: Statement, word: str, message: str, fix: str, at: tuple[str, ...], *, settled: bool = True
) -> LicenceProblem:
    return LicenceProblem(
        source=statement.card,
        word=word,
        constraint="audience",
        message=f"data {statement.card} {message}",
        fix=fix,
        at=at,
        settled=settled,
    )
