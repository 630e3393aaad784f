"""The data gate inside a run: the recipe's `curate:` section and cards -> curated documents of each source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sovtune.data.caches import forget_old_shards
from sovtune.data.card import LoadedCard, chosen_files, load_card
from sovtune.data.clean import CleanPolicy
from sovtune.data.document import Incoming, Stream
from sovtune.data.entries import files_of
from sovtune.data.gate import Curated, curate
from sovtune.data.gate_ray_cluster import RayCluster
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_report import DataGateReport
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.data.language import UNDECIDED
from sovtune.data.quality import Thresholds
from sovtune.data.sources import DROPPED, ROWS_READ, SourceRequest, read_documents
from sovtune.errors import DataRefused
from sovtune.recipe import DataSource, HeldOut, Recipe
from sovtune.recipe_curate import Curate


def candidates(recipe: Recipe, cards: Sequence[LoadedCard]) -> tuple[str, ...]:
    """The languages that documents may be in: the recipe's own first, then those of its cards and its mixture."""
    named = [language.tag for card in cards for language in card.card.languages]
    return tuple(dict.fromkeys([recipe.language, *named, *(recipe.mix.languages if recipe.mix else ())]))


def main_language(measured: str, loaded: LoadedCard) -> str:
    """A document's language: the measured one, or the card's first when too few letters say anything."""
    if measured not in ("", UNDECIDED):
        return measured
    return max(loaded.card.languages, key=lambda language: language.share).tag


def gate_settings(section: Curate, recipe: Recipe, cards: Sequence[LoadedCard]) -> GateSettings:
    """The gate's settings for a recipe: every language that the recipe, its mixture or a card names is accepted."""
    accepted = candidates(recipe, cards)
    policies: dict[str, Thresholds | Percentiles | None] = {
        "fixed": Thresholds(), "percentiles": Percentiles(), "off": None,
    }  # fmt: skip
    return GateSettings(
        language=recipe.language,
        candidates=accepted,
        accepted=accepted,
        min_language_share=section.min_language_share,
        normalise=CleanPolicy(
            languages=accepted,
            tatweel=section.tatweel,
            tashkeel=section.tashkeel,
            visual_order=section.visual_order,
            chinese=section.chinese,
        ),
        check_language=section.check_language,
        quality=policies[section.quality],
        duplicates=section.duplicates,
        duplicate_threshold=section.duplicate_threshold,
        personal_data=section.personal_data,
        secrets=section.secrets,
        contamination=section.contamination,
    )


@contextmanager
def curated_stream(
    recipe: Recipe, section: Curate, sources: Sequence[tuple[DataSource, LoadedCard]], work_dir: Path
) -> Iterator[tuple[Stream, DataGateReport]]:
    """Put all sources through the gate at once: duplicates are found across them, and against held-out text.

    Args:
        recipe: with card paths resolved.
        section: its ``curate`` section.
        sources: what the recipe asks of each card, and the card.
        work_dir: folder of finished shards, used again after a kill; it is held until the documents are read.

    Raises:
        DataRefused: a row does not fit its card and the source says ``on_bad_row: error``.
        EnvironmentFault: see ``curate``.
    """
    files: list[GateSource] = []
    owner: dict[str, int] = {}
    for place, (wish, loaded) in enumerate(sources):
        for source in _gate_sources(loaded, wish.split):
            files.append(source)
            owner[source.file.shown] = place
    held_out = [source for wish in recipe.evaluate.held_out for source in _held_out(wish)]
    settings = gate_settings(section, recipe, [loaded for _, loaded in sources])
    launch = recipe.launch
    cluster = RayCluster(address=launch.ray_address) if launch.data_engine == "ray" else None
    with curate(
        files, settings, work_dir, held_out=held_out, workers=launch.data_workers, cluster=cluster
    ) as curated:
        counts = tuple(Counter[str]() for _ in sources)
        yield Stream(documents=_kept(curated, sources, owner, counts), counts=counts), curated.report
        forget_old_shards(work_dir)  # only now, when this run has marked its own as used


def _kept(
    curated: Curated,
    sources: Sequence[tuple[DataSource, LoadedCard]],
    owner: dict[str, int],
    counts: tuple[Counter[str], ...],
) -> Iterator[Incoming]:
    kept = [0] * len(sources)
    for row in curated.rows():
        place = owner[row.file]
        wish, loaded = sources[place]
        if row.step == "read" and row.reason is not None and wish.on_bad_row == "error":
            _raise_bad_row(wish, loaded, f"{row.file}:{row.row} ({row.reason})")
        counts[place][ROWS_READ] += 1
        if row.document is None:
            counts[place][f"{DROPPED}{row.reason}"] += 1
        elif wish.max_rows is None or kept[place] < wish.max_rows:
            kept[place] += 1
            language = main_language(row.language, loaded)
            yield Incoming(source=place, document=row.document, language=language)


def _gate_sources(loaded: LoadedCard, split: str | None) -> list[GateSource]:
    """The files of a card, named ``card/file`` so that two cards may have files of one name."""
    card = loaded.card
    return [
        GateSource(file=replace(file, shown=f"{card.id}/{file.shown}"), format=card.format, card=card.id)
        for _, entry in chosen_files(loaded, split)
        for file in files_of(card, entry, loaded.folder)
    ]


def _held_out(wish: HeldOut) -> list[GateSource]:
    return _gate_sources(load_card(Path(wish.card)), None)


def _raise_bad_row(wish: DataSource, loaded: LoadedCard, where: str) -> None:
    """Read the source again the strict way: its error names the row, the field and what was expected."""
    request = SourceRequest(split=wish.split, max_rows=wish.max_rows, on_bad_row="error")
    for _ in read_documents(loaded, request, Counter()):
        pass
    raise DataRefused(
        "a row cannot be read", where=where, fix="correct it, or write `on_bad_row: drop` in the recipe"
    )
