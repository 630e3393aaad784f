"""Ask a pydantic schema what belongs at a path: sections, choices, types in words, units."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sovtune.yaml_file import KeyPath

_WORDS = {int: "a plain whole number", float: "a plain number", str: "text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Hints:
    """What a value may be: ``words`` names it, ``unit`` explains a number, ``form`` a pattern."""

    types: frozenset[type]
    choices: tuple[str | int | bool, ...]
    is_list: bool
    words: str
    unit: str
    form: str


def branches(annotation: object) -> Iterator[object]:
    """The alternatives of an annotation; unions are opened, ``Annotated`` is stripped, None is left out."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from branches(argument)
    elif origin is Annotated:
        yield from branches(get_args(annotation)[0])
    elif annotation is not type(None):
        yield annotation


def items(annotation: object) -> Iterator[object]:
    """The annotations of what lists and mappings hold."""
    for branch in branches(annotation):
        origin, arguments = get_origin(branch), get_args(branch)
        if origin is dict:
            yield arguments[1]
        elif origin in (tuple, list):
            yield arguments[0]


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """The sections an annotation names, itself or as what its lists and mappings hold."""
    found = [b for b in branches(annotation) if isinstance(b, type) and issubclass(b, BaseModel)]
    for item in items(annotation):
        found.extend(sections_in(item))
    return found


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of the schema: what may stand there, and the field when the place has a name."""

    annotation: object
    field: FieldInfo | None = None


def slots_at(root: type[BaseModel], path: KeyPath) -> list[Slot]:
    """What the schema declares at a path; several when unions lead there, none when the path is unknown."""
    found = [Slot(root)]
    for part in path:
        below: list[Slot] = []
        for slot in found:
            for branch in branches(slot.annotation):
                if isinstance(branch, type) and issubclass(branch, BaseModel):
                    field = branch.model_fields.get(str(part))
                    if field is not None:
                        below.append(Slot(field.annotation, field))
            if isinstance(part, int) or any(get_origin(b) is dict for b in branches(slot.annotation)):
                below.extend(Slot(item) for item in items(slot.annotation))
        found = below
    return found


def sections_at(root: type[BaseModel], path: KeyPath) -> list[type[BaseModel]]:
    """The sections that may stand at a path."""
    return [
        branch
        for slot in slots_at(root, path)
        for branch in branches(slot.annotation)
        if isinstance(branch, type) and issubclass(branch, BaseModel)
    ]


def homes_of(root: type[BaseModel], name: str, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path that ends in a key of this name; in lists the path goes through the first item."""
    if name in root.model_fields:
        yield (*path, name)
    for key, field in root.model_fields.items():
        for section in sections_at(root, (key,)):
            yield from homes_of(section, name, (*path, key))
        for item in items(field.annotation):
            for section in sections_in(item):
                yield from homes_of(section, name, (*path, key, 0))


def hints_at(root: type[BaseModel], path: KeyPath) -> Hints:
    """What may stand at a path, for messages."""
    slots = slots_at(root, path)
    choices = [branch for slot in slots for branch in branches(slot.annotation)]
    extras: dict[str, str] = {}
    for slot in slots:
        extras.update(notes(slot.annotation, slot.field))
    unit = extras.get("unit", "")
    return Hints(
        types=frozenset(branch for branch in choices if branch in _WORDS and isinstance(branch, type)),
        choices=tuple(
            choice for branch in choices if get_origin(branch) is Literal for choice in get_args(branch)
        ),
        is_list=any(get_origin(branch) in (tuple, list) for branch in choices),
        words=" or ".join(_words(branch, unit) for branch in choices) or "nothing",
        unit=unit,
        form=extras.get("form", ""),
    )


def notes(annotation: object, field: FieldInfo | None = None) -> dict[str, str]:
    """The ``unit`` and ``form`` that a field or the ``Annotated`` types in its annotation carry."""
    found: dict[str, str] = {}
    if get_origin(annotation) is Annotated:
        for note in get_args(annotation)[1:]:
            if isinstance(note, FieldInfo):
                found.update(notes(None, note))
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for argument in get_args(annotation):
            found.update(notes(argument))
    if field is not None and isinstance(field.json_schema_extra, dict):
        found.update({key: str(words) for key, words in field.json_schema_extra.items()})
    return found


def purpose(root: type[BaseModel], path: KeyPath) -> str:
    """The first clause of a field's documentation."""
    for section in sections_at(root, path[:-1]):
        text = descriptions(section).get(str(path[-1]), "")
        if text:
            return re.split(r"[;:.](?:\s|$)", text)[0]
    return ""


@cache
def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a section; empty when the source is not at hand."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    except OSError:
        return {}
    found: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
        ):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def _words(branch: object, unit: str) -> str:
    origin = get_origin(branch)
    if origin is Literal:
        names = [f"`{choice}`" for choice in get_args(branch)]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if origin in (tuple, list):
        inner = " or ".join(_words(b, "") for item in items(branch) for b in branches(item))
        return f"a list (each entry: {inner})"
    if origin is dict:
        return "a mapping"
    if isinstance(branch, type) and issubclass(branch, BaseModel):
        return f"a section with keys such as {', '.join(list(branch.model_fields)[:4])}"
    words = _WORDS.get(branch, "a value") if isinstance(branch, type) else "a value"
    if not unit or branch not in (int, float):
        return words
    return f"{words} ({unit})" if "," in unit else f"{words} of {unit}"
