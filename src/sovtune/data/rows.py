"""One row of a data file into one document, after the card's format; pure."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache

from sovtune.data.card_schema import Fields, Format, Kind
from sovtune.data.document import ROLES, Document, Message, Role

_SURROGATE = re.compile("[\ud800-\udfff]")
_NEXT: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Role of a turn -> roles the next turn may have; None is the beginning."""
_TOOL_KEYS = ("tool_calls", "function_call")
_CHARACTERISTIC: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("preference", frozenset({"chosen", "rejected"})),
    ("chat", frozenset({"messages"})),
    ("instruction", frozenset({"instruction", "output"})),
    ("prompt_completion", frozenset({"prompt", "completion"})),
    ("text", frozenset({"text"})),
)
"""Kind of row -> the keys that tell it, for cards without ``format``; the first that fits counts."""


_READ: dict[Kind, tuple[str, ...]] = {
    "chat": ("messages",),
    "instruction": ("instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("prompt", "messages", "chosen", "rejected"),
    "feedback": ("prompt", "messages", "completion", "label"),
}
"""Kind of row -> the fields of the row itself."""
_OPTIONAL: dict[Kind, tuple[str, ...]] = {
    "instruction": ("input",),
    "preference": ("prompt", "messages"),
    "feedback": ("prompt", "messages", "completion"),
}
"""Those that may be absent, unless the card names their column: that is a promise that it is there."""
_LABELS: dict[object, bool] = {
    **dict.fromkeys((True, 1, "true", "1", "good"), True),
    **dict.fromkeys((False, 0, "false", "0", "bad"), False),
}
"""What a label may say -> whether the answer is good."""


class RowFault(Exception):
    """A row that does not fit; ``reason`` is what it is counted under, the message names the place."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def guess_format(names: Mapping[str, object]) -> Format | None:
    """The format of a row with these keys by their usual names; None when they are not usual.

    Many data sets have a column `label` that is no verdict on an answer: only true or false makes it feedback.
    """
    if isinstance(names.get("label"), bool) and ("completion" in names or "messages" in names):
        return _usual("feedback")
    given = names.keys()
    for kind, keys in _CHARACTERISTIC:
        if given >= keys:
            return _usual(kind)
    return None


@cache
def _usual(kind: Kind) -> Format:
    """A kind with its usual keys; one record for all rows, since making one takes longer than reading a short row."""
    return Format(kind=kind)


def columns(format: Format) -> frozenset[str]:
    """The keys of a row that this format reads."""
    return frozenset(_named(format.fields, key) for key in _READ[format.kind])


def required(format: Format) -> frozenset[str]:
    """Those of ``columns`` that must be there."""
    optional = {key for key in _OPTIONAL.get(format.kind, ()) if getattr(format.fields, key) is None}
    return columns(format) - optional


def _named(fields: Fields, key: str) -> str:
    """What the data calls this field; its own name when the card says nothing."""
    return str(getattr(fields, key) or key)


def to_document(row: object, format: Format, where: str) -> tuple[Document, bool]:
    """A row as a document, and whether normalising to NFC changed its text.

    Args:
        row: a parsed JSON value, or a string for a piece of a text file.
        format: the card's format.
        where: ``file:row`` for the document.

    Raises:
        RowFault: the row does not fit.
    """
    reader = _Reader()
    if isinstance(row, str):
        return Document(where=where, text=reader.text(row, "the text")), reader.changed
    if not isinstance(row, dict):
        raise RowFault("not_object", f"the row is {type_name(row)}, expected an object")
    if format.kind == "text":
        key = _named(format.fields, "text")
        return Document(where=where, text=reader.text(_field(row, key), key)), reader.changed
    rejected = good = None
    if format.kind == "chat":
        turns = _turns(row, format, reader)
    elif format.kind == "preference":
        turns, rejected = _comparison(row, format, reader)
    elif format.kind == "feedback":
        turns, good = _feedback(row, format, reader)
    elif format.kind == "instruction":
        turns = _instruction(row, format.fields, reader)
    else:
        asked, answered = (_named(format.fields, key) for key in ("prompt", "completion"))
        question = reader.text(_field(row, asked), asked)
        turns = _exchange(question, reader.text(_field(row, answered), answered))
    if format.system is not None and turns[0].role != "system":
        turns.insert(0, Message("system", reader.text(format.system, "format.system")))
    return Document(where=where, messages=tuple(turns), rejected=rejected, good=good), reader.changed


class _Reader:
    """Checks and normalises the texts of one row; remembers whether one changed."""

    def __init__(self) -> None:
        self.changed = False

    def text(self, value: object, place: str) -> str:
        """The value as NFC text; refuses null, other types, empty text, U+0000 and lone surrogates."""
        if value is None:
            raise RowFault("null", f"{place} is null, expected text")
        if not isinstance(value, str):
            raise RowFault("wrong_type", f"{place} is {type_name(value)}, expected text")
        if not value.strip():
            raise RowFault("empty", f"{place} is empty")
        if "\0" in value:
            raise RowFault("nul_character", f"{place} has U+0000 at character {value.index(chr(0)) + 1}")
        lone = _SURROGATE.search(value)
        if lone:
            code = f"U+{ord(lone[0]):04X}"
            message = f"{place} has half a surrogate pair ({code}) at character {lone.start() + 1}"
            raise RowFault("lone_surrogate", message)
        if unicodedata.is_normalized("NFC", value):
            return value
        self.changed = True
        return unicodedata.normalize("NFC", value)


def _exchange(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


def _instruction(row: dict[str, object], fields: Fields, reader: _Reader) -> list[Message]:
    task_key, answer_key = _named(fields, "instruction"), _named(fields, "output")
    task = reader.text(_field(row, task_key), task_key)
    material = _field(row, fields.input) if fields.input else row.get("input")
    if material not in (None, ""):
        task = f"{task}\n\n{reader.text(material, fields.input or 'input')}"
    return _exchange(task, reader.text(_field(row, answer_key), answer_key))


def _turns(row: dict[str, object], format: Format, reader: _Reader) -> list[Message]:
    name = _named(format.fields, "messages")
    messages = _dialogue(_field(row, name), name, format, reader)
    if all(message.role != "assistant" for message in messages):
        raise RowFault("no_answer", f"{name} has no assistant turn, there is nothing to learn")
    return messages


def _comparison(row: dict[str, object], format: Format, reader: _Reader) -> tuple[list[Message], str]:
    """The dialogue up to and with the chosen answer, and the rejected answer."""
    names = [_named(format.fields, key) for key in ("chosen", "rejected")]
    chosen, rejected = (_answer(_field(row, name), name, format, reader) for name in names)
    if chosen[-1].content.strip() == rejected[-1].content.strip():
        message = f"{names[0]} and {names[1]} are the same answer, there is nothing to learn"
        raise RowFault("same_answers", message)
    if len(chosen) == len(rejected) == 1:
        return [*_prompt(row, format, reader), *chosen], rejected[0].content
    if chosen[:-1] != rejected[:-1]:
        message = f"{names[0]} and {names[1]} differ before their last turn; they must answer the same prompt"
        raise RowFault("prompts_differ", message)
    return chosen, rejected[-1].content


def _feedback(row: dict[str, object], format: Format, reader: _Reader) -> tuple[list[Message], bool]:
    """The dialogue up to and with the answer, and whether that is good."""
    name, whole = (_named(format.fields, key) for key in ("completion", "messages"))
    if name not in row and format.fields.completion is None and whole in row:
        turns = _answer(_field(row, whole), whole, format, reader)
    else:
        turns = _answer(_field(row, name), name, format, reader)
    if len(turns) == 1:
        turns = [*_prompt(row, format, reader), *turns]
    label_name = _named(format.fields, "label")
    label = _field(row, label_name)
    known = label.strip().lower() if isinstance(label, str) else label
    if isinstance(known, dict | list) or known not in _LABELS:
        shown = json.dumps(label, ensure_ascii=True, default=str)[:60]
        message = f"{label_name} is {shown}, expected true or false, 1 or 0, good or bad"
        raise RowFault("null" if label is None else "bad_label", message)
    return turns, _LABELS[known]


def _answer(value: object, name: str, format: Format, reader: _Reader) -> list[Message]:
    """A judged answer as one assistant turn, or as the last turn of its whole dialogue."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return [Message("assistant", reader.text(value, name))]
    first = _turn(value[0], f"{name}[0]", format, reader) if value else None
    if first is None or first.role != "assistant":
        turns = _dialogue(value, name, format, reader)
        if turns[-1].role != "assistant":
            raise RowFault("no_answer", f"{name} ends with a turn of {turns[-1].role}, expected an answer")
        return turns
    if len(value) > 1:
        message = f"{name} has {len(value)} turns after the prompt; an answer that is judged is one turn"
        raise RowFault("answer_turns", message)
    return [first]


def _prompt(row: dict[str, object], format: Format, reader: _Reader) -> list[Message]:
    """What was answered: text, or turns that end with the user's or a tool's."""
    named = [key for key in ("prompt", "messages") if getattr(format.fields, key)]
    keys = named or [key for key in ("prompt", "messages") if row.get(key) is not None] or ["prompt"]
    name = _named(format.fields, keys[0])
    value = _field(row, name)
    if not isinstance(value, list):
        return [Message("user", reader.text(value, name))]
    turns = _dialogue(value, name, format, reader)
    if turns[-1].role not in ("user", "tool"):
        raise RowFault("role_order", f"{name} ends with a turn of {turns[-1].role}, expected user or tool")
    return turns


def _dialogue(turns: object, name: str, format: Format, reader: _Reader) -> list[Message]:
    """A list of turns whose roles follow each other as they may."""
    if turns is None:
        raise RowFault("null", f"{name} is null, expected a list of turns")
    if not isinstance(turns, list):
        raise RowFault("wrong_type", f"{name} is {type_name(turns)}, expected a list of turns")
    if not turns:
        raise RowFault("empty", f"{name} is empty")
    messages: list[Message] = []
    before: Role | None = None
    for index, turn in enumerate(turns):
        place = f"{name}[{index}]"
        message = _turn(turn, place, format, reader)
        if message.role not in _NEXT[before]:
            follows = f"follows {before}" if before else "comes first"
            wanted = " or ".join(_NEXT[before])
            raise RowFault("role_order", f'{place}.role = "{message.role}" {follows}, expected {wanted}')
        messages.append(message)
        before = message.role
    return messages


def _turn(turn: object, place: str, format: Format, reader: _Reader) -> Message:
    if not isinstance(turn, dict):
        raise RowFault("wrong_type", f"{place} is {type_name(turn)}; a turn is an object")
    for key in _TOOL_KEYS:
        if turn.get(key):
            raise RowFault("tool_call", f"{place}.{key} is set; write tool calls out in the content")
    share_gpt = "role" not in turn and "from" in turn
    role_key = format.fields.role or ("from" if share_gpt else "role")
    content_key = format.fields.content or ("value" if share_gpt else "content")
    named = _field(turn, role_key, place)
    role = format.role_map.get(named, named) if isinstance(named, str) else named
    if role not in ROLES:
        shown = json.dumps(named, ensure_ascii=True)[:60]
        message = f"{place}.{role_key} = {shown}, expected system, user, assistant or tool; add role_map:"
        raise RowFault("bad_role", message)
    text = reader.text(_field(turn, content_key, place), f"{place}.{content_key}")
    return Message(role, text)


def _field(row: dict[str, object], key: str, place: str = "") -> object:
    if key in row:
        return row[key]
    names = ", ".join(sorted(str(name) for name in row)[:12]) or "nothing"
    near = difflib.get_close_matches(key, [str(name) for name in row], n=1)
    hint = f"`{near[0]}`? Name it" if near else "name the right one"
    where = f"{place} has no" if place else "no"
    raise RowFault("missing_field", f'{where} field "{key}" (there is: {names}); {hint} under format.fields')


def type_name(value: object) -> str:
    """What a parsed JSON value is, in words."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
