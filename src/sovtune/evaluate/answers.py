"""Greedy answers to prompts, for eyes rather than statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sovtune.data.document import Message
from sovtune.data.template import TextFormat

PROMPTS_AT_ONCE = 8
"""Prompts answered together: a step restores every 4-bit weight, however many answers it writes on."""


def greedy_answers(
    model: Any, text_format: TextFormat, prompts: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """One answer per prompt, decoded greedily until the stop token or ``max_new_tokens``.

    A base with a chat template gets the prompt as a user turn; one without gets it as text to go on from.
    """
    tokenizer = text_format.tokenizer
    stop = tokenizer.token_to_id(text_format.stop_token) if text_format.stop_token else None
    stops = [token for token in {stop, text_format.eos} if token is not None]
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    causal.set_attn_implementation("sdpa")  # growing key/value caches; the flat-row attention has none
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        rows = [_prompt_ids(text_format, prompt) for prompt in prompts[start : start + PROMPTS_AT_ONCE]]
        for new in _continued(model, rows, stops, max_new_tokens):
            # The length limit may fall inside a character of several bytes; half a character is no text.
            text = tokenizer.decode(new, skip_special_tokens=True)
            answers.append(text.rstrip("\ufffd").strip())
    return answers


def _prompt_ids(text_format: TextFormat, prompt: str) -> list[int]:
    text = prompt
    if text_format.template is not None:
        text = text_format.template.render([Message("user", prompt)], add_generation_prompt=True)
    ids: list[int] = text_format.tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _continued(
    model: Any, rows: Sequence[list[int]], stops: Sequence[int], max_new_tokens: int
) -> Iterator[list[int]]:
    """What follows each row, without stop tokens. Rows are padded on the left, which positions and mask account for."""
    longest = max(map(len, rows))
    pad = stops[0] if stops else 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=list(stops) or None,
            pad_token_id=pad,
        )
    for new in out[:, longest:].tolist():
        ends = [place for place, token in enumerate(new) if token in stops]
        yield new[: ends[0]] if ends else new
