"""Turn pydantic's findings into problems with file, line, plain words and the nearest right key or value."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sovtune import schema_walk as walk
from sovtune.conflicts import conflicts
from sovtune.errors import FileProblems, Problem
from sovtune.section import Conflict
from sovtune.yaml_file import KeyPath, Mark, Place, Value, YamlFile, dotted, read_yaml

MAX_ERRORS = 200  # a recipe has about 90 keys; a data file taken for one has a hundred thousand
M = TypeVar("M", bound=BaseModel)
Marks = Mapping[KeyPath, Mark]

# What other tools call these things; their users' fingers know these words.
OTHER_NAMES = {
    "lr": "learning_rate",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "lora_target_modules": "targets",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_steps": "steps",
    "max_seq_length": "max_length",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "lr_scheduler": "schedule",
    "max_grad_norm": "clip",
    "per_device_train_batch_size": "micro_rows",
    "micro_batch_size": "micro_rows",
    "save_steps": "checkpoint_steps",
    "save_total_limit": "keep_checkpoints",
    "model_name_or_path": "model",
    "base_model": "model",
    "datasets": "data",
    "quantization": "quantisation",
    "license": "licence",
}
_YES = frozenset({"yes", "y", "on", "true", "1"})
_NO = frozenset({"no", "n", "off", "false", "0"})
_WITH_UNIT = re.compile(r"\s*([-+]?[0-9][0-9_,]*(?:\.[0-9]+)?)\s*([^\W\d_]+|%)?\s*")
_THOUSANDS = {"k": 1e3, "m": 1e6, "b": 1e9}


def read_model(path: Path, kind: type[M], error: type[FileProblems]) -> tuple[M, YamlFile]:
    """Read a YAML file and check it as ``kind``; every mistake is reported at once.

    Raises:
        FileProblems: of the class ``error``, with all mistakes sorted by line.
    """
    file = read_yaml(path)
    checked = check(kind, file.values, file.marks, file.problems)
    if isinstance(checked, list):
        raise error(checked)
    return checked, file


def check(
    kind: type[M], values: dict[str, Value] | None, marks: Marks, found: tuple[Problem, ...] = ()
) -> M | list[Problem]:
    """Check plain values as ``kind``: the model, or every problem, sorted by line.

    Args:
        kind: the pydantic model.
        values: as ``read_yaml`` gives them; None when the file gave nothing.
        marks: the place of every value.
        found: problems known before. A line that is among them is not complained about again.
    """
    if values is None:
        return sort_problems(list(found), marks)
    known = {(problem.file, problem.line) for problem in found if problem.line}
    spoilt = frozenset(path for path, mark in marks.items() if (mark.value.file, mark.value.line) in known)
    try:
        # Strict and as JSON: no number out of text or text out of a number, but lists for tuples.
        model = kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = problems_of(error, kind, values, marks, spoilt)
    else:
        if not found:
            return model
        problems = []
    fresh = [problem for problem in problems if (problem.file, problem.line) not in known]
    return sort_problems([*found, *fresh], marks)


def problems_of(
    error: ValidationError,
    kind: type[BaseModel],
    values: dict[str, Value],
    marks: Marks,
    unusable: frozenset[KeyPath] = frozenset(),
) -> list[Problem]:
    """Every mistake behind a ``ValidationError``, sorted by line, in plain words.

    Conflicts between values are looked for again without pydantic, which gives up on the rules of a section
    as soon as one of its values is wrong.

    Args:
        error: what validating ``values`` as ``kind`` raised.
        kind: the pydantic model.
        values: what was validated.
        marks: the place of every value.
        unusable: paths whose value is known to be wrong already.
    """
    errors = error.errors(include_url=False)
    explained = _Explanation(kind, values, marks)
    explained.wrong.update(unusable)
    explained.add_all(errors[:MAX_ERRORS])
    if len(errors) <= MAX_ERRORS:  # a rule may only meet values that are known to be right
        explained.add_conflicts(errors)
    else:
        explained.add((), f"{len(errors) - MAX_ERRORS} more mistakes; is this the right file?")
    return sort_problems(explained.problems, marks)


def sort_problems(problems: list[Problem], marks: Marks) -> list[Problem]:
    """By line; the main file first, then the files it extends, then the command line."""
    top = marks[()].key.file if () in marks else ""

    def place(problem: Problem) -> tuple[bool, bool, str, int, int]:
        away = problem.file != top
        return (problem.file == "--set", away, problem.file, problem.line, problem.column)

    return sorted(problems, key=place)


def unknown_key(path: KeyPath, root: type[BaseModel]) -> tuple[str, str | None]:
    """Message and suggestion for a key that its section does not have.

    Args:
        path: the path of the unknown key; everything above it exists in the schema.
        root: the model of the whole file.
    """
    key = str(path[-1])
    sections = walk.sections_at(root, path[:-1])
    here = [name for section in sections for name in section.model_fields]
    wanted = OTHER_NAMES.get(key, key)
    if wanted in here:
        return "unknown key", wanted
    elsewhere = sorted(
        (spot for spot in walk.homes_of(root, wanted) if spot[:-1] != path[:-1]),
        key=lambda spot: spot[: len(path) - 1] != path[:-1],  # a section below this one is the likelier home
    )
    if elsewhere:
        homes = " or ".join(f"`{dotted(spot[:-1]) or 'the top'}`" for spot in elsewhere[:2])
        return f"unknown key here; it belongs under {homes}", dotted(elsewhere[0])
    near = nearest(key, here)
    if near is not None:
        return "unknown key", near
    return f"unknown key; the keys here are {', '.join(here)}", None


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice a person most likely meant, or None. Case and ``-`` for ``_`` are no difference."""
    plain = {choice.casefold(): choice for choice in choices}
    asked = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).casefold().replace("-", "_")
    # Two letters exchanged in a word of two or three give a ratio of 0.5 to 0.67.
    near = difflib.get_close_matches(asked, plain, n=1, cutoff=0.5 if len(word) <= 3 else 0.6)
    return plain[near[0]] if near else None


