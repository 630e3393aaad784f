"""The data stage: cards -> documents -> rendered, masked, mixed, packed rows in an Arrow file keyed by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sovtune.data.arrow_rows import Documents, DocumentStore, write_rows
from sovtune.data.card import chosen_files, load_card, verify_files
from sovtune.data.chat import Rendered
from sovtune.data.document import Incoming, Stream
from sovtune.data.gate_report import DataGateReport
from sovtune.data.incoming import incoming
from sovtune.data.judged import check_verdicts
from sovtune.data.mix import asked_of, choose, language_group
from sovtune.data.mixture_report import Mixture, OpenedSource, make_report, with_gate
from sovtune.data.pack import RowLimit, one_each, pack
from sovtune.data.permission import enforce
from sovtune.data.render import render
from sovtune.data.sources import DROPPED, dropped_rows
from sovtune.data.template import TextFormat, read_format
from sovtune.errors import DataRefused
from sovtune.recipe import Recipe
from sovtune.records import DataReport, read_record, to_json

ROWS, REPORT, GATE = "rows.arrow", "data.json", "gate.json"
# Raise when rows come out differently for the same input, so that old caches are not taken for new ones.
PREPARATION = "2"
NOT_IN_MIX = DROPPED + "not_in_mix"
"""Count of rows whose language is none of ``mix.languages``."""
_TOLD_EVERY = 1000
Progress = Callable[[int, int], None]
"""Called now and then with documents rendered so far, and rows in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """Rows on disk and the report about them."""

    rows_file: Path
    report: DataReport


