"""The house keeps its own rules: rooms and arrows of import, homes of libraries, sizes, recipes, cards, words."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from house import ROOT, Import, functions, imports, imports_of, inner, libraries, modules, python_files, tree

from sovtune.data.card import check_card
from sovtune.recipe_file import check_recipe

ROOMS = {
    "errors": ("errors",),
    "records": ("records",),
    "yaml": ("yaml_file", "yaml_write"),
    "recipe": ("recipe", "recipe_*", "section", "conflicts", "schema_walk", "explain"),
    "licences": ("licences", "licence_*", "audience"),
    "secrets": ("secrets",),
    "network": ("network",),
    "figures": ("figures",),
    "progress": ("progress",),
    "runs": ("runs",),
    "families": ("families",),
    "kernels": ("gpu_kernels",),
    "fastpath": ("fastpath", "fastpath.*"),
    "base": ("base", "base_hashes", "base_place"),
    "plan": (
        "plan", "plan_changes", "plan_cost", "plan_teacher", "memory", "machine", "architecture", "adapter_shapes", "gpu_table",
    ),
    "data": ("data", "data.*"),
    "model": ("model", "quantise", "weights", "adapter_setup", "adapter_start", "adapter_tokens", "adapter_files"),
    "train": ("train", "train.*"),
    "launch": ("launch", "launch.*"),
    "evaluate": ("evaluate", "evaluate.*"),
    "card": ("card", "card_header", "card_lint", "evidence", "findings", "charts", "report", "gate_words", "trained_words"),
    "publish": ("publish", "publish_folder", "publish_line", "release"),
    "doctor": ("doctor", "device_checks"),
    "commands": ("pipeline", "check", "preview", "probe", "stack", "mixture_view", "summary", "*_command", "data_view"),
    "cli": ("", "__main__", "cli", "cli_*"),
}  # fmt: skip
"""Every module belongs to one room; ADR 0002 says why fastpath/ is one of its own."""

MAY_USE = {
    "errors": "",
    "records": "errors",
    "yaml": "errors",
    "recipe": "errors yaml",
    "licences": "",
    "secrets": "",
    "network": "errors",
    "figures": "",
    "progress": "figures",
    "runs": "errors records",
    "families": "errors",
    "kernels": "",
    "fastpath": "",
    "base": "errors records recipe",
    "plan": "errors records recipe families fastpath",
    "data": "errors records recipe yaml licences secrets",
    "model": "errors recipe families fastpath kernels",
    "train": "errors records recipe fastpath kernels",
    "launch": "errors yaml recipe",
    "evaluate": "errors records recipe fastpath",
    "card": "errors records recipe licences secrets figures runs",
    "publish": "errors records licences network secrets runs",
    "doctor": "errors base plan network kernels",
    "commands": "errors records yaml recipe licences network figures progress runs base plan data model train launch "
    "evaluate card publish",
    "cli": "errors network figures progress recipe runs data publish launch doctor commands",
}
"""Room -> rooms it may import from, besides itself."""

BETWEEN_STAGES = {
    ("launch.ray_train", "data.gate_ray_cluster"): "a Ray cluster is started and joined in one way",
    ("train.rows", "data.chat"): "the label that carries no loss is defined once, in pure code",
    ("train.engine", "model"): "only peft's home can save what was trained",
    ("train.watch", "adapter_setup"): "only peft's home knows which adapters were never trained",
    ("evaluate.answers", "data.document"): "prompts are rendered as training text is",
    ("evaluate.answers", "data.template"): "prompts are rendered as training text is",
    ("train.judged_trainer", "model"): "the reference is measured on the model that its home loaded",
    ("evaluate.pairs", "data.card"): "held-out comparisons stand behind data cards too",
    ("evaluate.pairs", "data.chat"): "held-out comparisons are rendered as training data is",
    ("evaluate.pairs", "data.judged"): "held-out comparisons are rendered as training data is",
    ("evaluate.pairs", "data.sources"): "held-out comparisons stand behind data cards too",
    ("evaluate.pairs", "data.template"): "held-out comparisons are rendered as training data is",
    ("evaluate.compare", "data.card"): "held-out text stands behind data cards too",
    ("evaluate.compare", "data.document"): "held-out text stands behind data cards too",
    ("evaluate.compare", "data.sources"): "held-out text stands behind data cards too",
    ("evaluate.compare", "data.template"): "held-out text is rendered as training text is",
    (
        "evidence",
        "data.card",
    ): "whether text of the data may stand in a published page is for its cards to say",
    ("evidence", "data.gate_report"): "what the data gate did is a record of the run like the others",
    ("report", "data.gate_report"): "what the data gate did is a record of the run like the others",
}
"""Arrows that MAY_USE forbids, each with its reason."""

HOMES = {
    "accelerate": "train.sharding",
    "bitsandbytes": "stack adapter_setup fastpath.four_bit fastpath.peft_layers device_checks",
    "cut_cross_entropy": "fastpath.head_loss",
    "datasets": "probe data.entries data.arrow_rows train.engine",
    "deepspeed": "train.sharding",
    "filelock": "base data.gate data.prepare",
    "ftfy": "data.mojibake",
    "httpx2": "base publish publish_line",
    "huggingface_hub": "base publish publish_line card_header data.entries",
    "jinja2": "card report data.chat",
    "license_expression": "licences",
    "liger_kernel": "fastpath.head_loss",
    "markupsafe": "card report",
    "numpy": "data.* evaluate.* fastpath.four_bit",
    "opencc": "data.clean",
    "packaging": "doctor",
    "peft": "model adapter_* fastpath.peft_layers fastpath.principal",
    "phonenumbers": "data.pii.phone",
    "psutil": "doctor machine train.watch",
    "py3langid": "data.language",
    "pyarrow": "data.*",
    "pydantic": "records section recipe recipe_* conflicts schema_walk explain evidence card_header card_lint data.*",
    "pydantic_core": "section explain",
    "ray": "data.gate_ray* launch.ray_train",
    "rensa": "data.dedup",
    "rich": "progress preview cli_shared data_view launch_command",
    "safetensors": "adapter_files adapter_start weights train.disk",
    "tokenizers": "adapter_tokens data.chat data.judged data.same_tokens data.split data.template evaluate.bits",
    "torch": "probe stack base model quantise adapter_* device_checks fastpath.* launch.processes train_command train.* evaluate.*",
    "transformers": "base model quantise fastpath.attention train.*",
    "trl": "train.*",
    "typer": "cli cli_*",
    "yaml": "yaml_file families card_header",
}
"""Library -> the modules that may import it, so that its next release breaks few files."""

HEAVY = frozenset({
    "torch", "transformers", "peft", "trl", "datasets", "pyarrow", "bitsandbytes", "huggingface_hub", "tokenizers",
    "accelerate", "ray",
})  # fmt: skip
HEAVY_ROOMS = ("fastpath", "train", "evaluate")
"""Rooms whose modules compute and may import heavy libraries as they load; others reach them inside functions."""

COMES_WITH = {"markupsafe": "jinja2", "pydantic-core": "pydantic"}
NEEDED_BY_OTHERS = {
    "gguf": "transformers, to read GGUF files",
    "mlflow": "transformers' Trainer, when a recipe names it as a tracker",
    "tensorboard": "transformers' Trainer, when a recipe names it as a tracker",
    "trackio": "transformers' Trainer, when a recipe names it as a tracker",
    "wandb": "transformers' Trainer, when a recipe names it as a tracker",
    "zstandard": "datasets, to read .zst files of a Hub data set",
}
"""Dependencies that no module of ours imports, and who does."""

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 8
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS = {
    "cli.py:evaluate": "one parameter for each option of the command",
    "cli.py:publish": "one parameter for each option of the command",
    "cli.py:train": "one parameter for each option of the command",
    "cli_data.py:scan": "one parameter for each option of the command",
    "cli_data.py:card": "one parameter for each option of the command",
}
NUM_RECIPES, NUM_CARDS = 18, 9
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
CARDS = sorted((ROOT / "data_cards").rglob("*.yaml"))


def room_of(module: str) -> str | None:
    found = [room for room, patterns in ROOMS.items() if any(fnmatchcase(module, p) for p in patterns)]
    assert len(found) < 2, f"{module} is in several rooms: {found}"
    return found[0] if found else None


# Rooms and arrows


def test_every_module_has_a_room() -> None:
    homeless = [name for name in modules() if room_of(name) is None]
    assert not homeless, f"give each of these a room in ROOMS and a line in the README: {homeless}"
    assert set(ROOMS) == set(MAY_USE)


def test_imports_go_one_way() -> None:
    wrong = []
    for found in inner():
        here, there = room_of(found.module), room_of(found.target)
        if here and here != there and there not in MAY_USE[here].split():
            wrong.append((found.module, found.target))
    assert set(wrong) == set(BETWEEN_STAGES), "a new arrow needs a reason, one that is gone leaves the table"


def test_rooms_form_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_USE):
        ready = {room for room, below in MAY_USE.items() if room not in done and set(below.split()) <= done}
        assert ready, f"these rooms wait for each other: {sorted(set(MAY_USE) - done)}"
        done |= ready


def test_no_module_imports_itself_through_others() -> None:
    needs = defaultdict(set)
    for found in inner():
        if found.when == "top":
            needs[found.module].add(found.target)
    done: set[str] = set()
    left = set(modules())
    while ready := {name for name in left if needs[name] <= done}:
        done |= ready
        left -= ready
    assert not left, f"these import each other in a circle: {sorted(left)}"


def test_a_library_is_imported_only_at_home() -> None:
    strangers = sorted({found.target for found in libraries()} - set(HOMES))
    assert not strangers, f"give these libraries a home in HOMES: {strangers}"
    away = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in libraries()
        if not any(fnmatchcase(found.module, home) for home in HOMES[found.target].split())
    ]
    assert not away


def test_heavy_libraries_load_only_when_something_is_computed() -> None:
    early = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in libraries()
        if found.when == "top" and found.target in HEAVY and room_of(found.module) not in HEAVY_ROOMS
    ]
    early += [
        f"{found.module}:{found.line} imports {found.target}"
        for found in inner()
        if found.when == "top"
        and found.target in _modules_that_load_heavy()
        and room_of(found.module) not in HEAVY_ROOMS
    ]
    assert not early, "import it inside the function that needs it"


def _modules_that_load_heavy() -> set[str]:
    heavy = {found.module for found in libraries() if found.when == "top" and found.target in HEAVY}
    while True:
        above = {found.module for found in inner() if found.when == "top" and found.target in heavy}
        if above <= heavy:
            return heavy
        heavy |= above


def test_the_tests_above_see_imports_of_every_kind() -> None:
    text = (
        "import torch\nfrom sovtune import errors\nif TYPE_CHECKING:\n    import peft\n"
        "def f():\n    from trl import SFTTrainer\n    import sovtune.data.chat, os\nfrom sovtune.records import X\n"
    )
    assert [(found.target, found.when) for found in imports_of("x", ast.parse(text))] == [
        ("lib:torch", "top"),
        ("errors", "top"),
        ("lib:peft", "types"),
        ("lib:trl", "call"),
        ("data.chat", "call"),
        ("records", "top"),
    ]
    assert len(imports()) > 200
    assert Import("pipeline", "train.group", 0, "call") in {
        Import(found.module, found.target, 0, found.when) for found in imports()
    }


def test_dependencies_are_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        entry for name, group in project["optional-dependencies"].items() if name != "dev" for entry in group
    ]
    declared = {
        re.split(r"[<>=!~;\[ ]", entry)[0].lower().replace("_", "-")
        for entry in [*project["dependencies"], *extras]
    }
    names = {"yaml": "pyyaml"}
    used = {names.get(found.target, found.target.replace("_", "-")) for found in libraries()}
    assert used - declared == used & set(COMES_WITH), "declare what is imported"
    assert declared - used == declared & set(NEEDED_BY_OTHERS), "remove what nothing needs"
    assert {COMES_WITH[name] for name in used & set(COMES_WITH)} <= declared


# Sizes and habits


def test_files_stay_short() -> None:
    long = {
        str(path.relative_to(ROOT)): length
        for path in python_files("src", "scripts")
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_functions_stay_short() -> None:
    long = {}
    for path in python_files("src", "scripts"):
        for name, length, node in functions(path):
            if length - _lines_of_signature_and_docstring(node) > MAX_FUNCTION_LINES:
                long[f"{path.name}:{name}"] = length
    assert set(long) == set(LONG_FUNCTIONS), long


def _lines_of_signature_and_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Options of a command and what its help says are a table, not a long function."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if is_docstring else first.lineno - 1
    return (end or node.lineno) - node.lineno + 1


def test_functions_take_few_parameters() -> None:
    many = set()
    for path in python_files("src", "scripts"):
        for name, _, node in functions(path):
            arguments = node.args
            number = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            if number > MAX_PARAMETERS:
                many.add(f"{path.name}:{name}")
    assert many == set(MANY_PARAMETERS)


def test_nothing_is_patched_executed_or_swallowed() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in python_files("src", "scripts")
        for line, what in faults(tree(path))
    ]
    assert not found


def faults(parsed: ast.Module) -> Iterator[tuple[int, str]]:
    """Where a file patches other modules, runs text as code, or catches everything."""
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(parsed)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("exec", "eval", "setattr", "delattr", "__import__"):
                yield node.lineno, f"{node.func.id}("
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if re.search(r"\b(everything|Exception|BaseException)\b", caught):
                yield node.lineno, f"except {caught}"
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and ast.unparse(target).partition(".")[0] in imported:
                    yield node.lineno, f"assigns to {ast.unparse(target)}"


@pytest.mark.parametrize(
    "text",
    [
        "import trl\ntrl.SFTTrainer.train = f",
        "setattr(m, 'x', 1)",
        "exec('1')",
        "try:\n  f()\nexcept (ValueError, Exception):\n  pass",
        "try:\n  f()\nexcept:\n  pass",
    ],
)
def test_faults_are_seen(text: str) -> None:
    assert list(faults(ast.parse(text)))


def test_test_files_have_names_of_their_own() -> None:
    """Pytest imports test files by their bare names: two of one name cannot be collected in one run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names), [name for name in set(names) if names.count(name) > 1]


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [name for name in modules() if re.search(r"(^|\.)(utils?|helpers?|misc|common)$", name)]


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, path in modules().items() if not ast.get_docstring(tree(path))]
    assert not silent


