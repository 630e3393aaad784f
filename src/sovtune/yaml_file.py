"""Read a YAML file that a person wrote into plain values and the place of each.

The subset is deliberate: one mapping of scalars, lists and mappings with YAML 1.2 core scalars (``1e-4`` is a
number, ``no`` is text). Anchors, tags, merge keys, duplicate keys and several documents are refused.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import yaml

from sovtune.errors import Problem

Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]
KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000  # about half a second; a recipe has some hundred, a card of a thousand files some thousand
MAX_DIGITS = 300  # longer runs of digits stay text: no field needs them and int() of thousands is refused

# YAML 1.2.2, chapter 10.3.2 "Tag resolution" of the core schema.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})

_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "a `:` that does not fit: no `:` on the line above, wrong indentation, or a value without quotes",
    ),
    ("could not find expected ':'", "a line without `:`; a key and its value are written `key: value`"),
    ("expected <block end>", "this line does not fit those around it: look at its indentation"),
    ("expected '<document start>'", "text after the end of the document"),
    ("expected ',' or ']'", "a list that begins with `[` lacks a `,` or its `]`"),
    ("expected ',' or '}'", "a mapping that begins with `{` lacks a `,` or its `}`"),
    ("found unexpected end of stream", "a quoted text that begins here is never closed"),
    (
        "found unknown escape character",
        "an unknown `\\` escape in double quotes; single quotes keep `\\` as it is",
    ),
    ("found unexpected document separator", "a quoted text is still open at `---`"),
    ("sequence entries are not allowed here", "a `- ` where no list can begin: put it on a line of its own"),
    ("expected the node content", "a value is missing, or a bracket is not closed"),
    ("found undefined tag handle", "a tag (`!...`); recipes and cards hold plain values only"),
    ("expected chomping or indentation indicators", "only `|`, `>`, `|-` or `>-` may open a text block"),
)
_LATE = ("end of stream", "expected ',' or", "could not find expected ':'")
_NO_START = re.compile(r"found character '(.+)' that cannot start any token")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; line and column start at 1, 0 means the file as a whole."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key and its value stand (for a list item both are the item), and a scalar as written."""

    key: Place
    value: Place
    text: str = ""


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file as read: values, their places by path (the root is ``()``), and what is wrong with it as YAML.

    ``values`` is None when nothing can be made of the file. With ``problems`` the values are good only for
    finding further problems.
    """

    file: str
    values: dict[str, Value] | None
    marks: dict[KeyPath, Mark]
    problems: tuple[Problem, ...]


def read_yaml(path: Path) -> YamlFile:
    """Read one YAML file; never raises for what a person may have written or for a path that cannot be read.

    Args:
        path: the file. More than ``MAX_BYTES`` are refused before parsing.
    """
    name = shown(path)
    read = _read_bytes(path, name)
    if isinstance(read, Problem):
        return YamlFile(name, None, {}, (read,))
    text = _decode(read, name)
    if isinstance(text, Problem):
        return YamlFile(name, None, {}, (text,))
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> YamlFile:
    """Read YAML text whose top is a mapping; ``name`` stands as the file in every place and problem."""
    reader = _Reader(text, name)
    node = reader.document()
    if node is None:
        if not reader.problems:
            reader.note(1, 1, "the file is empty" if not text.strip() else "the file holds no keys")
        return YamlFile(name, None, {}, tuple(reader.problems))
    values = reader.value(node, ())
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else "a single value"
        reader.note(node.start_mark.line + 1, 1, f"expected `key: value` lines at the top, found {what}")
        return YamlFile(name, None, reader.marks, tuple(reader.problems))
    return YamlFile(name, values, reader.marks, tuple(reader.problems))


def parse_value(text: str, name: str) -> tuple[Value, dict[KeyPath, Mark], tuple[Problem, ...]]:
    """Read one YAML value (for ``--set``): a scalar, or a list or mapping in flow form."""
    reader = _Reader(text, name, located=False)
    node = reader.document()
    value = reader.value(node, ()) if node is not None else None
    return value, reader.marks, tuple(reader.problems)


def shown(path: Path) -> str:
    """A path as text that can always be printed, also when its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read_bytes(path: Path, name: str) -> bytes | Problem:
    def problem(message: str, suggestion: str | None = None) -> Problem:
        return Problem(file=name, line=0, column=0, path="", message=message, suggestion=suggestion)

    if "\0" in name:
        return problem("a path cannot hold a NUL character")
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            return problem("this is a folder, not a file")
        if not stat.S_ISREG(kind):
            return problem("this is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return problem("there is no such file", _near_file(path))
    except PermissionError:
        return problem("no permission to read this file")
    except OSError as error:
        return problem(f"cannot read this file: {error.strerror or error}")
    if len(data) > MAX_BYTES:
        return problem(
            f"larger than {MAX_BYTES // 1_000_000} MB; recipes and cards are short, is this a data file?"
        )
    return data


def _near_file(path: Path) -> str | None:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return shown(path.parent / near[0]) if near else None


def _decode(data: bytes, name: str) -> str | Problem:
    def problem(at: int, message: str) -> Problem:
        line, column = _line_and_column(data[:at].decode("utf-8", "replace"))
        return Problem(file=name, line=line, column=column, path="", message=message)

    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return problem(0, "the file is UTF-16; save it as UTF-8")
    if data.startswith(b"\xef\xbb\xbf"):
        return problem(0, "the file begins with a byte order mark; save it as UTF-8 without BOM")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return problem(error.start, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8")


class _TooMuch(Exception):
    def __init__(self, mark: yaml.Mark, message: str):
        super().__init__(message)
        self.mark = mark


class _Composer(yaml.SafeLoader):
    """PyYAML's composer; what is refused is noted at its place instead of obeyed. It constructs nothing."""

    def __init__(self, text: str):
        super().__init__(text)
        self.notes: list[tuple[yaml.Mark, str]] = []
        self._depth = self._nodes = 0

    def document(self) -> yaml.Node | None:
        """The first document; None when there is nothing in it."""
        if not self.check_node():  # also steps over the start of the stream
            return None
        start = self._peek()
        if isinstance(start, yaml.DocumentStartEvent) and (start.version or start.tags):
            self._note(start, "a `%` directive; recipes and cards need none")
        node: yaml.Node | None = self.get_node()
        if self.check_node():
            self._note(self._peek(), "a second document (`---`); one file holds one")
        if isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None:
            return None
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; aliases, anchors and tags are noted and left out."""
        event = self._peek()
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self._note(event, f"alias `*{event.anchor}`: write the value out (or use `extends:`)")
            return yaml.ScalarNode("", "", _start(event), _start(event))
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._note(event, f"anchor `&{event.anchor}`: write the value out where it is needed")
            event.anchor = None
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._note(event, f"tag `{tag}`: recipes and cards hold plain values only")
            event.tag = None
        if self._depth >= MAX_DEPTH:
            raise _TooMuch(_start(event), f"more than {MAX_DEPTH} levels of nesting")
        if self._nodes >= MAX_NODES:
            raise _TooMuch(_start(event), f"more than {MAX_NODES} keys and values; is this a data file?")
        self._depth += 1
        self._nodes += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _peek(self) -> yaml.Event:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        return event

    def _note(self, event: yaml.Event, message: str) -> None:
        self.notes.append((_start(event), message))


def _start(event: yaml.Event) -> yaml.Mark:
    mark = event.start_mark
    if not isinstance(mark, yaml.Mark):
        raise TypeError("PyYAML's Python parser gives every event a mark")
    return mark


class _Reader:
    """Turns composed nodes into values and places, and everything refused into problems."""

    def __init__(self, text: str, name: str, *, located: bool = True):
        self.marks: dict[KeyPath, Mark] = {}
        self.problems: list[Problem] = []
        self._text = text
        self._name = name
        self._located = located  # a value from the command line has no line

    def note(self, line: int, column: int, message: str, path: KeyPath = ()) -> None:
        """Remember one problem; line and column start at 1."""
        if not self._located:
            line = column = 0
        self.problems.append(
            Problem(file=self._name, line=line, column=column, path=dotted(path), message=message)
        )

    def document(self) -> yaml.Node | None:
        """The one document, or None when the text is empty or is not YAML (then a problem is noted)."""
        bad = _BAD_CHARACTER.search(self._text)
        if bad is not None:
            line, column = _line_and_column(self._text[: bad.start()])
            code = ord(bad.group())
            self.note(line, column, f"the invisible character U+{code:04X} cannot stand in YAML; remove it")
            return None
        composer = _Composer(self._text)
        node = None
        try:
            node = composer.document()
        except yaml.MarkedYAMLError as error:
            self._note_error(error)
        except _TooMuch as error:
            self._note_at(error.mark, str(error))
        except (ValueError, OverflowError):
            # PyYAML turns "\\UFFFFFFFF" into a character without checking that there is one.
            self.note(composer.line + 1, composer.column + 1, "an escape in double quotes names no character")
        for mark, message in composer.notes:
            self._note_at(mark, message)
        return node

    def value(self, node: yaml.Node, path: KeyPath) -> Value:
        """A node as plain values; every place goes to ``marks``."""
        if path not in self.marks:  # the value of a key has its mark already
            place = self._place(node.start_mark)
            self.marks[path] = Mark(place, place, _written(node))
        if isinstance(node, yaml.ScalarNode):
            if any("\ud800" <= char <= "\udfff" for char in node.value):
                self._note_at(node.start_mark, "half of a surrogate pair; write the character itself", path)
                return ""
            return core_scalar(node.value) if node.style is None else str(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            mark, key = key_node.start_mark, key_node.value
            here = (*path, key) if isinstance(key, str) else path
            if not isinstance(key, str) or key == "":
                self._note_at(mark, "a key must be a word", path)
            elif key == "<<" and key_node.style is None:
                self._note_at(mark, "merge key `<<`: write the keys out (or use `extends:`)", path)
            elif here in self.marks:
                first = self.marks[here].key.line
                self._note_at(mark, f"this key stands twice (first on line {first})", here)
            else:
                self.marks[here] = Mark(
                    self._place(mark), self._place(value_node.start_mark), _written(value_node)
                )
                values[key] = self.value(value_node, here)
        return values

    def _place(self, mark: yaml.Mark) -> Place:
        return Place(self._name, mark.line + 1, mark.column + 1) if self._located else Place(self._name, 0, 0)

    def _note_at(self, mark: yaml.Mark, message: str, path: KeyPath = ()) -> None:
        self.note(mark.line + 1, mark.column + 1, message, path)

    def _note_error(self, error: yaml.MarkedYAMLError) -> None:
        problem = error.problem or error.context or str(error)
        mark = error.problem_mark or error.context_mark
        if error.context_mark is not None and any(words in problem for words in _LATE):
            mark = error.context_mark  # where it began helps, where the reader gave up does not
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        self.note(line, column, _plain_words(problem))


def _written(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


_BAD_CHARACTER = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]|\r(?!\n)"
)


def _plain_words(problem: str) -> str:
    start = _NO_START.search(problem)
    if start is not None:
        if start.group(1) in ("\t", "\\t"):
            return "a tab where spaces belong; YAML is indented with spaces"
        return f"a value cannot begin with `{start.group(1)}`; put it in quotes"
    for jargon, words in _PLAIN_WORDS:
        if jargon in problem:
            return words
    return f"this is not YAML: {problem}"


def core_scalar(text: str) -> Scalar:
    """An unquoted scalar by the YAML 1.2 core schema: ``no``, ``12:30`` and ``1_000`` are text."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) <= MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
    infinite = _INF.fullmatch(text)
    if infinite:
        return -math.inf if infinite.group(1) == "-" else math.inf
    return math.nan if text in _NAN else text


def dotted(path: KeyPath) -> str:
    """A path as people write it for ``--set``: ``data.0.share``."""
    return ".".join(str(part) for part in path)
