"""The preference section with nothing left open: the usual values of each method, and what the method is."""

from __future__ import annotations

from dataclasses import dataclass

from sovtune.recipe import Preference, Recipe

PREFERENCE = ("dpo", "kto", "orpo", "simpo")
BETA = {"dpo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}
"""Usual beta: 0.1 for DPO and KTO (their papers), lambda 0.1 for ORPO (its paper), 2.0 for SimPO (its paper)."""
MARGIN = 1.0
"""Usual target margin of SimPO: half of beta 2.0, within the 0.3 to 1.6 times its paper tried."""
WITH_REFERENCE = ("dpo", "kto")
"""Methods that compare the model with what it was as training began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings:
    """What ``preference`` says and what is usual where it says nothing (see ``recipe.Preference``)."""

    method: str
    beta: float
    margin: float
    label_smoothing: float
    sft_weight: float
    desirable_weight: float
    undesirable_weight: float


def preference_settings(recipe: Recipe) -> PreferenceSettings | None:
    """The settings of a preference method; None for sft and cpt."""
    if recipe.method not in PREFERENCE:
        return None
    section = recipe.preference or Preference()

    def either(value: float | None, usual: float) -> float:
        return usual if value is None else value

    return PreferenceSettings(
        method=recipe.method,
        beta=either(section.beta, BETA[recipe.method]),
        margin=either(section.margin, MARGIN if recipe.method == "simpo" else 0.0),
        label_smoothing=section.label_smoothing,
        sft_weight=section.sft_weight,
        desirable_weight=either(section.desirable_weight, 1.0),
        undesirable_weight=either(section.undesirable_weight, 1.0),
    )
