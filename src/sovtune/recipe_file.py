"""Load a recipe: the file, the files it extends, ``--set``, and where every value came from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovtune.errors import Problem, RecipeError
from sovtune.explain import check, place_of, unknown_key
from sovtune.recipe import Recipe
from sovtune.schema_walk import sections_at, slots_at
from sovtune.yaml_file import (
    KeyPath,
    Mark,
    Place,
    Value,
    YamlFile,
    dotted,
    parse_value,
    read_yaml,
    shown,
)
from sovtune.yaml_write import yaml_lines

MAX_PARENTS = 5
EXTENDS = "extends"
SET = "--set"
LOCAL_PATHS: tuple[KeyPath, ...] = (
    ("base", "mirrors", "*", "folder"),
    ("distil", "teacher", "mirrors", "*", "folder"),
    ("adapter", "continue_from"),
    ("data", "*", "card"),
    ("evaluate", "texts", "*", "card"),
    ("evaluate", "pairs", "*", "card"),
)
"""Every path in a recipe that is relative to the file it stands in; ``*`` is any item of a list."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``place`` is None for defaults, its line 0 for ``--set``."""

    kind: Literal["recipe", "parent", "--set", "default"]
    place: Place | None = None

    def __str__(self) -> str:
        """``recipe r.yaml:12``, ``parent base.yaml:3``, ``--set``, ``default``."""
        if self.place is None or self.kind == SET:
            return self.kind
        return f"{self.kind} {Path(self.place.file).name}:{self.place.line}"


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe that was read and checked.

    Attributes:
        recipe: frozen and complete; local paths are relative to ``root``.
        path: the recipe file.
        root: absolute folder of the recipe file.
        origins: where every value of ``recipe`` came from, by its path.
    """

    recipe: Recipe
    path: Path
    root: Path
    origins: Mapping[KeyPath, Origin]

    def resolved(self) -> Recipe:
        """The recipe with absolute local paths, for stages that open files."""
        values: dict[str, Value] = self.recipe.model_dump(mode="json")
        for pattern in LOCAL_PATHS:
            for holder, key in _local_paths(values, pattern):
                holder[key] = os.path.normpath(self.root / str(holder[key]))
        return Recipe.model_validate(values)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe with everything it extends, apply ``--set``, and check it.

    Args:
        path: the recipe file.
        overrides: ``a.b=c`` in the order given; values are YAML scalars or flow lists, paths in them are
            relative to the recipe like those in the file.

    Raises:
        RecipeError: with every mistake at once, sorted by file and line.
    """
    merged = _Merged(path)
    for override in overrides:
        merged.set(override)
    if merged.readable:
        _move_paths(merged.values, merged.root, merged.root)  # also those that --set named
    values = merged.values if merged.readable else None
    checked = check(Recipe, values, merged.marks, tuple(merged.problems))
    if isinstance(checked, list):
        raise RecipeError(checked)
    return LoadedRecipe(checked, path, merged.root, merged.origins(checked))


def check_recipe(path: Path, overrides: Sequence[str] = ()) -> list[Problem]:
    """Every mistake in a recipe, or an empty list; a person's mistake never raises."""
    try:
        load_recipe(path, overrides)
    except RecipeError as error:
        return error.problems
    return []


def to_yaml(recipe: Recipe) -> str:
    """A recipe in full as YAML that reads back to the same recipe."""
    return "".join(f"{line}\n" for line, _ in yaml_lines(recipe.model_dump(mode="json")))


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over the canonical JSON of an effective recipe; the order of keys in its file does not matter.

    ``load_recipe`` makes local paths relative to the recipe's folder, so that the hash moves with a project.
    """
    return _canonical_hash(recipe.model_dump(mode="json"))


def _canonical_hash(values: Mapping[str, Value]) -> str:
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def lock_text(loaded: LoadedRecipe, facts: Mapping[str, Value]) -> str:
    """The lock of a run: the effective recipe, its hash, and what it was found to depend on.

    The lock says what a run is made of and is published with it. Where things came from or go to on this
    machine is left out: mirrors, launch, the publish target, and of local paths all but the file name.

    Args:
        loaded: the recipe.
        facts: versions and hashes of base, data, template and tokenizer; plain values only.
    """
    recipe: dict[str, Value] = loaded.recipe.model_dump(
        mode="json",
        exclude={"publish": True, "launch": True, "base": {"mirrors"}, "distil": {"teacher": {"mirrors"}}},
    )
    for pattern in LOCAL_PATHS:
        for holder, key in _local_paths(recipe, pattern):
            holder[key] = Path(str(holder[key])).name
    digest = _canonical_hash(recipe)
    values: dict[str, Value] = {"recipe_sha256": digest, "recipe": recipe, "facts": dict(facts)}
    head = (
        "# Written by sovtune: what this run is made of. Resuming and publishing compare it; do not edit.\n"
    )
    return head + "".join(f"{line}\n" for line, _ in yaml_lines(values))


def explain_origins(loaded: LoadedRecipe) -> list[str]:
    """The effective recipe as YAML lines, each value with its origin as a comment (``check --explain``)."""
    lines = list(yaml_lines(loaded.recipe.model_dump(mode="json")))
    # Long texts do not push the comments of all other lines off the screen.
    column = max((_width(line) for line, _ in lines if _width(line) <= 60), default=0) + 2
    return [
        line if path is None else f"{line}{' ' * max(2, column - _width(line))}# {loaded.origins[path]}"
        for line, path in lines
    ]


def _width(text: str) -> int:
    """Columns in a terminal: Hangul, Han and Kana take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


