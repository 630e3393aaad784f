"""Documents of all sources of a recipe in one stream, each with its source and language, curated or as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune.data.card import LoadedCard
from sovtune.data.document import Incoming, Stream
from sovtune.data.sources import SourceRequest, read_documents
from sovtune.recipe import DataSource, Recipe

if TYPE_CHECKING:
    from sovtune.data.gate_report import DataGateReport

Sources = Sequence[tuple[DataSource, LoadedCard]]
"""What the recipe asks of each card, and the card."""


@contextmanager
def incoming(
    recipe: Recipe, sources: Sources, work_dir: Path
) -> Iterator[tuple[Stream, DataGateReport | None]]:
    """Every document, through the data gate when the recipe has a ``curate`` section; and the gate's report.

    Args:
        recipe: with card paths resolved.
        sources: its sources.
        work_dir: folder of the gate's finished shards.

    Raises:
        DataRefused: a file or a row is bad; also while the stream is read.
    """
    from sovtune.data.curation import curated_stream

    if recipe.curate is not None:
        with curated_stream(recipe, recipe.curate, sources, work_dir) as (stream, report):
            yield stream, report
        return
    counts = tuple(Counter[str]() for _ in sources)
    yield Stream(documents=_as_they_are(recipe, sources, counts), counts=counts), None


def _as_they_are(recipe: Recipe, sources: Sources, counts: tuple[Counter[str], ...]) -> Iterator[Incoming]:
    from sovtune.data.curation import candidates, main_language
    from sovtune.data.document import joined
    from sovtune.data.language import identify_document

    tags = candidates(recipe, [loaded for _, loaded in sources])
    for place, (wish, loaded) in enumerate(sources):
        request = SourceRequest(split=wish.split, max_rows=wish.max_rows, on_bad_row=wish.on_bad_row)
        for document in read_documents(loaded, request, counts[place]):
            measured = identify_document(joined(document), tags).tag
            yield Incoming(source=place, document=document, language=main_language(measured, loaded))
