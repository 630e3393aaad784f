"""The data stage: cards -> documents -> rendered, masked, mixed, packed rows in an Arrow file keyed by content."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovtune.data.card import LoadedCard, load_card, verify_files
from sovtune.data.chat import Rendered, render_chat, render_text
from sovtune.data.document import Document, ReadSource
from sovtune.data.judged import check_verdicts, refuse_judged, render_judged
from sovtune.data.pack import Fitted, fit, pack
from sovtune.data.permission import enforce
from sovtune.data.sources import DROPPED, ROWS_READ, SourceRequest, dropped_rows, read_documents
from sovtune.data.template import TextFormat, read_format
from sovtune.errors import DataRefused
from sovtune.recipe import DataSource, Recipe
from sovtune.records import DataReport, DataSetRecord, FileHash, read_record, to_json

if TYPE_CHECKING:
    from sovtune.data.gate_report import DataGateReport

ROWS, REPORT, GATE = "rows.arrow", "data.json", "gate.json"
# Raise when rows come out differently for the same input, so that old caches are not taken for new ones.
PREPARATION = "1"
OVERLAP_REASONS = ("contamination", "exact_duplicate_of_heldout", "near_duplicate_of_heldout")
"""Reasons of the gate that mean: this document shares text with a held-out set."""
MANY_CUT = 0.05
"""Share of tokens lost to dropped documents above which the report warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """Rows on disk and the report about them."""

    rows_file: Path
    report: DataReport


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """One card of the recipe with what verification found."""

    wish: DataSource
    loaded: LoadedCard
    files: tuple[FileHash, ...]


def prepare(recipe: Recipe, *, base_folder: Path, base_hash: str, cache: Path) -> PreparedData:
    """Make the training rows, or find them in the cache.

    Args:
        recipe: with card paths resolved.
        base_folder: the base's tokenizer and template.
        base_hash: content hash of the base, part of the cache key.
        cache: folder of caches.

    Raises:
        DataRefused: a card does not fit its files, rows are bad, nothing carries loss, or shares cannot be met.
    """
    found, sources = find_prepared(recipe, base_hash=base_hash, cache=cache)
    if found is not None:
        return found
    key = cache_key(recipe, sources, base_hash)
    target = _place(cache, key)
    _make(recipe, sources, read_format(base_folder), key, target)
    return _prepared(recipe, sources, target)


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
    from sovtune.data.gate_report import DataGateReport

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
        "method": recipe.method,
        "rows": recipe.train.rows.model_dump(),
        "seed": recipe.seed,
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


def _gate_key(recipe: Recipe) -> list[str] | None:
    """What the gate's verdicts depend on besides the data: settings, code, held-out files."""
    if recipe.curate is None:
        return None
    from sovtune.data.gate_settings import code_version

    held_out = [
        verify_files(load_card(Path(wish.card)), None, for_training=False) for wish in recipe.evaluate.texts
    ]
    return [
        recipe.curate.model_dump_json(),
        code_version(),
        *(file.sha256 for files in held_out for file in files),
    ]


def _make(
    recipe: Recipe, sources: list[OpenedSource], text_format: TextFormat, key: str, target: Path
) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    read, gate = _read_all(recipe, sources, target.parent.parent / "gate")
    if gate is not None:
        from sovtune.data.declared import compare_all

        compare_all(recipe, [(source.wish, source.loaded) for source in sources], gate)
    rendered = [
        _render_all(recipe, source, one, text_format) for source, one in zip(sources, read, strict=True)
    ]
    chosen = _mix(recipe, rendered)
    rows_settings = recipe.train.rows
    fitted = [fit(documents, rows_settings.max_length, rows_settings.overlong) for documents in chosen]
    documents = [document for one in fitted for document in one.documents]
    if recipe.method == "kto":
        check_verdicts(documents)
    rows = _rows(documents, recipe)
    _write_rows(rows, documents, part / ROWS)
    report = _report(recipe, sources, text_format, key, [one.counts for one in read], fitted, rows)
    if gate is not None and recipe.curate is not None:
        looked_for = recipe.curate.contamination and bool(recipe.evaluate.texts)
        report = replace(
            report,
            curated=True,
            overlap_dropped=_overlap(gate) if looked_for else None,
            masked=gate.personal_data,
        )
        (part / GATE).write_text(to_json(gate), encoding="utf-8")
    (part / REPORT).write_text(to_json(report), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)