class _Merged:
    """The values of a recipe laid over those of its parents, with the place of each."""

    def __init__(self, path: Path):
        self.file = shown(path)
        self.values: dict[str, Value] = {}
        self.marks: dict[KeyPath, Mark] = {}
        self.problems: list[Problem] = []
        self.readable = True  # without a parent's values everything it holds would be called missing
        self.root = path.parent
        chain = self._read_chain(path)
        if not self.readable:
            return
        self.root = path.parent.resolve()
        for file, folder in reversed(chain):
            _move_paths(file.values or {}, folder.resolve(), self.root)
            self.marks[()] = file.marks[()]
            self._lay_over(self.values, file.values or {}, (), file.marks)

    def _read_chain(self, path: Path) -> list[tuple[YamlFile, Path]]:
        """The recipe, its parent, the parent's parent ...; each with the folder it stands in."""
        chain: list[tuple[YamlFile, Path]] = []
        seen: set[str] = set()
        here: Path | None = path
        while here is not None:
            file = read_yaml(here)
            if (
                chain and file.problems and file.problems[0].line == 0
            ):  # there is no such file, or it is no file
                self._blame_extends(chain[-1][0], f"{file.file}: {file.problems[0].message}")
                break
            self.problems.extend(file.problems)
            self.readable = self.readable and file.values is not None
            chain.append((file, here.parent))
            seen.add(os.path.realpath(here))
            here = self._parent(file, here.parent, seen)
        return chain

    def _parent(self, file: YamlFile, folder: Path, seen: set[str]) -> Path | None:
        if file.values is None or EXTENDS not in file.values:
            return None
        named = file.values.pop(EXTENDS)
        if not isinstance(named, str) or not named.strip() or "\0" in named:
            self._blame_extends(file, "expected the path of one other recipe, relative to this file")
        elif os.path.realpath(folder / named) in seen:
            self._blame_extends(
                file, f"a circle: {named} is extended by this file, directly or through others"
            )
        elif len(seen) > MAX_PARENTS:
            self._blame_extends(file, f"the chain of `extends` is longer than {MAX_PARENTS} files")
        else:
            return folder / named
        return None

    def _blame_extends(self, child: YamlFile, message: str) -> None:
        self.readable = False
        place = place_of(child.marks, (EXTENDS,))
        self.problems.append(
            Problem(file=child.file, line=place.line, column=place.column, path=EXTENDS, message=message)
        )

    def _lay_over(
        self, target: dict[str, Value], source: dict[str, Value], path: KeyPath, marks: Mapping[KeyPath, Mark]
    ) -> None:
        """Mappings merge key by key; lists and scalars replace, and so does null."""
        for key, value in source.items():
            here = (*path, key)
            old = target.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                self.marks[here] = marks[here]
                self._lay_over(old, value, here, marks)
            else:
                self._mark(here, old, value, {at: marks[at] for at in _paths(value, here)})
                target[key] = value

    def _mark(self, path: KeyPath, old: Value, new: Value, marks: Mapping[KeyPath, Mark]) -> None:
        """Exchange the places of an old value for those of the new one."""
        for at in _paths(old, path):
            self.marks.pop(at, None)
        self.marks.update(marks)

    def set(self, override: str) -> None:
        """Apply one ``--set``; what is wrong with it is noted."""
        name, equals, text = override.partition("=")
        name = name.strip()
        path = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in name.split("."))
        if not equals or not name:
            self._refuse_set(override, "expected KEY=VALUE, for example train.learning_rate=1e-4")
            return
        unknown = _unknown(path)
        if unknown is not None:
            self._refuse_set(name, *unknown)
            return
        value, marks, problems = parse_value(text, SET)
        if problems:
            self._refuse_set(name, problems[0].message)
        elif not text.strip():
            self._refuse_set(name, "no value after `=`; write null to take a value back")
        elif isinstance(value, dict):
            self._refuse_set(name, "a section cannot be set at once; set its keys one by one")
        elif self.readable:
            self._put(path, value, {(*path, *below): mark for below, mark in marks.items()})

    def _put(self, path: KeyPath, value: Value, marks: Mapping[KeyPath, Mark]) -> None:
        holder: Value = self.values
        for length, part in enumerate(path, start=1):
            above, last = dotted(path[: length - 1]), length == len(path)
            if isinstance(holder, list):
                if not isinstance(part, int) or part >= len(holder):
                    self._refuse_set(dotted(path), f"`{above}` has {len(holder)} entries, counted from 0")
                    return
                if last:
                    self._mark(path, holder[part], value, marks)
                    holder[part] = value
                else:
                    holder = holder[part]
            elif isinstance(holder, dict) and isinstance(part, str):
                if last:
                    self._mark(path, holder.get(part), value, marks)
                    holder[part] = value
                elif holder.get(part) is None and isinstance(path[length], str):
                    self.marks[path[:length]] = Mark(Place(SET, 0, 0), Place(SET, 0, 0))
                    below: dict[str, Value] = {}
                    holder[part] = below
                    holder = below
                else:
                    holder = holder.get(part, [])
            else:
                self._refuse_set(dotted(path), f"`{above}` is a single value in this recipe")
                return

    def _refuse_set(self, path: str, message: str, suggestion: str | None = None) -> None:
        self.problems.append(
            Problem(file=SET, line=0, column=0, path=path, message=message, suggestion=suggestion)
        )

    def origins(self, recipe: Recipe) -> dict[KeyPath, Origin]:
        """Where every value of the checked recipe came from."""
        found: dict[KeyPath, Origin] = {}
        for _, path in yaml_lines(recipe.model_dump(mode="json")):
            if path is None:
                continue
            mark = self.marks.get(path)
            if mark is None:
                found[path] = Origin("default")
            elif mark.value.file == SET:
                found[path] = Origin("--set", mark.value)
            else:
                found[path] = Origin("recipe" if mark.value.file == self.file else "parent", mark.value)
        return found


