"""`sovtune data --show N`: rendered documents with the tokens that carry loss in colour."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sovtune.base import cache_home, resolve
from sovtune.data.card import load_card
from sovtune.data.chat import IGNORE, Rendered
from sovtune.data.prepare import render
from sovtune.data.sources import SourceRequest, read_documents
from sovtune.data.template import TextFormat, read_format
from sovtune.recipe_file import LoadedRecipe


def preview(loaded: LoadedRecipe, count: int) -> None:
    """Print the first ``count`` documents of each source on stdout.

    Learnt parts are green and underlined in a terminal, and stand between ⟦ and ⟧ in a pipe. Each run of equal
    tokens is decoded as a whole, so that letters that join, and right-to-left lines, reach the terminal unbroken.
    """
    recipe = loaded.resolved()
    text_format = read_format(resolve(recipe.base, root=cache_home(), offline=True).folder)
    console = Console(highlight=False, soft_wrap=True)
    for wish in recipe.data:
        request = SourceRequest(split=wish.split, max_rows=wish.max_rows, on_bad_row=wish.on_bad_row)
        documents = read_documents(load_card(Path(wish.card)), request, Counter())
        for document in islice(documents, count):
            rendered = render(recipe, document, text_format)
            console.print(
                Text(
                    f"{rendered.where}: {len(rendered.input_ids)} tokens, {rendered.supervised} learnt",
                    "bold",
                )
            )
            console.print(marked(rendered, text_format, brackets=not console.is_terminal))
            console.print()


def marked(rendered: Rendered, text_format: TextFormat, *, brackets: bool) -> Text:
    """The document's text, learnt parts in colour and, if asked for, in brackets."""
    text = Text()
    pairs = zip(rendered.input_ids, rendered.labels, strict=True)
    for learnt, group in groupby(pairs, key=lambda pair: pair[1] != IGNORE):
        part = text_format.tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
        if learnt and brackets:
            part = f"⟦{part}⟧"
        text.append(part, "green underline" if learnt else "dim")
    return text
