"""The data gate's steps and reasons in words, the same on the terminal, in its own page and in the run's report."""

from __future__ import annotations

STEP_NAMES = {
    "read": "Read and decode",
    "normalise": "Normalise",
    "language": "Language",
    "quality": "Quality",
    "personal_data": "Personal data",
    "secrets": "Secrets",
    "contamination": "Held-out text",
    "duplicates": "Duplicates",
}
REASONS = {
    "not_json": "not JSON",
    "missing_field": "no field with text",
    "not_in_mix": "in none of the languages of the mixture",
    "not_renderable": "cannot be rendered for this method",
    "too_long": "longer than any document",
    "mojibake": "unreadable after wrong decoding",
    "visual_order": "Arabic in visual order",
    "wrong_language": "another language",
    "wrong_script": "another script",
    "bad_characters": "unreadable characters",
    "noise": "noise (does not compress)",
    "personal_data": "personal data",
    "secret": "a credential",
    "contamination": "shares text with held-out data",
    "exact_duplicate": "the same as another row",
    "near_duplicate": "nearly the same as another row",
    "exact_duplicate_of_heldout": "the same as a held-out row",
    "near_duplicate_of_heldout": "nearly the same as a held-out row",
}


def reason_in_words(reason: str) -> str:
    """A reason as a person reads it."""
    return REASONS.get(reason, reason.replace("_", " "))
