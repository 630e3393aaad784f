"""Bits per byte with bootstrap intervals over documents; the comparison of two models is paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap resamples; the error of a 95 % limit is then far below the width of any interval seen here."""
LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Bits per byte before and after, and the change in percent of before (negative is better)."""

    before: Estimate
    after: Estimate
    change_percent: Estimate


def _resampled_sums(values: Floats, picks: npt.NDArray[np.int64]) -> Floats:
    sums: Floats = values[picks].sum(axis=1)
    return sums


def compare(before_bits: Floats, after_bits: Floats, num_bytes: Floats, *, seed: int) -> Comparison:
    """Compare two models on the same documents.

    Args:
        before_bits: bits each document costs under the first model, [documents].
        after_bits: the same under the second model.
        num_bytes: UTF-8 bytes of each document.
        seed: of the resampling.

    Both models see the same resampled documents, so what is hard about a document cancels out of the change. The
    value is a ratio of sums, not a mean of ratios: long documents count by their length.
    """
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(num_bytes), size=(RESAMPLES, len(num_bytes)))
    totals = _resampled_sums(num_bytes, picks)
    before = _resampled_sums(before_bits, picks) / totals
    after = _resampled_sums(after_bits, picks) / totals
    whole = float(num_bytes.sum())
    value_before, value_after = float(before_bits.sum()) / whole, float(after_bits.sum()) / whole
    return Comparison(
        before=_estimate(value_before, before),
        after=_estimate(value_after, after),
        change_percent=_estimate(100 * (value_after / value_before - 1), 100 * (after / before - 1)),
    )


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.percentile(resampled, LEVEL)
    return Estimate(value=value, low=float(low), high=float(high))