class _Explanation:
    """Collects the problems of one file."""

    def __init__(self, root: type[BaseModel], values: dict[str, Value], marks: Marks):
        self.root = root
        self.values = values
        self.marks = marks
        self.problems: list[Problem] = []
        self.wrong: set[KeyPath] = set()  # paths whose value cannot be used to look for conflicts

    def add_all(self, errors: list[ErrorDetails]) -> None:
        """Add a problem for each mistake."""
        cleaned = [(*self._clean(error), error) for error in errors if error["type"] != "conflict"]
        for path, _, error in cleaned:
            if error["type"] == "extra_forbidden":
                self._add_unknown(path)
        done: set[KeyPath] = set()
        for path, union, error in cleaned:
            # A union reports every branch, and the one that went deepest is the one that was meant; a list
            # with a wrong entry is called too short as well.
            echo = (union is not None or error["type"] == "too_short") and any(
                other == union and len(at) > len(path) and at[: len(path)] == path for at, other, _ in cleaned
            )
            if error["type"] == "extra_forbidden" or path in done or echo:
                continue
            done.add(path)
            if error["type"] == "missing":
                self._add_missing(path)
            else:
                self.wrong.add(path)
                self._add_wrong(path, error, alone=sum(at == path for at, _, _ in cleaned) == 1)

    def add_conflicts(self, errors: list[ErrorDetails]) -> None:
        """Add a problem for each broken rule that the wrong values leave visible."""
        broken = list(conflicts(self.root, self.values, self.wrong))
        if not broken and not self.wrong:  # a model without rules of its own may still raise one
            raised = [error for error in errors if error["type"] == "conflict"]
            broken = [(error["loc"], Conflict(error["msg"], error["ctx"]["at"])) for error in raised]
        for path, conflict in broken:
            self.add((*path, *conflict.at), conflict.message, key=not conflict.at)

    def _clean(self, error: ErrorDetails) -> tuple[KeyPath, KeyPath | None]:
        """The error's path without union and tag segments, and the path of the union it belongs to."""
        value: Value = self.values
        path: KeyPath = ()
        union: KeyPath | None = None
        last = len(error["loc"]) - 1
        for index, part in enumerate(error["loc"]):
            below = _below(value, part)
            if below:
                value = below[0]
            elif not (error["type"] == "missing" and index == last):
                union = path if union is None else union
                continue
            path = (*path, part)
        return path, union

    def _add_unknown(self, path: KeyPath) -> None:
        message, suggestion = unknown_key(path, self.root)
        self.add(path, message, suggestion, key=True)
        if suggestion is not None:
            # The meant key is not missing, and what it holds is not known yet.
            self.wrong.add((*path[:-1], suggestion))
            self.wrong.add(tuple(suggestion.split(".")))

    def _add_missing(self, path: KeyPath) -> None:
        if path in self.wrong:
            return
        self.wrong.add(path)
        what = walk.purpose(self.root, path)
        self.add(path, f"this key is missing ({what})" if what else "this key is missing", key=True)

    def _add_wrong(self, path: KeyPath, error: ErrorDetails, *, alone: bool) -> None:
        hints = walk.hints_at(self.root, path)
        value: Value = self.values
        for part in path:
            value = next(iter(_below(value, part)), None)
        message = _limit(error, hints, self._found(path, value)) if alone else None
        if message is not None:
            self.add(path, message)
            return
        mark = self.marks.get(path)
        advice, suggestion = _advice(hints, value, mark.text if mark is not None else "")
        message = f"expected {hints.words}, found {self._found(path, value)}"
        self.add(path, f"{message}; {advice}" if advice else message, suggestion)

    def _found(self, path: KeyPath, value: Value) -> str:
        if isinstance(value, dict):
            return "a section" if value else "an empty section"
        if isinstance(value, list):
            return "a list" if value else "an empty list"
        if value is None:
            return "nothing"
        mark = self.marks.get(path)
        text = mark.text if mark is not None and mark.text else str(value)
        text = re.sub(r"//[^/\s]*@", "//...@", text)  # an address may hold a password
        text = text if len(text) <= 40 else text[:37] + "..."
        return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text

    def add(self, path: KeyPath, message: str, suggestion: str | None = None, *, key: bool = False) -> None:
        """Add a problem at a path: at its value, or with ``key`` at its key."""
        place = place_of(self.marks, path, key=key)
        self.problems.append(
            Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path=dotted(path),
                message=message,
                suggestion=suggestion,
            )
        )