def _overlap(gate: DataGateReport) -> int:
    """Documents dropped for sharing text with a held-out set, also as its near-duplicates."""
    return sum(count for reason, count in gate.dropped.items() if reason in OVERLAP_REASONS)


def _read_all(
    recipe: Recipe, sources: list[OpenedSource], work: Path
) -> tuple[list[ReadSource], DataGateReport | None]:
    """Documents and counts of every source, through the data gate when the recipe has a ``curate`` section."""
    if recipe.curate is not None:
        from sovtune.data.curation import curated_sources

        return curated_sources(recipe, recipe.curate, [(one.wish, one.loaded) for one in sources], work)
    found = []
    for source in sources:
        wish = source.wish
        counts: Counter[str] = Counter()
        request = SourceRequest(split=wish.split, max_rows=wish.max_rows, on_bad_row=wish.on_bad_row)
        found.append(ReadSource(list(read_documents(source.loaded, request, counts)), counts))
    return found, None


def _render_all(
    recipe: Recipe, source: OpenedSource, read: ReadSource, text_format: TextFormat
) -> list[Rendered]:
    """Documents of one source as tokens; one that cannot be rendered is an error, or is dropped and counted."""
    rendered: list[Rendered] = []
    for document in read.documents:
        try:
            rendered.append(render(recipe, document, text_format))
        except DataRefused as error:
            if source.wish.on_bad_row == "error":
                where = error.where or document.where
                raise DataRefused(error.what, where=where, why=error.why, fix=error.fix) from error
            read.counts[DROPPED + "not_renderable"] += 1
    if not rendered:
        dropped = ", ".join(f"{name} {count}" for name, count in sorted(dropped_rows(read.counts).items()))
        raise DataRefused(
            f"no usable row in data card {source.loaded.card.id}",
            where=str(source.loaded.path),
            why=f"dropped: {dropped}" if dropped else None,
        )
    return rendered


def render(recipe: Recipe, document: Document, text_format: TextFormat) -> Rendered:
    """One document as the recipe's method wants it.

    Raises:
        DataRefused: the document does not fit the method, or nothing of it carries loss.
    """
    if recipe.method in ("sft", "cpt"):
        refuse_judged(document, recipe.method)
    if recipe.method == "cpt":
        if document.text is None:
            raise DataRefused(
                "a dialogue in a cpt recipe",
                where=document.where,
                why="cpt learns running text",
                fix="use method: sft",
            )
        return render_text(document, text_format.tokenizer, bos=text_format.bos, eos=text_format.eos)
    if not document.messages and recipe.method == "sft":
        raise DataRefused(
            "running text in an sft recipe",
            where=document.where,
            why="sft learns answers",
            fix="use method: cpt",
        )
    if text_format.template is None:
        raise DataRefused(
            "the base has no chat template",
            why=f"{recipe.method} needs one to tell prompt from answer",
            fix="use the base's instruct variant, or method: cpt",
        )
    if recipe.method == "sft":
        return render_chat(document, text_format.template, text_format.tokenizer)
    return render_judged(document, recipe.method, text_format.template, text_format.tokenizer)


def _length(documents: list[Rendered]) -> int:
    return sum(len(document.input_ids) for document in documents)


def _mix(recipe: Recipe, sources: list[list[Rendered]]) -> list[list[Rendered]]:
    """Take from each source so that token shares are as asked; without shares everything is taken once.

    The largest mixture is made that every source can fill with at most ``repeat`` passes over it. Documents are
    drawn in an order given by the seed.
    """
    if recipe.data[0].share is None:
        return sources
    total = min(
        _length(docs) * wish.repeat / (wish.share or 1)
        for docs, wish in zip(sources, recipe.data, strict=True)
    )
    taken = []
    for index, (documents, wish) in enumerate(zip(sources, recipe.data, strict=True)):
        order = list(documents)
        random.Random(f"{recipe.seed} {index}").shuffle(order)  # noqa: S311  (an order, not a secret)
        taken.append(list(_take(order, total * (wish.share or 0))))
    return taken


