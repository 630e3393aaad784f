"""Markdown pages as the documentation's tests see them: fenced blocks, commands, links, headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``title`` is the file it stands for, ``line`` where it begins in its page."""

    page: Path
    line: int
    kind: str
    title: str | None
    text: str

    def commands(self) -> list[tuple[str, str]]:
        """Each command with the output that is shown below it (only ``console`` blocks show any)."""
        if self.kind == "sh":
            return [(line, "") for line in self.text.splitlines() if line and not line.startswith("#")]
        if self.kind != "console":
            return []
        parts = re.split(r"^\$ (.*)\n", self.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{self.page}:{self.line}: a console block begins with `$ `"
        return list(zip(parts[1::2], parts[2::2], strict=True))


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def words(command: str) -> list[str]:
    """The words of a shell command up to a pipe, without variables set in front and without ``unshare -rn``."""
    found = shlex.split(command.partition(" | ")[0])
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        found.pop(0)
    return found[2:] if found[:2] == ["unshare", "-rn"] else found


def links(page: Path) -> list[str]:
    """Targets of the links of a page that lead to other files or headings of the project."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that renderers give to a page's headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def matches(shown: str, printed: str) -> bool:
    """Whether shown output is what was printed; ``...`` stands for any text, on a line of its own for lines."""
    wanted = re.escape(shown.rstrip("\n")).replace(r"\.\.\.", r".*?")
    return re.fullmatch(wanted, printed.rstrip("\n"), re.DOTALL) is not None
