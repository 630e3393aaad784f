"""Lines of code, commands, addresses and markup in running text, told by their shape."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FENCE = re.compile(r"\s*(?:```|~~~)")
_NOT_PROSE = re.compile(
    r"\s*(?:[$>%#!]\s?[\w./~-]+(?:\s+[\w./~=-]+)*\s*$"  # a prompt and a command
    r"|(?:sudo|apt|apt-get|pip|git|cd|ls|echo|export|import|def|class|return|curl|wget)\b.*"
    r"|>>> .*|\.\.\. .*|</?\w.*>\s*$|<!--.*|\|.*\|\s*$|@\w+.*"
    r"|[\s{}()\[\];]*$|.*[{\\]\s*$|.*[()=<>\[\]].*;\s*$|[\w.\[\]'\"-]+\s*(?:=|:=|\+=|\()\s*\S.*[)\]'\"\w]\s*$"
    r"|.*(?:=>|->|==|!=|&&|\|\||::|\(\)).*)"
)
_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.-]+|(?:[\w.~-]*/){2,}[\w.~-]*|`[^`\n]*`"
)
_SIGNS = re.compile(r"[^\w\s.,;:!?'\"()’“”–—-]")
_SIGN_SHARE = 0.12


def is_code(line: str) -> bool:
    """Whether a line in Latin letters is code, a command, an address or markup, judged by its shape."""
    if line.startswith(("    ", "\t")) and not line.rstrip().endswith((".", "!", "?", ":")):
        return True
    rest = _ADDRESS.sub("", line)
    if len(rest.strip()) < 0.5 * len(line.strip()) or _NOT_PROSE.fullmatch(line):
        return True
    return len(_SIGNS.findall(rest)) > _SIGN_SHARE * len(rest)


def fenced(lines: Sequence[str]) -> set[int]:
    """Indexes of the lines inside ``` or ~~~ fences, with the fences."""
    inside, found = False, set()
    for index, line in enumerate(lines):
        fence = _FENCE.match(line) is not None
        if inside or fence:
            found.add(index)
        inside ^= fence
    return found
