"""The evaluation stage: base against adapter, both from one load, on held-out text of every language that matters."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sovtune.data.card import LoadedCard, load_card, verify_files
from sovtune.data.document import Document
from sovtune.data.sources import SourceRequest, read_documents
from sovtune.data.template import TextFormat
from sovtune.errors import DataRefused
from sovtune.evaluate.answers import greedy_answers
from sovtune.evaluate.base_scores import BaseScores
from sovtune.evaluate.bits import TextCost, text_costs
from sovtune.evaluate.pairs import read_pairs, score_pairs
from sovtune.evaluate.stats import RESAMPLES, compare
from sovtune.fastpath import attention
from sovtune.recipe import Evaluate, HeldOut, Recipe
from sovtune.records import EvalReport, GateResult, SampleAnswer, TextScore

MIN_DOCUMENTS = 2
"""A bootstrap over a single document says nothing."""

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutTexts:
    """One held-out set in memory."""

    wish: HeldOut
    card: LoadedCard
    language: str
    texts: list[str]
    sha256: str


def plain_text(document: Document) -> str:
    """The text of a document; of a dialogue its turns, one below the other."""
    return (
        document.text
        if document.text is not None
        else "\n".join(message.content for message in document.messages)
    )


def read_held_out(wish: HeldOut) -> HeldOutTexts:
    """Read a held-out set through its card.

    Raises:
        DataRefused: the card does not fit, or there are too few documents for an interval.
    """
    loaded = load_card(Path(wish.card))
    files = verify_files(loaded, None, for_training=False)
    request = SourceRequest(split=None, max_rows=wish.max_documents, on_bad_row="error")
    texts = [plain_text(document) for document in read_documents(loaded, request, Counter())]
    if len(texts) < MIN_DOCUMENTS:
        raise DataRefused(f"a held-out set needs at least {MIN_DOCUMENTS} documents", where=str(loaded.path))
    language = max(loaded.card.languages, key=lambda entry: entry.share).tag
    digest = hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()
    return HeldOutTexts(wish=wish, card=loaded, language=language, texts=texts, sha256=digest)


def evaluate(
    recipe: Recipe, model: Any, text_format: TextFormat, *, kept: BaseScores, tick: Tick
) -> EvalReport:
    """Compare base and adapter.

    Args:
        recipe: with card paths resolved.
        model: what was trained; within ``model.disable_adapter()`` it is the base.
        text_format: tokenizer and chat format of the base.
        kept: what the base scored in earlier evaluations; what it scores now is added.
        tick: progress, called with (what, done, of).

    Raises:
        DataRefused: a held-out set cannot be read.
    """
    begun = time.monotonic()
    section = recipe.evaluate
    sets = [read_held_out(wish) for wish in section.texts]
    comparisons = [read_pairs(wish, text_format) for wish in section.pairs]
    scores = []
    for held_out in sets:
        with model.disable_adapter():
            before = _costs(model, text_format, held_out, section, tick, kept)
        after = _costs(model, text_format, held_out, section, tick, None)
        scores.append(_score(held_out, before, after, recipe.seed))
    pairs = tuple(score_pairs(model, held_out, tick) for held_out in comparisons)
    samples = _samples(recipe, model, text_format, tick, kept)
    return EvalReport(
        scores=tuple(scores),
        samples=samples,
        gates=gates(section, scores),
        decoding=f"greedy, at most {section.max_new_tokens} new tokens",
        bootstrap=f"{RESAMPLES} paired resamples of documents, seed {recipe.seed}, window {section.max_length} tokens",
        seconds=time.monotonic() - begun,
        pairs=pairs,
        base_measured_on=tuple(sorted(kept.days)),
    )


def _costs(
    model: Any,
    text_format: TextFormat,
    held_out: HeldOutTexts,
    section: Evaluate,
    tick: Tick,
    kept: BaseScores | None,
) -> list[TextCost]:
    """Of the model as it is, or of the base where ``kept`` may know them already."""
    start = text_format.bos if text_format.bos is not None else text_format.eos
    which = "adapter" if kept is None else "base"

    def measure() -> list[TextCost]:
        return text_costs(
            model,
            text_format.tokenizer,
            held_out.texts,
            start_token=start,
            max_length=section.max_length,
            tick=lambda done, of: tick(f"{held_out.card.card.id} {which}", done, of),
        )

    if kept is None:
        return measure()
    asked = {"tokenizer": text_format.tokenizer_sha256, "start": start, "window": section.max_length}
    return kept.costs(held_out.texts, asked, measure)


def _score(held_out: HeldOutTexts, before: list[TextCost], after: list[TextCost], seed: int) -> TextScore:
    num_bytes = np.array([cost.bytes for cost in before], dtype=np.float64)
    result = compare(
        np.array([cost.bits for cost in before]),
        np.array([cost.bits for cost in after]),
        num_bytes,
        seed=seed,
    )
    return TextScore(
        name=held_out.card.card.title,
        language=held_out.language,
        role=held_out.wish.role,
        card_id=held_out.card.card.id,
        sha256=held_out.sha256,
        documents=len(before),
        bytes=int(num_bytes.sum()),
        tokens=sum(cost.tokens for cost in before),
        base=result.before.value,
        base_interval=(result.before.low, result.before.high),
        adapter=result.after.value,
        adapter_interval=(result.after.low, result.after.high),
        change_percent=result.change_percent.value,
        change_interval=(result.change_percent.low, result.change_percent.high),
    )


def _samples(
    recipe: Recipe, model: Any, text_format: TextFormat, tick: Tick, kept: BaseScores
) -> tuple[SampleAnswer, ...]:
    prompts, limit = recipe.evaluate.prompts, recipe.evaluate.max_new_tokens
    if not prompts:
        return ()

    def answers() -> list[str]:
        return greedy_answers(model, text_format, prompts, max_new_tokens=limit)

    tick("sample answers", 0, 2)
    asked = {
        "tokenizer": text_format.tokenizer_sha256,
        "template": text_format.template_sha256,
        "new_tokens": limit,
    }
    with model.disable_adapter():
        before = kept.answers(prompts, asked, answers)
    tick("sample answers", 1, 2)
    after = answers()
    tick("sample answers", 2, 2)
    return tuple(
        SampleAnswer(language=recipe.language, prompt=prompt, base=old, adapter=new)
        for prompt, old, new in zip(prompts, before, after, strict=True)
    )


def gates(section: Evaluate, scores: list[TextScore]) -> tuple[GateResult, ...]:
    """Which of the recipe's limits hold."""
    results = []
    for score in scores:
        if score.role == "replay" and section.fail_if_replay_rises is not None:
            limit = section.fail_if_replay_rises
            name = f"{score.card_id}: bits per byte may rise by at most {limit:g} %"
            results.append(
                GateResult(
                    name=name,
                    limit=limit,
                    measured=score.change_percent,
                    passed=score.change_percent <= limit,
                )
            )
        if score.role == "target" and section.fail_if_target_falls_less is not None:
            limit = section.fail_if_target_falls_less
            name = f"{score.card_id}: bits per byte must fall by at least {limit:g} %"
            results.append(
                GateResult(
                    name=name,
                    limit=limit,
                    measured=-score.change_percent,
                    passed=-score.change_percent >= limit,
                )
            )
    return tuple(results)


def prepare_attention(model: Any, fast: bool) -> None:
    """Choose the attention the text measurement runs with (answers switch to their own)."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if fast:
        attention.register()
    causal.set_attn_implementation(attention.NAME if fast else "sdpa")
