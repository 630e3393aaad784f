"""Write what is generated: recipe.schema.json, docs/reference/*.md, and the excerpt in README.md.

The pages come from the schemas of recipe and card and from the command line; the excerpt is the end of
docs/quickstart-output.txt, where a run of scripts/quickstart.sh was recorded.

python scripts/make_reference.py           write all of them
python scripts/make_reference.py --check   write nothing; exit 1 when a file on disk differs
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sovtune.cli import app
from sovtune.data.card_schema import DataCard
from sovtune.recipe import Recipe
from sovtune.schema_walk import descriptions, hints_at, items, sections_at, sections_in
from sovtune.yaml_file import KeyPath, dotted
from sovtune.yaml_write import scalar_text

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "src/sovtune/recipe.schema.json"
PAGE = ROOT / "docs/reference/recipe.md"
COMMANDS_PAGE = ROOT / "docs/reference/cli.md"
README = ROOT / "README.md"
RECORDED = ROOT / "docs/quickstart-output.txt"
QUICKSTART = "scripts/quickstart.sh"
EXCERPT_BEGINS, EXCERPT_ENDS = "<!-- quickstart-output -->\n", "<!-- /quickstart-output -->"
CARD_PAGE = ROOT / "docs/reference/data-card.md"
EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Another recipe, relative to this file, that this one is laid over.",
}
INTRO = """\
# The recipe, key by key

<!-- Written by scripts/make_reference.py from src/sovtune/recipe.py; change it there. -->

A recipe is one YAML file that says everything about one run. Unknown keys, values of the wrong type and
combinations that cannot work are mistakes; `sovtune check RECIPE` reports all of them at once, with file and
line.

- **Editor help.** Let the file begin with
  `# yaml-language-server: $schema=../src/sovtune/recipe.schema.json`, the path to the schema as seen from the
  recipe. Editors with a YAML language server then complete and check keys.
- **YAML.** Plain YAML 1.2 values: `1e-4` is a number; only `true` and `false` are true and false; `yes` and
  `no` are text. Anchors, tags, merge keys, tabs and duplicate keys are refused.
- **Units.** Numbers stand without a unit: `4096`, not `4k`; `0.5`, not `50%`.
- **Paths** are relative to the recipe they stand in; those given with `--set` to the recipe that is loaded.
- **`extends: other.yaml`** lays this recipe over another one, which may extend a third (at most five).
  Sections are merged key by key; lists and single values replace what the other recipe says, and `null` takes
  a value back. Paths in the other recipe stay relative to that recipe.
- **`--set a.b=value`** on the command line has the last word: `--set train.learning_rate=1e-4`,
  `--set data.0.share=0.5` (entries of lists count from 0), `--set "adapter.targets=[q_proj, v_proj]"`,
  `--set train.epochs=null`.
- **`sovtune check RECIPE --explain`** prints every value with its origin: the recipe, a parent, `--set`, or
  the default.
"""

CARD_INTRO = """\
# The data card, key by key

<!-- Written by scripts/make_reference.py from src/sovtune/data/card_schema.py and card_sections.py; change it
there. -->

A data card is one YAML file that says what a data set is, where it is from and what may be done with it.
sovtune trains on nothing without one. [The guide](../data-cards.md) tells why each thing is asked. Unknown
keys, values of the wrong type and statements that contradict each other are mistakes; all of them are
reported at once, with file and line.
"""

EXIT_CODES = {
    0: "done, or nothing was left to do",
    2: "the recipe, a data card or the command line is wrong",
    3: "the environment is wrong: a package, memory, disk, a device, a base that no mirror delivers",
    4: "data or a licence is refused",
    5: "the run failed after it had started; nothing is lost",
    6: "a quality gate of the recipe failed",
    130: "interrupted with Ctrl-C; a checkpoint was saved",
    141: "the reader of a pipe left",
}

CLI_INTRO = """\
# The commands

<!-- Written by scripts/make_reference.py from the command line's own help; change it in src/sovtune/cli*.py. -->

Results go to stdout, talk and progress to stderr. With `--json` the last line on stdout is one JSON object.
Every command takes `-h` and `--help`; `sovtune --debug COMMAND ...` shows the traceback of an error.

| exit code | meaning |
|---|---|
"""


def json_schema() -> str:
    """The JSON Schema; a recipe that extends another may leave out what the other one says."""
    full = Recipe.model_json_schema()
    sections = full.pop("$defs")
    sections["Recipe"] = full
    for section in {section for _, section in _sections(Recipe, ())}:
        for name, text in descriptions(section).items():
            sections[section.__name__]["properties"][name]["description"] = text
    for section in sections.values():
        _tidy(section)
    for name in list(sections):
        sections[f"{name}Part"] = _without_required(copy.deepcopy(sections[name]))
    sections["RecipePart"]["properties"]["extends"] = EXTENDS
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sovtune recipe",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": "#/$defs/RecipePart"},
        "else": {"$ref": "#/$defs/Recipe"},
        "$defs": {name: sections[name] for name in sorted(_used(sections, ["Recipe", "RecipePart"]))},
    }
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"


def _tidy(node: object) -> None:
    """Units are for people; the words for a pattern go where editors look for them."""
    if isinstance(node, dict):
        node.pop("unit", None)
        if isinstance(node.get("form"), str):
            node["patternErrorMessage"] = f"expected {node.pop('form')}"
        for below in node.values():
            _tidy(below)
    elif isinstance(node, list):
        for below in node:
            _tidy(below)


def _without_required(node: object) -> object:
    """Lists replace and are not merged, so what stands in them stays complete."""
    if isinstance(node, dict):
        node.pop("required", None)
        if "$ref" in node:
            node["$ref"] += "Part"
        return {key: below if key == "items" else _without_required(below) for key, below in node.items()}
    return [_without_required(below) for below in node] if isinstance(node, list) else node


def _used(sections: dict[str, object], names: list[str]) -> set[str]:
    """The names of sections that these refer to, and those that they refer to."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            text = json.dumps(sections[name])
            names.extend(other for other in sections if f'"#/$defs/{other}"' in text)
    return found


