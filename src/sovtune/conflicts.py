"""Look for broken rules in a file some of whose values are wrong, so that no mistake hides behind another."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from sovtune.schema_walk import sections_in
from sovtune.section import Conflict, Section
from sovtune.yaml_file import KeyPath, Value


class _Unusable(Exception):
    """A rule asked for a value that is itself wrong."""


class _Partial:
    """Stands for a section some of whose values are wrong; asking for one of those ends the rule."""

    def __init__(self, kind: type[BaseModel], values: dict[str, Value], wrong: set[KeyPath], path: KeyPath):
        self._kind = kind
        self._values = values
        self._wrong = wrong
        self._path = path

    def __getattr__(self, name: str) -> object:
        path = (*self._path, name)
        field = self._kind.model_fields[name]
        if path in self._wrong or (field.is_required() and name not in self._values):
            raise _Unusable
        if name not in self._values:
            return field.get_default()
        return self._wrap(self._values[name], path, sections_in(field.annotation))

    def _wrap(self, value: Value, path: KeyPath, kinds: list[type[BaseModel]]) -> object:
        if path in self._wrong:
            raise _Unusable
        if isinstance(value, list):
            return tuple(self._wrap(item, (*path, index), kinds) for index, item in enumerate(value))
        if isinstance(value, dict) and kinds:
            return _Partial(kinds[0], value, self._wrong, path)
        return value


def conflicts(
    kind: type[BaseModel], values: dict[str, Value], wrong: set[KeyPath], path: KeyPath = ()
) -> Iterator[tuple[KeyPath, Conflict]]:
    """Every broken rule of a section and the sections below it, as far as their values can be used."""
    for rule in kind.rules if issubclass(kind, Section) else ():
        try:
            conflict = rule(_Partial(kind, values, wrong, path))
        except _Unusable:
            continue
        if conflict is not None:
            yield path, conflict
    for name, field in kind.model_fields.items():
        below = values.get(name)
        items = enumerate(below) if isinstance(below, list) else [(None, below)]
        for index, item in items:
            here = (*path, name) if index is None else (*path, name, index)
            for section in sections_in(field.annotation)[:1]:
                if isinstance(item, dict) and here not in wrong:
                    yield from conflicts(section, item, wrong, here)
