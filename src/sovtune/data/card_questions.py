"""Questions that a drafted data card leaves to people: values that begin with TODO."""

from __future__ import annotations

from collections.abc import Iterator

from sovtune.errors import Problem
from sovtune.explain import place_of
from sovtune.yaml_file import KeyPath, Value, YamlFile, dotted

MARK = "TODO"
"""What an open question begins with, anywhere in a card; such a card may not be used."""


def question(text: str) -> str:
    """A value that stands for an answer that only a person can give."""
    return f"{MARK}: {text}"


def open_questions(file: YamlFile) -> tuple[Problem, ...]:
    """Every question of a card that nobody has answered yet, in the order of the card."""
    problems = []
    for path, text in _marked(file.values or {}, ()):
        place = place_of(file.marks, path)
        asked = text.removeprefix(MARK).lstrip(": ") or "this is not filled in"
        problems.append(
            Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path=dotted(path),
                message=f"to be answered by a person: {asked}",
            )
        )
    return tuple(problems)


def _marked(value: Value, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str) and value.startswith(MARK):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _marked(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _marked(item, (*path, index))
