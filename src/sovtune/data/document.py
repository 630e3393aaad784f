"""The small records that flow through the data room: one message, one document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    ``text``; running text has ``text`` and no messages. Two kinds of dialogue are judged, and end with the answer
    that was judged: a comparison has in ``rejected`` the answer that was found worse than its last turn, and feedback
    says in ``good`` what its last turn was found to be.
    """

    where: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    rejected: str | None = None
    good: bool | None = None

    def as_row(self) -> dict[str, object]:
        """The document as a row of a .jsonl file, with the usual keys of its kind; turns are ``role``, ``content``."""
        if self.text is not None:
            return {"text": self.text}
        turns = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        if self.rejected is not None:
            rejected = [{"role": "assistant", "content": self.rejected}]
            return {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": rejected}
        if self.good is not None:
            return {"prompt": turns[:-1], "completion": turns[-1:], "label": self.good}
        return {"messages": turns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A document on its way into the mixture: the place of its source in the recipe, and its main language."""

    source: int
    document: Document
    language: str


@dataclass(slots=True, kw_only=True)
class Stream:
    """The documents of all sources, source by source; ``counts`` of rows read and dropped grow while they are read."""

    documents: Iterator[Incoming]
    counts: tuple[Counter[str], ...]


def texts_of(document: Document) -> tuple[str, ...]:
    """The texts of a document: its running text, or what each turn says and last the answer it was preferred to."""
    if document.text is not None:
        return (document.text,)
    rejected = () if document.rejected is None else (document.rejected,)
    return (*(message.content for message in document.messages), *rejected)


def bytes_of(document: Document) -> int:
    """UTF-8 bytes of a document's texts."""
    if document.text is not None:
        return len(document.text.encode("utf-8"))
    return sum([len(text.encode("utf-8")) for text in texts_of(document)])


def joined(document: Document) -> str:
    """All of a document as one text, a turn on a line."""
    return document.text if document.text is not None else "\n".join(texts_of(document))


def with_texts(document: Document, texts: Sequence[str]) -> Document:
    """The document with other texts in the place of its own, in the order of ``texts_of``."""
    if document.text is not None:
        return replace(document, text=texts[0])
    number = len(document.messages)
    turns = zip(document.messages, texts[:number], strict=True)
    messages = tuple(replace(message, content=text) for message, text in turns)
    rejected = None if document.rejected is None else texts[number]
    return replace(document, messages=messages, rejected=rejected)
