"""The data card: what a data steward states about a data set, as a frozen, strict schema of small sections.

Validators do no I/O and import nothing heavy; reading cards and holding files to them live in ``card``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.data.card_sections import (
    Annotation,
    Language,
    Licence,
    NotEmpty,
    PersonalData,
    Quality,
    Residency,
    Rights,
    Source,
)
from sovtune.licence_table import PERMISSION
from sovtune.licences import licence_keys, terms_of
from sovtune.section import SHARE, Conflict, LocalPath, Section, Sha256, Text, form, unit

HUB_PREFIX = "hub:"
SHARES_TOLERANCE = 0.01
"""Shares are written with two decimals; those of three languages may then miss 1 by 0.01."""


class DataFile(Section):
    """One file, folder of Markdown, or Hub data set, with the figures it is held to."""

    path: LocalPath
    """Relative to the card, with `/`; or `hub:owner/name` for a data set on a Hub."""
    sha256: Sha256
    """SHA-256 of the bytes on disk; of a folder or Hub data set: of its sorted lines `path sha256`."""
    bytes: int | None = Field(default=None, ge=1, json_schema_extra=unit("bytes"))
    """Size on disk, as stored (compressed when the file is)."""
    rows: int = Field(ge=1, json_schema_extra=unit("rows"))
    """Rows, documents, or lines with something on them, as sovtune counts them."""
    split: Text | None = None
    """Name of the split this file belongs to; all files of a card name one, or none does."""
    revision: Text | None = None
    """For hub: commit of the data set; required there."""
    config: Text | None = None
    """For hub: configuration of the data set, when it has several."""

    def _hub_is_pinned(self) -> Conflict | None:
        hub = self.path.startswith(HUB_PREFIX)
        if hub and self.path.count("/") != 1:
            return Conflict("a Hub data set is written `hub:owner/name`", ("path",))
        if hub and self.revision is None:
            return Conflict("a Hub data set needs `revision`, a commit", ("path",))
        for name in ("revision", "config"):
            if not hub and getattr(self, name) is not None:
                return Conflict(f"`{name}` is for hub: data sets", (name,))
        return None

    rules = (_hub_is_pinned,)


class Fields(Section):
    """Names of the columns or keys, where they are not the usual ones."""

    messages: Text | None = None
    """chat: the list of turns; preference, feedback: those of the prompt; default messages."""
    role: Text | None = None
    """chat, preference, feedback: the role of a turn; default role."""
    content: Text | None = None
    """chat, preference, feedback: the text of a turn; default content."""
    instruction: Text | None = None
    """instruction: the task; default instruction."""
    input: Text | None = None
    """instruction: material for the task, may be absent or empty; default input."""
    output: Text | None = None
    """instruction: the answer; default output."""
    prompt: Text | None = None
    """prompt_completion, preference, feedback: the question, or the turns up to it; default prompt."""
    completion: Text | None = None
    """prompt_completion, feedback: the answer; default completion."""
    chosen: Text | None = None
    """preference: the better answer, or the whole dialogue with it; default chosen."""
    rejected: Text | None = None
    """preference: the worse answer, or the whole dialogue with it; default rejected."""
    label: Text | None = None
    """feedback: whether the answer is good (true, 1, good) or bad (false, 0, bad); default label."""
    text: Text | None = None
    """text: the running text; default text."""
    document: Literal["file", "paragraph", "line"] | None = None
    """text in .txt: what one document is; default line."""


Kind = Literal["chat", "instruction", "prompt_completion", "text", "preference", "feedback"]
KIND_FIELDS: dict[Kind, tuple[str, ...]] = {
    "chat": ("messages", "role", "content"),
    "instruction": ("instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text", "document"),
    "preference": ("prompt", "messages", "chosen", "rejected", "role", "content"),
    "feedback": ("prompt", "messages", "completion", "label", "role", "content"),
}
"""Kind of row -> the keys of ``Fields`` that it reads."""
WITH_TURNS: tuple[Kind, ...] = ("chat", "preference", "feedback")
"""Kinds whose rows may hold lists of turns."""


class Format(Section):
    """What a row is and how it becomes a dialogue or a text."""

    kind: Kind
    """Dialogues: chat, instruction, prompt_completion; text; preference: two answers compared; feedback: judged."""
    fields: Fields = Fields()
    """Columns or keys with unusual names."""
    role_map: dict[Text, Literal["system", "user", "assistant", "tool"]] = Field(default={}, max_length=32)
    """chat, preference, feedback: names of roles in the data, for example {human: user, gpt: assistant}."""
    system: Text | None = None
    """System message for dialogues that have none."""
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, json_schema_extra=form("one character")
    )
    """CSV: what separates columns; default comma, and tab for .tsv."""

    def _fields_fit_the_kind(self) -> Conflict | None:
        for name in Fields.model_fields:
            if getattr(self.fields, name) is not None and name not in KIND_FIELDS[self.kind]:
                known = ", ".join(KIND_FIELDS[self.kind])
                return Conflict(f"kind {self.kind} reads only {known}", ("fields", name))
        return None

    def _dialogue_keys_are_for_dialogues(self) -> Conflict | None:
        if self.role_map and self.kind not in WITH_TURNS:
            kinds = " and ".join((", ".join(WITH_TURNS[:-1]), WITH_TURNS[-1]))
            return Conflict(f"`role_map` is for kinds {kinds}, this is {self.kind}", ("role_map",))
        if self.system is not None and self.kind == "text":
            return Conflict("running text has no system message", ("system",))
        return None

    rules = (_fields_fit_the_kind, _dialogue_keys_are_for_dialogues)


class DataCard(Section):
    """One data set."""

    schema_version: Literal[1]
    """Version of this schema."""
    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        json_schema_extra=form("small letters a to z, digits, `.`, `_`, `-`; at most 63, no spaces"),
    )
    """Short name that reports and model cards use."""
    version: Text
    """Version of the data, in quotes."""
    title: Text
    """What it is, in a line."""
    description: Text | None = None
    """What it is, in a paragraph."""
    files: NotEmpty[DataFile]
    """The files and their figures."""
    languages: NotEmpty[Language]
    """Languages and shares."""
    licence: Licence
    """The licence the data came under."""
    rights: Rights
    """What may be done with it."""
    sources: NotEmpty[Source]
    """Where it came from."""
    personal_data: PersonalData
    """Personal data in it."""
    sensitivity: Literal["public", "internal", "restricted"] = "internal"
    """Who may see the data; restricted: what is trained on it may not be made public."""
    residency: Residency = Residency()
    """Where it may be."""
    synthetic_share: float = Field(default=0.0, ge=0, le=1, json_schema_extra=SHARE)
    """Share of the rows that a model wrote."""
    annotation: Annotation | None = None
    """How it was made; required when a source is of kind own, user or synthetic."""
    quality: Quality = Quality()
    """What was done for quality."""
    limits: tuple[Text, ...] = ()
    """Known gaps and faults, one sentence each."""
    contact: Text
    """A team or mailbox that answers questions; not a person."""
    format: Format | None = None
    """What a row is; without it sovtune goes by the usual column names and says so when there are none."""

    def _all_or_no_splits(self) -> Conflict | None:
        without = [index for index, file in enumerate(self.files) if file.split is None]
        if without and len(without) < len(self.files):
            return Conflict("other files name a split, this one does not", ("files", without[0]))
        return None

    def _files_differ(self) -> Conflict | None:
        seen: set[tuple[str, str | None, str | None]] = set()
        for index, file in enumerate(self.files):
            key = (file.path, file.config, file.split if file.path.startswith(HUB_PREFIX) else None)
            if key in seen:
                return Conflict("this file is named twice", ("files", index, "path"))
            seen.add(key)
        return None

    def _languages_add_up(self) -> Conflict | None:
        total = sum(language.share for language in self.languages)
        if abs(total - 1) > SHARES_TOLERANCE:
            return Conflict(f"the shares add up to {total:g}, not 1", ("languages",))
        if len({language.tag for language in self.languages}) < len(self.languages):
            return Conflict("a language is named twice", ("languages",))
        return None

    def _non_commercial_is_not_commercial(self) -> Conflict | None:
        if self.rights.commercial != "yes" or self.rights.basis != "licence":
            return None
        for key in licence_keys(self.licence.expression):
            terms = terms_of(key)
            if terms is not None and not terms.commercial:
                message = f"{key} forbids commercial use; write no, or name another basis"
                return Conflict(message, ("rights", "commercial"))
        return None

    def _permission_is_a_letter(self) -> Conflict | None:
        if self.rights.basis != "permission" and PERMISSION in licence_keys(self.licence.expression):
            message = f"{PERMISSION} is for data used by letter: rights.basis is {self.rights.basis}"
            return Conflict(message, ("licence", "expression"))
        return None

    def _synthetic_is_declared(self) -> Conflict | None:
        synthetic = any(source.kind == "synthetic" for source in self.sources)
        if synthetic and self.synthetic_share == 0:
            return Conflict("a source is synthetic: say which share of the rows", ("sources",))
        if self.synthetic_share > 0 and not synthetic:
            return Conflict("no source is synthetic: name the generator under sources", ("synthetic_share",))
        return None

    def _says_how_it_was_made(self) -> Conflict | None:
        for index, source in enumerate(self.sources):
            if source.kind in ("own", "user", "synthetic") and self.annotation is None:
                message = f"for kind {source.kind}, `annotation.by` must say how the data was made"
                return Conflict(message, ("sources", index, "kind"))
        return None

    rules = (
        _all_or_no_splits,
        _files_differ,
        _languages_add_up,
        _non_commercial_is_not_commercial,
        _permission_is_a_letter,
        _synthetic_is_declared,
        _says_how_it_was_made,
    )