def place_of(marks: Marks, path: KeyPath, *, key: bool = False) -> Place:
    """Where a path's value (or key) stands; for a path that is not in the file the nearest section above."""
    mark = marks.get(path)
    if mark is not None:
        # A block below its key begins on the next line; the key is where a person looks.
        return mark.key if key or mark.value.line != mark.key.line else mark.value
    for length in range(len(path) - 1, -1, -1):
        if path[:length] in marks:
            return marks[path[:length]].key
    return Place("", 0, 0)


def _below(value: Value, part: str | int) -> list[Value]:
    """The value one step down, in a list; an empty list when there is none."""
    if isinstance(value, dict) and part in value:
        return [value[str(part)]]
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return [value[part]]
    return []


_LIMITS = {
    "greater_than": "must be greater than {gt}{unit}, found {found}",
    "greater_than_equal": "must be at least {ge}{unit}, found {found}",
    "less_than": "must be less than {lt}{unit}, found {found}",
    "less_than_equal": "must be at most {le}{unit}, found {found}",
    "finite_number": "must be a finite number{unit}, found {found}",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "too_short": "needs at least {min_length} entry, found {found}",
    "too_long": "may have at most {max_length} entries",
    "value_error": "{error}",
}


def _limit(error: ErrorDetails, hints: walk.Hints, found: str) -> str | None:
    """The message for a value out of bounds; None when it is of the wrong type altogether."""
    if error["type"] == "string_pattern_mismatch":
        return f"expected {hints.form}; found {found}" if hints.form else "must not be empty"
    unit = f" ({hints.unit})" if hints.unit else ""
    template = _LIMITS.get(error["type"])
    return template and template.format(unit=unit, found=found, **error.get("ctx", {}))


def _advice(hints: walk.Hints, value: Value, written: str) -> tuple[str, str | None]:
    """How to write a value of the wrong type, and the value that was probably meant."""
    if isinstance(value, str) and hints.choices:
        return "", nearest(value, [choice for choice in hints.choices if isinstance(choice, str)])
    if isinstance(value, str) and bool in hints.types and value.casefold() in _YES | _NO:
        advice = "YAML 1.2 reads yes, no, on, off and words in quotes as text"
        return advice, "true" if value.casefold() in _YES else "false"
    if isinstance(value, str) and hints.types & {int, float}:
        return _number_meant(value, hints)
    if isinstance(value, float) and int in hints.types and value.is_integer():
        return "write it without `.` or `e`", str(int(value))
    if str in hints.types and isinstance(value, int | float):
        return "put it in quotes", json.dumps(written)
    if isinstance(value, str | int | float) and hints.is_list:
        return "write one `- ` line for each entry", f"[{written}]"
    return "", None


def _number_meant(text: str, hints: walk.Hints) -> tuple[str, str | None]:
    """A number that was written as text: with a unit, with separators, or in quotes."""
    match = _WITH_UNIT.fullmatch(text)
    if match is None:
        return "", None
    digits, suffix = match.group(1), (match.group(2) or "").casefold()
    if "," in digits and not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", digits):
        return "write `.` before the decimals", None
    number = float(digits.replace("_", "").replace(",", ""))
    advice = "write a plain number without a unit" if suffix else "write digits only, without quotes"
    if suffix == "%":
        known = hints.unit.startswith(("share", "percent"))
        number = number / 100 if hints.unit.startswith("share") else number
    else:
        known = suffix == "" or suffix in _THOUSANDS
        number *= _THOUSANDS.get(suffix, 1.0)
    if not known or (int in hints.types and not number.is_integer()):
        return advice, None
    return advice, str(int(number)) if int in hints.types else f"{number:g}"
