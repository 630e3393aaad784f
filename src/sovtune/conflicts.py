"""Look for broken rules in a file some of whose values are wrong, so that no mistake hides behind another."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pydantic import BaseModel

from sovtune.schema_walk import branches, items
from sovtune.section import Conflict, Section
from sovtune.yaml_file import KeyPath, Value


def conflicts(
    annotation: object, value: Value, wrong: set[KeyPath], path: KeyPath = ()
) -> Iterator[tuple[KeyPath, Conflict]]:
    """Every broken rule of a section and of the sections below it, as far as their values can be used.

    Args:
        annotation: what the schema declares here: a section, or a list or mapping of them.
        value: what the file says here.
        wrong: paths whose value is wrong or unknown; a rule that needs one of them is not tried.
        path: where this is in the file.
    """
    if path in wrong:
        return
    section = _section(annotation)
    if isinstance(value, list):
        for index, item in enumerate(value):
            for below in items(annotation):
                yield from conflicts(below, item, wrong, (*path, index))
    elif isinstance(value, dict) and section is None:
        for key, item in value.items():
            for below in items(annotation):
                yield from conflicts(below, item, wrong, (*path, key))
    elif isinstance(value, dict) and section is not None:
        for rule in section.rules if issubclass(section, Section) else ():
            try:
                conflict = rule(_Partial(section, value, wrong, path))
            except _Unusable:
                continue
            if conflict is not None:
                yield path, conflict
        for name, field in section.model_fields.items():
            if name in value:
                yield from conflicts(field.annotation, value[name], wrong, (*path, name))


def _section(annotation: object) -> type[BaseModel] | None:
    for branch in branches(annotation):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return branch
    return None


class _Unusable(Exception):
    """A rule asked for a value that is itself wrong."""


class _Partial:
    """Stands for a section some of whose values are wrong; asking for one of those ends the rule."""

    def __init__(self, kind: type[BaseModel], values: dict[str, Value], wrong: set[KeyPath], path: KeyPath):
        self._kind = kind
        self._values = values
        self._wrong = wrong
        self._path = path

    @property
    def model_fields_set(self) -> set[str]:
        """The keys the file names, as on a whole section."""
        return set(self._values) & set(self._kind.model_fields)

    def __getattr__(self, name: str) -> object:
        field = self._kind.model_fields.get(name)
        if field is None:  # a method or property of the section, to be run on this stand-in
            return inspect.getattr_static(self._kind, name).__get__(self, self._kind)
        path = (*self._path, name)
        if path in self._wrong or (field.is_required() and name not in self._values):
            raise _Unusable
        if name not in self._values:
            return field.get_default(call_default_factory=True)
        return self._stand_in(self._values[name], path, field.annotation)

    def _stand_in(self, value: Value, path: KeyPath, annotation: object) -> object:
        if path in self._wrong:
            raise _Unusable
        if isinstance(value, list):
            item = next(items(annotation), None)
            return tuple(self._stand_in(entry, (*path, index), item) for index, entry in enumerate(value))
        if isinstance(value, dict):
            section = _section(annotation)
            if section is not None:
                return _Partial(section, value, self._wrong, path)
            item = next(items(annotation), None)
            return {key: self._stand_in(entry, (*path, key), item) for key, entry in value.items()}
        return value
