"""The documentation tells the truth: its commands exist, its examples run, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import typer.main
from docs_pages import ROOT, Block, anchors, blocks, links, matches, pages, words
from house import modules

from sovtune import __version__, errors
from sovtune.cli import app, main

GUIDES = [path for path in pages() if path.parent.name != "reference"]
BLOCKS = [block for page in GUIDES for block in blocks(page)]
COMMANDS = [(block, command) for block in BLOCKS for command, _ in block.commands()]
OUTPUTS = ("--out", "--report", "--runs-dir", "--decisions", "--to")
MADE_BY_A_RUN = ("runs/", "published/", ".venv/")
PLACEHOLDERS = re.compile(r"[A-Z_]{2,}|\.\.\.")


def ids(found: tuple[Block, str]) -> str:
    return f"{found[0].page.name}:{found[0].line}: {found[1][:40]}"


def all_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words after ``sovtune``."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))


def parse(arguments: list[str]) -> None:
    """Let typer parse a command line without running it; raises what typer raises."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("sovtune", list(arguments))
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, f"no command {name}"
        context = command.make_context(name, arguments, parent=context)


# Commands


def test_enough_commands_are_looked_at() -> None:
    assert len([1 for _, command in COMMANDS if "sovtune " in command]) >= 20


@pytest.mark.parametrize("found", COMMANDS, ids=ids)
def test_a_documented_command_exists(found: tuple[Block, str]) -> None:
    block, command = found
    program, *arguments = words(command)
    if program == "sovtune":
        parse(arguments)
    elif program.startswith("./scripts/") or program == "python":
        script = ROOT / (program if program != "python" else arguments[0])
        assert script.is_file()
    else:
        assert program in (
            "python3",
            ".venv/bin/pip",
            ".",
            "export",
            "ruff",
            "mypy",
            "pytest",
            "pre-commit",
            "git",
            "ray",
        )
    written = {earlier.title for earlier in blocks(block.page) if earlier.title}
    for path in paths_in(arguments):
        assert path in written or (ROOT / path).exists(), f"{path} does not exist"


def paths_in(arguments: list[str]) -> list[str]:
    """The words that are paths of files that must be there."""
    found = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_path = "/" in word or re.search(r"\.(yaml|jsonl|json|md|txt|sh|py)$", word)
        made = word.startswith(MADE_BY_A_RUN) or before in OUTPUTS
        if is_path and not made and "://" not in word and not word.startswith("-") and "=" not in word:
            found.append(word)
    return [word for word in found if not PLACEHOLDERS.search(word)]


def test_a_wrong_command_would_be_seen() -> None:
    for wrong in ("check", "check r.yaml --explian", "chek r.yaml", "data scan x.txt", "publish runs/x"):
        with pytest.raises(Exception, match=r"(?i)missing|no such"):
            parse(wrong.split())
    assert paths_in(["check", "recipes/gone.yaml", "--runs-dir", "a/b", "runs/x", "--to", "dir:a/b"]) == [
        "recipes/gone.yaml"
    ]


# Examples that run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a reader has, to write the examples' files into."""
    for name in ("recipes", "data_cards", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [ROOT / "docs/tutorial.md", ROOT / "docs/recipes.md"], ids=lambda page: page.name
)
def test_shown_output_is_what_is_printed(
    page: Path, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compared = 0
    for block in blocks(page):
        if block.title is not None:
            (project / block.title).write_text(block.text, encoding="utf-8")
        if block.kind != "console":
            continue
        for command, shown in block.commands():
            call(words(command))
            printed = "".join(capfd.readouterr())
            assert matches(shown, printed), f"{page.name}:{block.line}: {command}\n{printed}"
            compared += 1
    assert compared >= 4


def call(arguments: list[str]) -> None:
    if arguments[0] == "python":
        subprocess.run([sys.executable, *arguments[1:]], check=True)
        return
    assert arguments[:2] == ["sovtune", "check"], "show output only of commands that this test can run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit):
            main()


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.kind == "python"], ids=lambda b: f"{b.page.name}:{b.line}"
)
def test_python_examples_parse_and_import_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {(node.module, alias.name) for node in imported for alias in node.names} <= {
        ("peft", "PeftModel"),
        ("transformers", "AutoModelForCausalLM"),
        ("transformers", "AutoTokenizer"),
    }, "add what the example imports, after trying it"