def prepare(
    recipe: Recipe, *, base_folder: Path, base_hash: str, cache: Path, progress: Progress | None = None
) -> PreparedData:
    """Make the training rows, or find them in the cache; of runs that need the same ones at once the first makes them.

    Documents go through one by one; a few numbers each stay in memory, so it does not grow with their text.

    Args:
        recipe: with card paths resolved.
        base_folder: the base's tokenizer and template.
        base_hash: content hash of the base, part of the cache key.
        cache: folder of caches.
        progress: told while documents are rendered.

    Raises:
        DataRefused: a card does not fit its files, rows are bad, nothing carries loss, or shares cannot be met.
        EnvironmentFault: the cache cannot be written.
    """
    found, sources = find_prepared(recipe, base_hash=base_hash, cache=cache)
    if found is not None:
        return found
    from filelock import FileLock

    key = cache_key(recipe, sources, base_hash)
    target = _place(cache, key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not (target / REPORT).is_file():  # another run may have made them while this one waited
            _fill(target, lambda part: _make(recipe, sources, read_format(base_folder), key, part, progress))
    return _prepared(recipe, sources, target)


def _fill(target: Path, make: Callable[[Path], tuple[DataReport, DataGateReport | None]]) -> None:
    """Rows are made beside their place, and put there with one rename."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        report, gate = make(part)
        if gate is not None:
            (part / GATE).write_text(to_json(gate), encoding="utf-8")
        (part / REPORT).write_text(to_json(report), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def find_prepared(
    recipe: Recipe, *, base_hash: str, cache: Path
) -> tuple[PreparedData | None, list[OpenedSource]]:
    """Rows that were made before for exactly this input, or None; and the verified cards in either case.

    Raises:
        DataRefused: a card does not fit its files.
    """
    sources = _open_cards(recipe)
    target = _place(cache, cache_key(recipe, sources, base_hash))
    if not (target / REPORT).is_file():
        return None, sources
    return _prepared(recipe, sources, target), sources


def _prepared(recipe: Recipe, sources: list[OpenedSource], target: Path) -> PreparedData:
    """Finished rows, and their report with what the cards state and who answered for what."""
    from sovtune.data.declared import with_statements

    gate = read_record(DataGateReport, target / GATE) if (target / GATE).is_file() else None
    report = read_record(DataReport, target / REPORT)
    pairs = [(source.wish, source.loaded) for source in sources]
    return PreparedData(rows_file=target / ROWS, report=with_statements(report, recipe, pairs, gate))


def _place(cache: Path, key: str) -> Path:
    return cache / "data" / key[:32]


def _open_cards(recipe: Recipe) -> list[OpenedSource]:
    cards = [load_card(Path(wish.card)) for wish in recipe.data]
    overruled = enforce(recipe, cards).overruled()
    return [
        OpenedSource(wish=wish, loaded=loaded, files=verify_files(loaded, wish.split, overruled=overruled))
        for wish, loaded in zip(recipe.data, cards, strict=True)
    ]


def cache_key(recipe: Recipe, sources: list[OpenedSource], base_hash: str) -> str:
    """SHA-256 over everything that decides the rows: contents, cards, settings, base, code version."""
    content = {
        "preparation": PREPARATION,
        "base": base_hash,
        "language": recipe.language,
        "method": recipe.method,
        "rows": recipe.train.rows.model_dump(),
        "seed": recipe.seed,
        "mix": _mix_key(recipe),
        "curate": _gate_key(recipe),
        "sources": [
            {
                "wish": source.wish.model_dump(exclude={"card"}),
                "card": source.loaded.card.model_dump(mode="json"),
                "files": [file.sha256 for file in source.files],
            }
            for source in sources
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _mix_key(recipe: Recipe) -> object:
    """What the size of the mixture depends on; without shares everything is taken, however long the run is."""
    asked = asked_of(recipe, [source.card for source in recipe.data])
    if not asked.anything:
        return None
    train = recipe.train
    length = {"steps": train.steps, "tokens": train.tokens, "batch_tokens": train.batch_tokens}
    epochs = train.epochs is not None
    return [recipe.mix.model_dump() if recipe.mix else None, "epochs" if epochs else length]


def _gate_key(recipe: Recipe) -> list[str] | None:
    """What the gate's verdicts depend on besides the data: settings, code, held-out files."""
    if recipe.curate is None:
        return None
    from sovtune.data.gate_settings import code_version

    held_out = [
        verify_files(load_card(Path(wish.card)), None, for_training=False)
        for wish in recipe.evaluate.held_out
    ]
    return [
        recipe.curate.model_dump_json(),
        code_version(),
        *(file.sha256 for files in held_out for file in files),
    ]


def _make(
    recipe: Recipe,
    sources: list[OpenedSource],
    text_format: TextFormat,
    key: str,
    folder: Path,
    progress: Progress | None,
) -> tuple[DataReport, DataGateReport | None]:
    """Write the rows into a folder of their own."""
    names = [source.loaded.card.id for source in sources]
    pairs = [(source.wish, source.loaded) for source in sources]
    store = DocumentStore(folder, names)
    with incoming(recipe, pairs, folder.parent.parent / "gate") as (stream, gate):
        if gate is not None:
            from sovtune.data.declared import compare_all

            compare_all(recipe, pairs, gate)
        limit = _render_all(recipe, sources, stream, text_format, store, progress)
    mixture = _mix(recipe, names, store.documents(), stream)
    write_rows(store, mixture.documents, mixture.chosen, mixture.packed, folder / ROWS)
    store.remove()
    report = make_report(recipe, sources, mixture, stream.counts, limit, text_format, key)
    if gate is not None and recipe.curate is not None:
        looked_for = recipe.curate.contamination and bool(recipe.evaluate.held_out)
        report = with_gate(report, gate, mixture, looked_for_overlap=looked_for)
    return report, gate


def _render_all(
    recipe: Recipe,
    sources: list[OpenedSource],
    stream: Stream,
    text_format: TextFormat,
    store: DocumentStore,
    progress: Progress | None,
) -> RowLimit:
    """Every document into the store; returns what became of those longer than a row.

    Raises:
        DataRefused: a document cannot be rendered or is too long, a source has no usable row, or all judged answers
            got one verdict.
    """
    settings = recipe.train.rows
    limit = RowLimit(settings.max_length, settings.overlong)
    rows = sum(
        entry.rows for source in sources for _, entry in chosen_files(source.loaded, source.wish.split)
    )
    usable = [False] * len(sources)
    verdicts: dict[bool | None, Rendered] = {}
    for number, one in enumerate(stream.documents):
        if progress is not None and number and number % _TOLD_EVERY == 0:
            progress(number, rows)
        pieces = _render_one(recipe, sources[one.source], one, text_format, stream)
        usable[one.source] |= bool(pieces)
        if len(pieces) > 1:
            limit.counts["split"] += 1
        for piece in filter(limit.admits, pieces):
            store.add(piece, source=one.source, language=one.language, row=number)
            verdicts.setdefault(piece.good, piece)
    for place, source in enumerate(sources):
        if not usable[place]:
            counts = sorted(dropped_rows(stream.counts[place]).items())
            dropped = ", ".join(f"{name} {count}" for name, count in counts)
            raise DataRefused(
                f"no usable row in data card {source.loaded.card.id}",
                where=str(source.loaded.path),
                why=f"dropped: {dropped}" if dropped else None,
            )
    limit.close()
    if recipe.method == "kto":
        check_verdicts(verdicts.values())
    return limit


def _render_one(
    recipe: Recipe, source: OpenedSource, one: Incoming, text_format: TextFormat, stream: Stream
) -> list[Rendered]:
    """A document's pieces; one that cannot be rendered is an error, or is dropped and counted."""
    try:
        return render(recipe, one.document, text_format)
    except DataRefused as error:
        if source.wish.on_bad_row == "error":
            where = error.where or one.document.where
            raise DataRefused(error.what, where=where, why=error.why, fix=error.fix) from error
        stream.counts[one.source][DROPPED + "not_renderable"] += 1
        return []


def _mix(recipe: Recipe, names: Sequence[str], documents: Documents, stream: Stream) -> Mixture:
    """Choose and pack documents, and hold the rows to the shares asked for.

    Raises:
        DataRefused: nothing is left, or the shares cannot be had.
    """
    if not len(documents):
        raise DataRefused(
            "no document is left to train on",
            where="train.rows.max_length",
            why=f"all are longer than {recipe.train.rows.max_length} tokens",
        )
    asked = asked_of(recipe, names)
    groups = np.zeros(len(documents), dtype=np.int16)
    if asked.languages:
        tags = list(asked.languages)
        places = np.array([language_group(tag, tags) for tag in documents.tags], dtype=np.int16)
        groups = places[documents.languages]
        for place, counts in enumerate(stream.counts):
            outside = documents.rows[(groups < 0) & (documents.sources == place)]
            if len(outside):
                counts[NOT_IN_MIX] += len(np.unique(outside))
    chosen = choose(asked, documents.lengths, documents.sources, groups)
    lengths = documents.lengths[chosen]
    packed = (
        pack(lengths, recipe.train.rows.max_length) if recipe.train.rows.packing else one_each(len(chosen))
    )
    mixture = Mixture(asked=asked, documents=documents, chosen=chosen, packed=packed)
    mixture.check()
    return mixture
