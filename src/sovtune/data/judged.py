"""Render comparisons and judged answers: the prompt without loss, only the answer that was judged with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sovtune.data.chat import ChatTemplate, Rendered, render_chat
from sovtune.data.document import Document, Message
from sovtune.errors import DataRefused

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COMPARING = ("dpo", "orpo", "simpo")
"""Methods that learn from pairs of answers to one prompt."""


def render_judged(document: Document, method: str, template: ChatTemplate, tokenizer: Tokenizer) -> Rendered:
    """A comparison (dpo, orpo, simpo) or a judged answer (kto) as ids and labels.

    A comparison becomes two dialogues that begin alike, first the one with the chosen answer; they are packed as one
    piece. Earlier answers of a dialogue are part of the prompt and carry no loss.

    Raises:
        DataRefused: the document is not what the method learns from, or cannot be rendered.
    """
    wanted = document.rejected if method in COMPARING else document.good
    if wanted is None:
        raise _unfit(document, method)
    answered = render_chat(document, template, tokenizer, last_answer=True)
    if document.rejected is None:
        return replace(answered, good=document.good)
    turns = (*document.messages[:-1], Message("assistant", document.rejected))
    other = render_chat(replace(document, messages=turns), template, tokenizer, last_answer=True)
    if other.input_ids == answered.input_ids:
        raise DataRefused(
            "the chosen and the rejected answer are the same",
            where=document.where,
            why="cleaning or masking left no difference between them",
            fix="leave the row out, or set on_bad_row: drop",
        )
    return Rendered(
        input_ids=answered.input_ids + other.input_ids,
        labels=answered.labels + other.labels,
        where=document.where,
        parts=(len(answered.input_ids), len(other.input_ids)),
    )


def refuse_judged(document: Document, method: str) -> None:
    """Refuse comparisons and judged answers in recipes that learn answers or text as they stand.

    Raises:
        DataRefused: the document shows an answer that was found bad.
    """
    if document.rejected is not None or document.good is not None:
        raise _unfit(document, method)


def _unfit(document: Document, method: str) -> DataRefused:
    """The refusal of a document that is not what the method learns from, with the method that does."""
    if document.rejected is not None:
        found, fix = "a comparison of two answers", "use method: dpo, orpo or simpo"
    elif document.good is not None:
        found, fix = "an answer judged good or bad", "use method: kto"
    elif document.text is not None:
        found, fix = "running text", "use method: cpt"
    else:
        found, fix = "a dialogue that nobody judged", "use method: sft"
    if method in COMPARING:
        why = f"{method} learns from pairs of a chosen and a rejected answer (kind preference in a data card)"
    elif method == "kto":
        why = "kto learns from answers judged good or bad (kind feedback in a data card)"
    else:
        why = f"{method} would imitate every answer, also those that were found bad"
    return DataRefused(f"{found} in a recipe with method {method}", where=document.where, why=why, fix=fix)


def check_verdicts(documents: Iterable[Rendered]) -> None:
    """Refuse feedback in which all answers got the same verdict.

    Raises:
        DataRefused: nothing tells good answers from bad ones.
    """
    verdicts = {document.good for document in documents}
    if verdicts <= {True} or verdicts <= {False}:
        which = "good" if True in verdicts else "bad"
        raise DataRefused(
            f"all judged answers are {which}",
            where="data",
            why="kto learns from the difference between good and bad answers",
            fix="add answers of the other kind, or learn the good ones with method: sft",
        )
