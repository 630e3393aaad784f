"""Implicit rewards of an optimizer step: gathered micro-batch by micro-batch, written down as means."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class RewardSums:
    """Sums and counts of the step under way; ``right`` counts comparisons or verdicts that the rewards agree with."""

    chosen: float = 0.0
    num_chosen: int = 0
    rejected: float = 0.0
    num_rejected: int = 0
    right: int = 0
    judged: int = 0

    def add(self, chosen: Tensor, rejected: Tensor, *right: Tensor) -> None:
        """Rewards of good and of bad answers, and for each comparison or answer whether they fit the verdict."""
        self.chosen += float(chosen.sum())
        self.num_chosen += chosen.numel()
        self.rejected += float(rejected.sum())
        self.num_rejected += rejected.numel()
        self.right += sum(int(part.sum()) for part in right)
        self.judged += sum(part.numel() for part in right)

    def means(self) -> dict[str, float]:
        """Metrics of the step by name, without those that a step without good or without bad answers lacks."""
        found: dict[str, float] = {}
        if self.num_chosen:
            found["reward_chosen"] = self.chosen / self.num_chosen
        if self.num_rejected:
            found["reward_rejected"] = self.rejected / self.num_rejected
        if self.num_chosen and self.num_rejected:
            found["reward_margin"] = found["reward_chosen"] - found["reward_rejected"]
        if self.judged:
            found["reward_accuracy"] = self.right / self.judged
        return found
