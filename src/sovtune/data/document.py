"""The small records that flow through the data room: one message, one document."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One training or evaluation document.

    ``where`` is ``file:row`` as a person would look it up (rows start at 1). A dialogue has ``messages`` and no
    ``text``; running text has ``text`` and no messages.
    """

    where: str
    messages: tuple[Message, ...] = ()
    text: str | None = None

    def as_row(self) -> dict[str, object]:
        """The document as a row of a .jsonl file: ``text``, or ``messages`` with ``role`` and ``content``."""
        if self.text is not None:
            return {"text": self.text}
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in self.messages]}


@dataclass(slots=True)
class ReadSource:
    """Documents of one source of a recipe, and counts of rows read and dropped by reason."""

    documents: list[Document] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