def page(root: type[BaseModel], intro: str) -> str:
    """The reference page of a file: the introduction, then a table for each section."""
    parts = [intro]
    for path, section in _sections(root, ()):
        title = f"`{_shown(path)}`" if path else "The top level"
        lines = [f"## {title}", "", (section.__doc__ or "").strip(), ""]
        lines += ["| key | value | default | limits | meaning |", "|---|---|---|---|---|"]
        limits = section.model_json_schema()["properties"]
        for name, field in section.model_fields.items():
            hints = hints_at(section, (name,))
            cells = [
                f"`{name}`",
                _value(section, name, path),
                _default(field),
                hints.form or _limits(limits[name]),
                descriptions(section).get(name, ""),
            ]
            lines.append(
                "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
            )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _sections(section: type[BaseModel], path: KeyPath) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    yield path, section
    for name, field in section.model_fields.items():
        for below in sections_at(section, (name,)):
            yield from _sections(below, (*path, name))
        for item in items(field.annotation):
            for below in sections_in(item):
                yield from _sections(below, (*path, name, "[]"))


def _shown(path: KeyPath) -> str:
    return dotted(path).replace(".[]", "[]")


def _value(section: type[BaseModel], name: str, path: KeyPath) -> str:
    field = section.model_fields[name]
    if sections_at(section, (name,)):
        return f"section [`{_shown((*path, name))}`](#{_anchor((*path, name))})"
    if sections_in(field.annotation):
        return f"list of [`{_shown((*path, name, '[]'))}`](#{_anchor((*path, name, '[]'))})"
    return hints_at(section, (name,)).words.replace("a plain ", "a ")


def _anchor(path: KeyPath) -> str:
    return _shown(path).replace(".", "").replace("[]", "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return "none" if not value else f"`{list(value)}`"
    return "none" if value is None else f"`{scalar_text(value)}`"


def _limits(schema: dict[str, object]) -> str:
    """Bounds of a number, a text or a list in words, from the field's JSON Schema."""
    branches = [schema, *(branch for branch in schema.get("anyOf", []) if isinstance(branch, dict))]
    words = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
        "minItems": "at least {} entry",
        "maxItems": "at most {} entries",
    }
    return ", ".join(
        text.format(branch[key]) for key, text in words.items() for branch in branches if key in branch
    )


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words after ``sovtune``, groups before what is in them.

    Args:
        group: a typer group; typer brings click's classes along under names of its own, hence no narrower type.
        path: words that lead to the group.
    """
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def commands_page() -> str:
    """The reference of the command line: usage, help, examples and a table of options for each command."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return "\n".join(
        [
            CLI_INTRO + codes,
            *(_command(path, command) for path, command in commands(typer.main.get_command(app))),
        ]
    )


def _command(path: tuple[str, ...], command: Any) -> str:
    name = " ".join(("sovtune", *path))
    told = (command.help or "").strip().split("\n\n")
    prose = [" ".join(text.split()) for text in told if not text.startswith("Example:")]
    examples = [
        " ".join(text.removeprefix("Example:").split()) for text in told if text.startswith("Example:")
    ]
    lines = [f"## `{name}`", "", *(line for text in prose for line in (text, ""))]
    if examples:
        lines += ["```sh", *examples, "```", ""]
    rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _parameter(parameter: Any) -> str:
    """A row of the table: how it is written, its default, what it means."""
    is_option = parameter.opts[0].startswith("-")
    value = (parameter.metavar or parameter.name.upper()).strip("[]")
    takes_value = is_option and not parameter.is_flag
    spelt = ", ".join(f"`{name} {value}`" if takes_value else f"`{name}`" for name in parameter.opts)
    shown = spelt if is_option else f"`{value}`"
    said = getattr(parameter, "show_default", True)
    if parameter.required:
        default = "**required**"
    elif isinstance(said, str):
        default = said
    elif parameter.default in (None, False, "", (), []) or callable(parameter.default):
        default = ""
    else:
        default = f"`{parameter.default}`"
    cells = (shown, default, parameter.help or "")
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def readme() -> str:
    """README.md with the excerpt of the recorded run: the command, then everything from the places on."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(EXCERPT_BEGINS)
    _, _, after = rest.partition(EXCERPT_ENDS)
    recorded = RECORDED.read_text(encoding="utf-8")
    command = recorded.partition("\n")[0]
    end = recorded[recorded.index("Where everything is") :].rstrip()
    shortened = (
        ""
        if QUICKSTART in command
        else "A run shortened by the options shown, not the quickstart itself:\n\n"
    )
    excerpt = f"{shortened}```text\n{command}\n...\n\n{end}\n```\n"
    return f"{before}{EXCERPT_BEGINS}{excerpt}{EXCERPT_ENDS}{after}"


def main() -> int:
    """Write or compare the files; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a file on disk differs")
    check = parser.parse_args().check
    stale = 0
    for path, text in (
        (SCHEMA, json_schema()),
        (PAGE, page(Recipe, INTRO)),
        (CARD_PAGE, page(DataCard, CARD_INTRO)),
        (COMMANDS_PAGE, commands_page()),
        (README, readme()),
    ):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is out of date; run `python scripts/make_reference.py`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
