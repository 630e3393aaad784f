"""`sovtune data --show N`: rows as they will be trained on, with the tokens that carry loss in colour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from sovtune.base import cache_home, resolve
from sovtune.data.arrow_rows import load_rows
from sovtune.data.chat import IGNORE
from sovtune.data.prepare import find_prepared
from sovtune.data.template import TextFormat, read_format
from sovtune.errors import UsageError
from sovtune.recipe_file import LoadedRecipe


def preview(loaded: LoadedRecipe, count: int) -> None:
    """Print ``count`` rows, spread over all of them, document by document on stdout.

    What is shown is what was written for training: after the gate, the mixture and packing. Learnt parts are green and
    underlined in a terminal, and stand between ⟦ and ⟧ in a pipe. Each run of equal tokens is decoded as a whole, so
    that letters that join, and right-to-left lines, reach the terminal unbroken.

    Raises:
        UsageError: the rows were not prepared yet.
    """
    recipe = loaded.resolved()
    base = resolve(recipe.base, root=cache_home(), offline=True)
    prepared, _ = find_prepared(recipe, base_hash=base.record.content_sha256, cache=cache_home())
    if prepared is None:
        raise UsageError(
            "the rows of this recipe are not prepared yet", fix="run `sovtune data RECIPE` first"
        )
    rows = load_rows(prepared.rows_file)
    text_format = read_format(base.folder)
    console = Console(highlight=False, soft_wrap=True)
    for number in spread(len(rows), count):
        row = rows[number]
        total = len(row["input_ids"])
        console.print(
            Text(f"Row {number + 1} of {len(rows)}: {total} tokens, {len(row['where'])} documents", "bold")
        )
        start = 0
        names = places(row["where"], row["lengths"], row.get("good"))
        for where, length in zip(names, row["lengths"], strict=True):
            ids, labels = (row[name][start : start + length] for name in ("input_ids", "labels"))
            learnt = sum(label != IGNORE for label in labels[1:])
            console.print(Text(f"{where}: {length} tokens, {learnt} learnt", "bold"))
            console.print(marked(ids, labels, text_format, brackets=not console.is_terminal))
            start += length
        console.print()


def spread(rows: int, count: int) -> list[int]:
    """``count`` row numbers from 0 on, evenly over all rows: the first rows alone would show only long documents."""
    shown = min(rows, count)
    return [place * rows // shown for place in range(shown)]


def places(where: Sequence[str], lengths: Sequence[int], good: Sequence[int] | None = None) -> list[str]:
    """Where each dialogue of a row came from, and what was found of its answer if it was judged.

    Args:
        where: places of the row's documents; the two dialogues of a comparison came from one.
        lengths: tokens of each dialogue.
        good: verdicts on single answers.
    """
    if good is not None:
        return [
            f"{place}, {'good' if verdict else 'bad'} answer"
            for place, verdict in zip(where, good, strict=True)
        ]
    if len(where) == len(lengths):
        return list(where)
    return [f"{place}, {answer} answer" for place in where for answer in ("chosen", "rejected")]


def marked(ids: Sequence[int], labels: Sequence[int], text_format: TextFormat, *, brackets: bool) -> Text:
    """The document's text, learnt parts in colour and, if asked for, in brackets."""
    text = Text()
    for learnt, group in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORE):
        part = text_format.tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
        if learnt and brackets:
            part = f"⟦{part}⟧"
        text.append(part, "green underline" if learnt else "dim")
    return text