def _unknown(path: KeyPath) -> tuple[str, str | None] | None:
    """What is wrong with a ``--set`` path by the schema alone: message and suggestion, or None."""
    for length in range(1, len(path) + 1):
        if slots_at(Recipe, path[:length]):
            continue
        above, part = path[: length - 1], path[length - 1]
        if sections_at(Recipe, above):
            message, near = unknown_key((*above, str(part)), Recipe)
            return message, near if near is None or "." in near else dotted((*above, near))
        if slots_at(Recipe, (*above, 0)):
            return f"`{dotted(above)}` is a list; `{dotted((*above, 0))}` is its first entry", None
        return f"`{dotted(above)}` is a single value and has no keys", None
    return None


def _paths(value: Value, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value and of everything in it."""
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _paths(below, (*path, index))


def _local_paths(value: Value, pattern: KeyPath) -> Iterator[tuple[dict[str, Value], str]]:
    """Each mapping and key in ``value`` that ``pattern`` leads to and that holds a path."""
    head, *rest = pattern
    if head == "*" and isinstance(value, list):
        for item in value:
            yield from _local_paths(item, tuple(rest))
    elif isinstance(value, dict) and rest:
        yield from _local_paths(value.get(str(head)), tuple(rest))
    elif isinstance(value, dict):
        text = value.get(str(head))
        if isinstance(text, str) and text and not text.startswith("~"):  # the schema refuses both of these
            yield value, str(head)


def _move_paths(values: dict[str, Value], old: Path, new: Path) -> None:
    """Rewrite local paths relative to one folder so that they are relative to another; both are absolute."""
    for pattern in LOCAL_PATHS:
        for holder, key in _local_paths(values, pattern):
            holder[key] = os.path.relpath(os.path.join(old, str(holder[key])), new)