def test_the_data_card_guide_shows_a_card_that_is_read(tmp_path: Path) -> None:
    from sovtune.data.card import load_card

    shown = next(
        block for block in blocks(ROOT / "docs/data-cards.md") if block.text.startswith("schema_version")
    )
    (tmp_path / "card.yaml").write_text(shown.text, encoding="utf-8")
    assert load_card(tmp_path / "card.yaml").card.id == "city-letters"


# Links and the tree


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        left += [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert reached >= set(pages()), sorted(set(pages()) - reached)


def listed_paths() -> list[str]:
    """The paths of the README's tree: names before two spaces, folders by indentation."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.split("<!-- tree -->\n```\n")[1].split("```")[0].splitlines()
    found, folder = [], ""
    for line in lines:
        names = re.split(r"\s{2,}", line.strip())[0].split()
        inside = line.startswith("  ")
        if not inside:
            folder = names[0]
        found += [folder + name if inside else name for name in names]
    return found


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    listed = listed_paths()
    missing = [path for path in listed if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"listed in the README, but not there: {missing}"
    assert len(listed) == len(set(listed))
    tops = {name.partition(".")[0] for name in modules()} - {"", "__main__"}
    wanted = {
        f"src/sovtune/{name}{'/' if (ROOT / 'src/sovtune' / name).is_dir() else '.py'}" for name in tops
    }
    scripts = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    unlisted = {name for name in wanted | scripts if not any(fnmatchcase(name, line) for line in listed)}
    assert not unlisted, f"give each a place in the README's tree: {sorted(unlisted)}"


def test_every_line_of_the_tree_has_words() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in text.split("<!-- tree -->\n```\n")[1].split("```")[0].splitlines():
        assert line in ("scripts/", "src/sovtune/", "tests/") or re.search(r"\S {2,}\S", line), line


# Commands and codes are documented


@pytest.mark.parametrize(
    "found", list(all_commands(typer.main.get_command(app))), ids=lambda found: " ".join(found[0])
)
def test_a_command_has_an_example_and_a_place_in_the_reference(found: tuple[tuple[str, ...], Any]) -> None:
    path, command = found
    assert "Example:" in (command.help or "")
    name = " ".join(("sovtune", *path))
    reference = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert f"## `{name}`" in reference
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`sovtune {path[0]} " in readme or f"`sovtune {path[0]}`" in readme


def test_examples_in_the_help_parse() -> None:
    reference = ROOT / "docs/reference/cli.md"
    examples = [command for block in blocks(reference) for command, _ in block.commands()]
    assert len(examples) > 10
    for example in examples:
        parse(words(example)[1:])


def test_every_exit_code_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.SovtuneError)}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    reference = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \| (.*) \|$", readme, re.MULTILINE)
    assert table == re.findall(r"^\| (\d+) \| (.*) \|$", reference, re.MULTILINE)
    assert {int(code) for code, _ in table} == raised | {0, 141}


def test_errors_point_to_pages_that_exist() -> None:
    named = {page for text in errors.NEXT_STEP.values() for page in re.findall(r"docs/[\w/.-]+\.md", text)}
    assert named
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_the_offline_page_names_every_variable_that_is_set() -> None:
    from sovtune import network

    page = (ROOT / "docs/offline.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([A-Z_]+)=[^`]+`", page))
    assert told == {*network._ALWAYS, *network._UNLESS_SET, "HF_HUB_OFFLINE"}


def test_the_publishing_page_names_every_file_from_the_run() -> None:
    from sovtune import release

    page = (ROOT / "docs/publishing.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| the run folder |"))
    assert re.findall(r"`([^`]+)`", row) == list(release.FROM_RUN)


def test_the_changes_tell_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)}\b", text, re.MULTILINE)


def test_the_excerpt_in_the_readme_is_the_end_of_the_recorded_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- quickstart-output -->\n")[1].split("<!-- /quickstart-output -->")[0]
    recorded = (ROOT / "docs/quickstart-output.txt").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(.*?)```", shown, re.DOTALL)
    assert matches(block, recorded)
    assert "Where everything is" in block
