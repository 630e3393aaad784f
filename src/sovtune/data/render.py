"""One document into tokens, as the recipe's method wants it."""

from __future__ import annotations

from sovtune.data.chat import Rendered, render_chat, render_text
from sovtune.data.document import Document
from sovtune.data.judged import refuse_judged, render_judged
from sovtune.data.split import render_pieces
from sovtune.data.template import TextFormat
from sovtune.errors import DataRefused
from sovtune.recipe import Recipe


def render(recipe: Recipe, document: Document, text_format: TextFormat) -> list[Rendered]:
    """One document as tokens: one piece, or several when running text is longer than a row and may be split.

    Raises:
        DataRefused: the document does not fit the method, or nothing of it carries loss.
    """
    if recipe.method in ("sft", "cpt"):
        refuse_judged(document, recipe.method)
    if recipe.method == "cpt":
        return _running_text(recipe, document, text_format)
    if not document.messages and recipe.method == "sft":
        raise DataRefused(
            "running text in an sft recipe",
            where=document.where,
            why="sft learns answers",
            fix="use method: cpt",
        )
    if text_format.template is None:
        raise DataRefused(
            "the base has no chat template",
            why=f"{recipe.method} needs one to tell prompt from answer",
            fix="use the base's instruct variant, or method: cpt",
        )
    if recipe.method == "sft":
        return [render_chat(document, text_format.template, text_format.tokenizer)]
    return [render_judged(document, recipe.method, text_format.template, text_format.tokenizer)]


def _running_text(recipe: Recipe, document: Document, text_format: TextFormat) -> list[Rendered]:
    if document.text is None:
        raise DataRefused(
            "a dialogue in a cpt recipe",
            where=document.where,
            why="cpt learns running text",
            fix="use method: sft",
        )
    tokenizer, bos, eos = text_format.tokenizer, text_format.bos, text_format.eos
    if recipe.train.rows.overlong != "split":
        return [render_text(document, tokenizer, bos=bos, eos=eos)]
    return render_pieces(document, tokenizer, bos=bos, eos=eos, max_length=recipe.train.rows.max_length)
