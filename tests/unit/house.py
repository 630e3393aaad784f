"""What the house's tests know about the source tree: its modules, their imports, which room each belongs to."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "sovtune"


@dataclass(frozen=True, slots=True)
class Import:
    """One import: who, what (a module of sovtune or the top name of a library), where and when it happens.

    ``when`` is ``top`` (as soon as the module is loaded), ``call`` (inside a function) or ``types`` (never,
    only type checkers see it).
    """

    module: str
    target: str
    line: int
    when: str


def python_files(*folders: str) -> list[Path]:
    """All Python files below folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    """Module name without ``sovtune.`` -> file; the package itself is the empty name."""
    return {_name(path): path for path in python_files("src/sovtune")}


def _name(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports() -> tuple[Import, ...]:
    """Every import of every module."""
    return tuple(found for name, path in modules().items() for found in imports_of(name, tree(path)))


def imports_of(module: str, parsed: ast.Module) -> list[Import]:
    """The imports of one module; names of the standard library are left out."""
    found = []
    for node, when in _statements(parsed, "top"):
        for target in _targets(node):
            if target is not None:
                found.append(Import(module, target, node.lineno, when))
    return found


def _statements(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, "call" if when == "top" else when)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for inner in child.body:
                yield from _statements(ast.Module([inner], []), "types")
        else:
            yield from _statements(child, when)


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str | None]:
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write imports out from `sovtune`"
        for alias in node.names:
            yield _target(f"{node.module}.{alias.name}")
    else:
        for alias in node.names:
            yield _target(alias.name)


def _target(dotted: str) -> str | None:
    top, _, rest = dotted.partition(".")
    if top != "sovtune":
        return None if top in sys.stdlib_module_names or top == "__future__" else f"lib:{top}"
    while rest and rest not in modules():
        rest = rest.rpartition(".")[0]
    return rest


def inner() -> list[Import]:
    """Imports of one module of sovtune by another; the package's own ``__version__`` is free for all."""
    return [found for found in imports() if not found.target.startswith("lib:") and found.target]


def libraries() -> list[Import]:
    """Imports of libraries outside the standard library, for ``target`` without its ``lib:``."""
    return [
        Import(found.module, found.target.removeprefix("lib:"), found.line, found.when)
        for found in imports()
        if found.target.startswith("lib:")
    ]


def functions(path: Path) -> Iterator[tuple[str, int, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Name, length in lines and node of every function in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1, node
