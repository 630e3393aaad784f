"""The recipe's section for the data gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.section import SHARE, Section


class Curate(Section):
    """The data gate: what is dropped, repaired or masked before training. Write ``curate: {}`` for the defaults."""

    check_language: bool = True
    """Drop documents that are in none of the languages that the recipe and its data cards name."""
    min_language_share: float = Field(default=0.5, gt=0, le=1, json_schema_extra=SHARE)
    """Share of a document's letters that must be in one of these languages."""
    tashkeel: Literal["keep", "strip"] = "keep"
    """Arabic vowel marks."""
    tatweel: Literal["keep", "strip"] = "strip"
    """The Arabic stretching character."""
    visual_order: Literal["drop", "repair", "keep"] = "drop"
    """Reversed Arabic, as PDF extraction leaves it."""
    chinese: Literal["keep", "s2t", "t2s"] = "keep"
    """Convert simplified to traditional characters or back; needs the extra sovtune[zh]."""
    quality: Literal["fixed", "percentiles", "off"] = "fixed"
    """Limits on repetition, symbols and broken characters: fixed, or the tails of this corpus."""
    duplicates: bool = True
    """Drop exact and near-duplicates across all sources, and of held-out text."""
    duplicate_threshold: float = Field(default=0.7, ge=0.5, le=1, json_schema_extra=SHARE)
    """Similarity (Jaccard index of character 5-grams) from which two texts are near-duplicates."""
    personal_data: Literal["off", "report", "mask", "drop"] = "mask"
    """Phone numbers, e-mail, cards, national identifiers: count, replace by a placeholder, or drop the document."""
    secrets: Literal["mask", "drop"] = "mask"
    """Keys, tokens, passwords in addresses."""
    contamination: bool = True
    """Drop documents that share a run of text with a held-out set under evaluate.texts."""
