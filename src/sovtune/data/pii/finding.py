"""What a finder reports: a kind and a place, never the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One personal datum in a text.

    Attributes:
        kind: one of `sovtune.data.pii.KINDS`.
        start: first character, counted in the text that was searched.
        end: one past the last character.
        confidence: ``high``: a check digit of weight or a label says so; ``medium``: the shape and the
            language of the corpus; ``low``: right in shape, but an address reserved for examples.
    """

    kind: str
    start: int
    end: int
    confidence: Confidence