# Recipes and data cards


def test_the_number_of_recipes_and_cards_is_known() -> None:
    """So that a test over all of them cannot pass by finding none."""
    assert (len(RECIPES), len(CARDS)) == (NUM_RECIPES, NUM_CARDS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_opens_with_prose_and_is_right(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", lines[0])
    assert schema, "the first line tells editors where the schema is"
    assert (path.parent / schema[1]).resolve() == ROOT / "src/sovtune/recipe.schema.json"
    prose = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    for word in ("What:", "For whom:", "Hardware:", "Launch:", "Expect:"):
        assert f"# {word}" in prose, f"the prose at the top lacks `{word}`"
    assert f"sovtune run {path.relative_to(ROOT)}" in prose
    assert check_recipe(path) == []


def test_recipes_have_names_of_their_own() -> None:
    names = [yaml.safe_load(path.read_text(encoding="utf-8"))["name"] for path in RECIPES]
    assert names == [path.stem for path in RECIPES]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.name)
def test_a_data_card_is_right(path: Path) -> None:
    assert check_card(path, for_training="heldout" not in path.stem) == []


# The tree


def tracked() -> list[Path]:
    """Files under version control; without git (an unpacked archive) all files of the project's folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    folders = ("src", "tests", "scripts", "docs", "recipes", "data_cards")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in (*inside, *ROOT.glob("*.md")) if "__pycache__" not in path.parts]


def test_the_text_is_about_sovtune_and_nothing_else() -> None:
    """No traces of whoever wrote it or of the place it was written at."""
    halves = (
        ("clau", "de"), ("anthro", "pic"), ("co", "pilot"), ("chat", "gpt"), ("sub", "agent"), ("co-authored", "-by"),
        ("generated", " with"), ("generated by", " an? ai"), ("this", " session"), ("issues", " show"),
        ("work", "place"), ("/work/", "main"), ("/work/", "shared"), ("/work/", "venv"), ("/work/", "drafts"),
    )  # fmt: skip
    pattern = re.compile(
        "|".join(rf"\b{a}{b}\b" if a[0].isalpha() else a + b for a, b in halves), re.IGNORECASE
    )
    files = tracked()
    assert len(files) > 100
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found


def test_no_tracked_file_is_large() -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size
        for path in tracked()
        if path.stat().st_size > 500_000 and not path.is_relative_to(ROOT / "data_cards/samples")
    }
    assert not large
