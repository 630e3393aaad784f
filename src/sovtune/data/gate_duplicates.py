"""The search for duplicates among all shards of a run: which rows take part, and how one machine does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sovtune.data.dedup import Duplicate, Member, Sketch
from sovtune.data.duplicate_index import find_clusters
from sovtune.data.gate_shard import Feature, Shard
from sovtune.data.gate_verdicts import Verdict
from sovtune.data.quality import Thresholds, judge

HELD_OUT = -1
"""Number of the held-out texts among the shards: they come before all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Shards in the order of the input, sketches of held-out texts, and what counts as a duplicate.

    With ``limits`` (percentiles of the corpus) rows outside them are dropped first and take no part.
    """

    shards: tuple[Shard, ...]
    held_out: tuple[Sketch, ...]
    limits: Thresholds | None
    threshold: float

    def outside(self) -> Iterator[Verdict]:
        """A verdict on every row outside the limits, in the order of the input."""
        for shard in self.shards if self.limits else ():
            for feature in shard.features():
                reason = self._fault(feature)
                if reason is not None:
                    yield Verdict(shard.base + feature.place, "quality", reason, None, 0.0)

    def _fault(self, feature: Feature) -> str | None:
        return judge(feature.measures, self.limits) if self.limits and feature.measures else None

    def members(self, number: int) -> Iterator[tuple[int, Member]]:
        """The rows of a shard that take part, each with the place of its signature in the shard's file.

        Args:
            number: the shard's place in ``shards``, or ``HELD_OUT``; held-out text number n is row -1 - n. The
                place of a row without signature means nothing.
        """
        if number == HELD_OUT:
            for place, sketch in enumerate(self.held_out):
                yield place, Member(-1 - place, sketch, held_out=True)
            return
        shard = self.shards[number]
        place = 0
        for feature in shard.features():
            if self._fault(feature) is None:
                yield place, Member(shard.base + feature.place, feature.sketch)
            place += feature.sketch.signature is not None


def local_duplicates(search: Search, folder: Path) -> Iterator[Duplicate]:
    """Rows to drop, in the order of the input.

    Raises:
        EnvironmentFault: the index cannot be written below ``folder``.
    """
    rows = (
        (member.row, member.sketch, member.held_out)
        for number in range(HELD_OUT, len(search.shards))
        for _, member in search.members(number)
    )
    return find_clusters(rows, folder / "duplicates", threshold=search.threshold)
