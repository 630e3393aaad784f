"""The data stage's record: what was read, dropped, taken and packed, by source and by language."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sovtune.data.arrow_rows import Documents
from sovtune.data.card import LoadedCard
from sovtune.data.gate_report import DataGateReport
from sovtune.data.mix import Asked, check_reached, language_group
from sovtune.data.pack import Integers, Lengths, Packed, RowLimit
from sovtune.data.sources import ROWS_READ, dropped_rows
from sovtune.data.template import TextFormat
from sovtune.recipe import DataSource, Recipe
from sovtune.records import DataReport, DataSetRecord, FileHash, LanguageRecord

OVERLAP_REASONS = ("contamination", "exact_duplicate_of_heldout", "near_duplicate_of_heldout")
"""Reasons of the gate that mean: this document shares text with a held-out set."""
MANY_CUT = 0.05
"""Share of tokens lost to dropped documents above which the report warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """One card of the recipe with what verification found."""

    wish: DataSource
    loaded: LoadedCard
    files: tuple[FileHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What was taken of the documents, and how it lies in rows.

    Attributes:
        asked: the recipe's wishes.
        documents: all that could be taken.
        chosen: those taken, one that is seen twice stands twice.
        packed: rows of places in ``chosen``.
    """

    asked: Asked
    documents: Documents
    chosen: Integers
    packed: Packed

    @property
    def in_rows(self) -> Integers:
        """The documents as they lie in the rows."""
        return self.chosen[self.packed.members]

    def tokens_by_source(self, members: Integers | slice) -> Integers:
        """Tokens of some documents, by source."""
        weights, number = self.documents.lengths[members], len(self.asked.names)
        return _sums(self.documents.sources[members], weights, number)

    def tokens_by_language(self, members: Integers | slice) -> dict[str, int]:
        """Tokens of some documents by measured language; those of the mixture by the name they have there."""
        weights, tags = self.documents.lengths[members], self.documents.tags
        sums = _sums(self.documents.languages[members], weights, len(tags))
        found: Counter[str] = Counter()
        for tag, tokens in zip(tags, sums.tolist(), strict=True):
            found[self.name_of(tag)] += tokens
        return dict(found)

    def name_of(self, tag: str) -> str:
        """The name of a measured language among those of the mixture, else its own tag."""
        names = list(self.asked.languages)
        place = language_group(tag, names)
        return names[place] if place >= 0 else tag

    def check(self) -> None:
        """Hold what lies in the rows to the shares asked for.

        Raises:
            DataRefused: a share is further off than the tolerance.
        """
        by_language = self.tokens_by_language(self.in_rows)
        languages = np.array([by_language.get(tag, 0) for tag in self.asked.languages], dtype=np.int64)
        longest = int(self.documents.lengths[self.chosen].max())
        check_reached(self.asked, self.tokens_by_source(self.in_rows), languages, longest)


def _sums(groups: npt.NDArray[np.int16], weights: Lengths, number: int) -> Integers:
    return np.bincount(groups, weights=weights, minlength=number).astype(np.int64)


def make_report(
    recipe: Recipe,
    sources: Sequence[OpenedSource],
    mixture: Mixture,
    counts: Sequence[Counter[str]],
    limit: RowLimit,
    text_format: TextFormat,
    key: str,
) -> DataReport:
    """The record of one preparation.

    Args:
        recipe: with card paths resolved.
        sources: its cards.
        mixture: what was taken and packed.
        counts: rows read and dropped, by source.
        limit: what became of overlong documents.
        text_format: tokenizer and template.
        key: of the cache.
    """
    documents, in_rows = mixture.documents, mixture.in_rows
    tokens = int(documents.lengths[in_rows].sum())
    held = int(documents.lengths.sum())
    warnings = []
    if limit.tokens_cut > MANY_CUT * (held + limit.tokens_cut):
        lost = 100 * limit.tokens_cut / (held + limit.tokens_cut)
        warnings.append(f"{lost:.0f} % of all tokens were lost to rows.max_length")
    rows, max_length = len(mixture.packed), recipe.train.rows.max_length
    return DataReport(
        cache_key=key,
        datasets=_data_sets(sources, mixture, counts),
        documents=len(in_rows),
        rows=rows,
        tokens=tokens,
        supervised_tokens=int(documents.supervised[in_rows].sum()),
        max_length=max_length,
        longest_document=int(documents.lengths[in_rows].max()),
        overlong=dict(limit.counts),
        tokens_cut=limit.tokens_cut,
        row_fill=tokens / (rows * max_length),
        template_sha256=text_format.template_sha256,
        template_source=text_format.template_source if recipe.method != "cpt" else "none",
        tokenizer_sha256=text_format.tokenizer_sha256,
        stop_token=text_format.stop_token,
        warnings=tuple(warnings),
        languages=_languages(mixture),
    )


def with_gate(
    report: DataReport, gate: DataGateReport, mixture: Mixture, *, looked_for_overlap: bool
) -> DataReport:
    """The record with what the data gate found.

    Args:
        report: the record.
        gate: the gate's own report.
        mixture: what was taken; names the languages.
        looked_for_overlap: whether documents were compared with held-out sets.
    """
    before: defaultdict[str, float] = defaultdict(float)
    for tag, share in gate.languages_before.items():
        before[mixture.name_of(tag)] += share
    overlap = sum(count for reason, count in gate.dropped.items() if reason in OVERLAP_REASONS)
    return replace(
        report,
        curated=True,
        overlap_dropped=overlap if looked_for_overlap else None,
        masked=gate.personal_data,
        languages=tuple(replace(one, share_before=before[one.tag]) for one in report.languages),
    )


def _data_sets(
    sources: Sequence[OpenedSource], mixture: Mixture, counts: Sequence[Counter[str]]
) -> tuple[DataSetRecord, ...]:
    documents, in_rows = mixture.documents, mixture.in_rows
    held = mixture.tokens_by_source(slice(None)).tolist()
    taken = mixture.tokens_by_source(in_rows).tolist()
    owners = documents.sources[in_rows]
    supervised = _sums(owners, documents.supervised[in_rows], len(sources)).tolist()
    found = []
    for place, source in enumerate(sources):
        card = source.loaded.card
        found.append(
            DataSetRecord(
                card_id=card.id,
                version=str(card.version),
                title=card.title,
                licence=card.licence.expression,
                languages={language.tag: language.share for language in card.languages},
                source="; ".join(dict.fromkeys(entry.kind for entry in card.sources)),
                personal_data=card.personal_data.contains,
                files=source.files,
                rows_read=counts[place][ROWS_READ],
                rows_used=len(np.unique(documents.rows[in_rows[owners == place]])),
                dropped=dropped_rows(counts[place]),
                tokens=taken[place],
                supervised_tokens=supervised[place],
                share_asked=source.wish.share,
                share_reached=taken[place] / sum(taken),
                tokens_available=held[place],
            )
        )
    return tuple(found)


def _languages(mixture: Mixture) -> tuple[LanguageRecord, ...]:
    held, taken = mixture.tokens_by_language(slice(None)), mixture.tokens_by_language(mixture.in_rows)
    all_held, all_taken = sum(held.values()), sum(taken.values())
    records = [
        LanguageRecord(
            tag=tag,
            share_asked=mixture.asked.languages.get(tag),
            tokens_available=tokens,
            share_available=tokens / all_held,
            tokens=taken[tag],
            share_reached=taken[tag] / all_taken,
        )
        for tag, tokens in held.items()
    ]
    return tuple(sorted(records, key=lambda record: (-record.tokens, -record.tokens_available, record.tag)))
