"""Write plain values as YAML that ``yaml_file`` reads back to the same values, and YAML 1.1 readers too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from sovtune.yaml_file import KeyPath, Scalar, Value

_PLAIN_TEXT = re.compile(r"(?:\.{0,2}/)*[^\W\d_][\w./+=@-]*(?: [\w./+=@-]+)*")
_YAML_1_1_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def scalar_text(value: Scalar) -> str:
    """A scalar as YAML: bare where no reader can mistake it, else as in JSON."""
    if isinstance(value, str):
        if (
            _PLAIN_TEXT.fullmatch(value)
            and value.lower() not in _YAML_1_1_WORDS
            and not _ESCAPE.search(value)
        ):
            return value
        quoted = json.dumps(value, ensure_ascii=False)
        return _ESCAPE.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")  # YAML 1.1 readers take 1e-05 for text
    return text


def yaml_lines(
    values: dict[str, Value] | list[Value], path: KeyPath = (), indent: str = ""
) -> Iterator[tuple[str, KeyPath | None]]:
    """Lines of block YAML, each with the path of the value that stands on it (None for a heading alone)."""
    keyed = isinstance(values, dict)
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        head = f"{indent}{scalar_text(key)}:" if keyed else f"{indent}-"
        here = (*path, key)
        if not isinstance(value, dict | list):
            yield f"{head} {scalar_text(value)}", here
        elif not value:
            yield f"{head} {'{}' if isinstance(value, dict) else '[]'}", here
        elif keyed:
            yield head, None
            yield from yaml_lines(value, here, indent + "  ")
        else:
            below = yaml_lines(value, here, indent + "  ")
            first, first_path = next(below)
            yield f"{head} {first.lstrip()}", first_path
            yield from below
