"""Whether two models read and write the same tokens: what one finds likely means something to the other only then."""

from __future__ import annotations

import json
from pathlib import Path

from sovtune.errors import BaseUnavailable, UsageError

TOKENIZER = "tokenizer.json"


def check_same_tokens(base: Path, teacher: Path) -> None:
    """Every token of the base must be the teacher's, under the same id; the teacher may have more.

    Raises:
        UsageError: one is not.
        BaseUnavailable: a tokenizer file was cut off.
    """
    ours, theirs = _vocabulary(base), _vocabulary(teacher)
    others = sorted((number, token) for token, number in ours.items() if theirs.get(token) != number)
    if not others:
        return
    number, token = others[0]
    there = f"{theirs[token]} there" if token in theirs else "no token there"
    raise UsageError(
        "the teacher has other tokens than the base",
        where="distil.teacher",
        why=f"{len(others):,} of {len(ours):,} differ: {token!r} is {number} here and {there}",
        fix="take a teacher of the base's own family, whose tokenizer is the same",
    )


def _vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    text = (folder / TOKENIZER).read_text(encoding="utf-8")
    try:
        json.loads(text)  # what the library says of a file that was cut off is a bare Exception
    except json.JSONDecodeError as error:
        raise BaseUnavailable(
            f"{TOKENIZER} is damaged: {error}", where=str(folder), fix="get the files of this model again"
        ) from error
    found: dict[str, int] = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
    return found
