"""The recipe's section for distillation: a larger model's probabilities beside the text."""

from __future__ import annotations

from pydantic import Field

from sovtune.recipe_base import Base
from sovtune.section import SHARE, Section, unit


class Distil(Section):
    """Learning from a teacher: at each place of the text from the next tokens that a larger model finds likely."""

    teacher: Base
    """The larger model, with the tokens of the base; it is read once and never trained."""
    weight: float = Field(default=0.5, gt=0, le=1, json_schema_extra=SHARE)
    """Share of the loss that follows the teacher; the rest follows the text."""
    temperature: float = Field(default=1.0, ge=0.1, le=20)
    """Above 1 unlikely tokens count for more, in teacher and model alike (arXiv 1503.02531)."""
    top: int = Field(default=64, ge=1, le=1024, json_schema_extra=unit("tokens"))
    """Likeliest next tokens that are kept of the teacher at each place; all others count as one."""
