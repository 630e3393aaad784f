"""Greedy answers to prompts, for eyes rather than statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sovtune.data.document import Message
from sovtune.data.template import TextFormat


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
    answers = []
    for prompt in prompts:
        text = prompt
        if text_format.template is not None:
            text = text_format.template.render([Message("user", prompt)], add_generation_prompt=True)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids], device=model.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=stops or None,
                pad_token_id=stops[0] if stops else 0,
            )
        new = [token for token in out[0, ids.shape[1] :].tolist() if token not in stops]
        # The length limit may fall inside a character of several bytes; half a character is no text.
        answers.append(tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd").strip())
    return answers