def _take(order: list[Rendered], tokens: float) -> Iterator[Rendered]:
    """Documents in turn, again from the start if need be, while each brings the sum nearer to ``tokens``."""
    reached = 0
    while True:
        for document in order:
            length = len(document.input_ids)
            if reached + length / 2 > tokens:
                return
            reached += length
            yield document


def _rows(documents: list[Rendered], recipe: Recipe) -> list[list[int]]:
    if not recipe.train.rows.packing:
        return [[index] for index in range(len(documents))]
    return pack([len(document.input_ids) for document in documents], recipe.train.rows.max_length)


def _write_rows(rows: list[list[int]], documents: list[Rendered], path: Path) -> None:
    import pyarrow as pa

    integers = pa.list_(pa.int32())
    judged = any(document.good is not None for document in documents)
    names = ["input_ids", "labels", "lengths", *(["good"] if judged else [])]
    schema = pa.schema([(name, integers) for name in names])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(rows), 1000):
            batch = [[documents[index] for index in row] for row in rows[start : start + 1000]]
            columns = [
                [[token for document in row for token in document.input_ids] for row in batch],
                [[label for document in row for label in document.labels] for row in batch],
                [[length for document in row for length in document.lengths] for row in batch],
                *([[[int(document.good or 0) for document in row] for row in batch]] if judged else []),
            ]
            arrays = [pa.array(column, type=integers) for column in columns]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def load_rows(path: Path) -> Any:
    """The rows as a `datasets.Dataset` (memory-mapped) with columns input_ids, labels, lengths, and good for kto."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _report(
    recipe: Recipe,
    sources: list[OpenedSource],
    text_format: TextFormat,
    key: str,
    counts: list[Counter[str]],
    fitted: list[Fitted],
    rows: list[list[int]],
) -> DataReport:
    tokens = sum(_length(one.documents) for one in fitted)
    cut = sum(one.tokens_cut for one in fitted)
    documents = [document for one in fitted for document in one.documents]
    overlong: Counter[str] = Counter()
    for one in fitted:
        overlong.update(one.counts)
    warnings = []
    if cut > MANY_CUT * (tokens + cut):
        warnings.append(f"{100 * cut / (tokens + cut):.0f} % of all tokens were lost to rows.max_length")
    return DataReport(
        cache_key=key,
        datasets=tuple(
            _data_set(source, count, one, tokens)
            for source, count, one in zip(sources, counts, fitted, strict=True)
        ),
        documents=len(documents),
        rows=len(rows),
        tokens=tokens,
        supervised_tokens=sum(document.supervised for document in documents),
        max_length=recipe.train.rows.max_length,
        longest_document=max(len(document.input_ids) for document in documents),
        overlong=dict(overlong),
        tokens_cut=cut,
        row_fill=tokens / (len(rows) * recipe.train.rows.max_length),
        template_sha256=text_format.template_sha256,
        template_source=text_format.template_source if recipe.method != "cpt" else "none",
        tokenizer_sha256=text_format.tokenizer_sha256,
        stop_token=text_format.stop_token,
        warnings=tuple(warnings),
    )


def _data_set(source: OpenedSource, counts: Counter[str], fitted: Fitted, all_tokens: int) -> DataSetRecord:
    card = source.loaded.card
    tokens = _length(fitted.documents)
    return DataSetRecord(
        card_id=card.id,
        version=str(card.version),
        title=card.title,
        licence=card.licence.expression,
        languages={language.tag: language.share for language in card.languages},
        source="; ".join(dict.fromkeys(entry.kind for entry in card.sources)),
        personal_data=card.personal_data.contains,
        files=source.files,
        rows_read=counts[ROWS_READ],
        rows_used=len({document.where for document in fitted.documents}),
        dropped=dropped_rows(counts),
        tokens=tokens,
        supervised_tokens=sum(document.supervised for document in fitted.documents),
        share_asked=source.wish.share,
        share_reached=tokens / all_tokens,
    )
