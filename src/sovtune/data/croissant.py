"""A data card as Croissant JSON-LD, the form in which data portals and search engines read about data sets."""

from __future__ import annotations

import os
from pathlib import Path

from sovtune.data.card import LoadedCard
from sovtune.data.card_schema import HUB_PREFIX, DataCard, DataFile, Format
from sovtune.data.card_sections import Source
from sovtune.data.croissant_records import Row, record_set
from sovtune.data.entries import shown_path
from sovtune.data.files import FileKind, LocalFile
from sovtune.licences import licence_keys, licence_link

Json = dict[str, object]

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
REQUIRED = ("name", "description", "license", "url", "creator", "datePublished")
"""What the Croissant specification asks of every data set; a card does not know all of it."""
CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The JSON-LD context of Croissant 1.1; a reader warns about one that differs."""

_ENCODINGS: dict[FileKind, str] = {
    "jsonl": "application/jsonlines",
    "json": "application/json",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "parquet": "application/x-parquet",
    "txt": "text/plain",
    "md": "text/markdown",
}
_PACKINGS = {".gz": "application/gzip", ".zst": "application/zstd"}
# The words of the RAI vocabulary that are nearest to the kinds of a card's sources.
_COLLECTION_TYPES = {
    "public-dataset": "Secondary Data analysis",
    "licensed": "Secondary Data analysis",
    "government": "Secondary Data analysis",
    "crawl": "Web Scraping",
    "user": "User-generated content data",
    "synthetic": "Others",
    "own": "Manual Human Curator",
}
_MADE_HERE = ("own", "synthetic", "user")


def croissant(
    loaded: LoadedCard, rows: tuple[tuple[Format, Row] | None, ...], *, beside: Path, hub: str
) -> Json:
    """Describe a card's data in Croissant 1.1 with the RAI vocabulary.

    Args:
        loaded: the card.
        rows: for each of the card's files what a row is and, where ``needs_row`` says so, its first row;
            None describes no records of that file.
        beside: folder the document is for; addresses of files are relative to it.
        hub: address of the Hub that `hub:` data sets are from.

    Returns:
        The document; what the card does not know is left out.

    Raises:
        DataRefused: no reader for a file with this suffix.
    """
    card = loaded.card
    distribution: list[Json] = []
    records: list[Json] = []
    for index, (entry, known) in enumerate(zip(card.files, rows, strict=True)):
        described, kind = _distributed(loaded, entry, beside=beside, hub=hub)
        if not any(one["@id"] == described["@id"] for one in distribution):
            distribution.append(described)
        if known is not None and kind is not None:
            records.append(record_set(_record_id(card, index), entry, known, described=described, kind=kind))
    document: Json = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        **_about(card, hub),
        **_responsible(card),
        "distribution": distribution,
        "recordSet": records,
    }
    return {name: value for name, value in document.items() if value not in (None, [], "")}


def left_out(document: Json) -> list[str]:
    """What Croissant requires and this document has not, since the card does not say it."""
    return [name for name in REQUIRED if name not in document]


def _about(card: DataCard, hub: str) -> Json:
    addresses = [source.url for source in card.sources if source.url is not None]
    hubs = [_hub_page(entry, hub) for entry in card.files if entry.path.startswith(HUB_PREFIX)]
    pages = list(dict.fromkeys(hubs)) if hubs else addresses
    contact: Json = {"@type": "sc:Organization", "name": card.contact}
    if "@" in card.contact:
        contact["email"] = card.contact
    return {
        "name": card.title,
        "identifier": card.id,
        "description": card.description or card.title,
        "version": card.version,
        "license": _licence(card),
        "citeAs": card.rights.attribution,
        "url": pages[0] if len(pages) == 1 else None,
        "creator": contact if any(source.kind in _MADE_HERE for source in card.sources) else None,
        "maintainer": contact,
        "isBasedOn": [_work(source) for source in card.sources if source.kind not in _MADE_HERE],
        "inLanguage": [language.tag for language in card.languages],
        "conditionsOfAccess": _conditions(card),
    }


def _licence(card: DataCard) -> object:
    """The address of a single licence, as Croissant wants it; several, or one without a page, by name."""
    expression, link = card.licence.expression, card.licence.link
    keys = licence_keys(expression)
    if keys == (expression,) and (known := licence_link(expression)):
        return known
    named: Json = {"@type": "sc:CreativeWork", "name": expression}
    return {**named, "url": link} if link else named


def _work(source: Source) -> Json:
    work: Json = {"@type": "sc:CreativeWork", "name": source.name}
    return {**work, "url": source.url} if source.url else work


def _conditions(card: DataCard) -> str:
    rights = card.rights
    parts = [
        f"Sensitivity: {card.sensitivity}",
        f"basis of use: {rights.basis}",
        f"training: {rights.training}",
        f"redistribution: {rights.redistribution}",
        f"commercial use: {rights.commercial}",
    ]
    if rights.territory:
        parts.append(f"territory of the right: {', '.join(rights.territory)}")
    if rights.expires is not None:
        parts.append(f"the right ends on {rights.expires}")
    if card.residency.allowed_regions:
        regions = ", ".join(card.residency.allowed_regions)
        leaves = "may" if card.residency.export else "may not"
        parts.append(f"kept in {regions}, {leaves} leave")
    return "; ".join(parts)


def _responsible(card: DataCard) -> Json:
    """The properties of Croissant's vocabulary for responsible AI."""
    annotation = card.annotation
    protocol = []
    if annotation is not None:
        protocol = [f"Made by {annotation.by}"]
        protocol += [f"Guideline: {annotation.guideline}"] if annotation.guideline else []
        protocol += [f"Pay: {annotation.pay}"] if annotation.pay else []
    days = [source.collected for source in card.sources if source.collected is not None]
    generators = [source.generator for source in card.sources if source.generator is not None]
    return {
        "rai:dataCollection": "; ".join(_collection(source) for source in card.sources),
        "rai:dataCollectionType": list(
            dict.fromkeys(_COLLECTION_TYPES[source.kind] for source in card.sources)
        ),
        "rai:dataCollectionTimeFrame": [
            min(span[0] for span in days).isoformat(),
            max(span[-1] for span in days).isoformat(),
        ]
        if days
        else [],
        "rai:dataPreprocessingProtocol": _preprocessing(card),
        "rai:dataAnnotationProtocol": protocol,
        "rai:dataAnnotationAnalysis": [annotation.agreement] if annotation and annotation.agreement else [],
        "rai:machineAnnotationTools": [
            " ".join(part for part in (generator.model, generator.revision) if part)
            for generator in generators
        ],
        "rai:dataBiases": _biases(card),
        "rai:dataLimitations": [*card.limits, *_overlap(card)],
        "rai:personalSensitiveInformation": _personal(card),
    }


def _collection(source: Source) -> str:
    words = [f"{source.kind}: {source.name}"]
    if source.url:
        words.append(source.url)
    if source.collected:
        words.append(f"collected {source.collected[0]} to {source.collected[-1]}")
    if source.crawler:
        words.append(f"with {source.crawler}")
    if source.robots_respected:
        words.append(f"robots.txt and opt-outs respected: {source.robots_respected}")
    if source.generator:
        words.append(f"generator {source.generator.model}, its terms: {source.generator.terms}")
    return ", ".join(words)


def _preprocessing(card: DataCard) -> list[str]:
    quality = card.quality
    steps = list(quality.filters)
    if quality.dedup is not None:
        steps.append(f"Duplicates by {quality.dedup.method}: {quality.dedup.removed} rows removed")
    if quality.eval_overlap is not None:
        sets = ", ".join(quality.eval_overlap.against)
        steps.append(f"Overlap with {sets} searched by {quality.eval_overlap.method}")
    return steps


def _overlap(card: DataCard) -> list[str]:
    overlap = card.quality.eval_overlap
    if overlap is None or not overlap.hits:
        return []
    return [f"{overlap.hits} rows overlap with {', '.join(overlap.against)}: not for measuring with these"]


def _biases(card: DataCard) -> list[str]:
    """What the card measures of how the data leans; nobody's opinion."""
    shares = ", ".join(f"{language.tag} {100 * language.share:g} %" for language in card.languages)
    found = [f"Languages by characters: {shares}"]
    if card.synthetic_share:
        found.append(f"A model wrote {100 * card.synthetic_share:g} % of the rows")
    return found


def _personal(card: DataCard) -> list[str]:
    personal = card.personal_data
    found = [f"Personal data: {personal.contains}; what was done about it: {personal.action}"]
    if personal.lawful_basis:
        found.append(f"Lawful basis: {personal.lawful_basis}")
    if personal.scan is not None:
        scan = personal.scan
        tool = " ".join(part for part in (scan.tool, scan.version) if part)
        found.append(f"Search on {scan.date} with {tool}: {scan.findings} findings left")
    if personal.residual_risk:
        found.append(f"Left: {personal.residual_risk}")
    return found


def _distributed(
    loaded: LoadedCard, entry: DataFile, *, beside: Path, hub: str
) -> tuple[Json, FileKind | None]:
    """The file, folder or repository of one entry, and how it is read; None for a repository."""
    path = loaded.folder / entry.path
    shown = shown_path(entry)
    if entry.path.startswith(HUB_PREFIX):
        page = _hub_page(entry, hub)
        return {
            "@type": "cr:FileObject",
            "@id": entry.path,
            "name": entry.path.removeprefix(HUB_PREFIX),
            "description": f"Git repository at commit {entry.revision}; sha256 is that of the sorted lines "
            "`path sha256` of the files in use.",
            "contentUrl": f"{page}/tree/{entry.revision}",
            "encodingFormat": "git+https",
            "sha256": entry.sha256,
        }, None
    address = shown if entry.path.startswith("/") else Path(os.path.relpath(path, beside)).as_posix()
    if path.is_dir():
        return {
            "@type": "cr:FileSet",
            "@id": shown,
            "name": shown,
            "description": f"Each Markdown file is a document. SHA-256 of the sorted lines `path sha256`: "
            f"{entry.sha256}.",
            "encodingFormat": [_ENCODINGS["md"], _ENCODINGS["txt"]],
            # Readers differ in whether `**/` may stand for no folder at all.
            "includes": [
                f"{address.rstrip('/')}/{depth}*.md{packed}"
                for depth in ("", "**/")
                for packed in ("", *_PACKINGS)
            ],
        }, "md"
    kind = LocalFile(path=path, shown=shown).kind
    described: Json = {"@type": "cr:FileObject", "@id": shown, "name": Path(shown).name}
    delimiter = loaded.card.format.delimiter if loaded.card.format else None
    if delimiter:
        described["description"] = f"Columns are separated by {delimiter!r}."
    described["contentUrl"] = address
    if entry.bytes is not None:
        described["contentSize"] = f"{entry.bytes} B"
    packing = _PACKINGS.get(path.suffix.lower())
    described["encodingFormat"] = [packing, _ENCODINGS[kind]] if packing else _ENCODINGS[kind]
    described["sha256"] = entry.sha256
    return described, kind


def _hub_page(entry: DataFile, hub: str) -> str:
    return f"{hub.rstrip('/')}/datasets/{entry.path.removeprefix(HUB_PREFIX)}"


def _record_id(card: DataCard, index: int) -> str:
    """``train`` for the only file of a split, ``train-2`` for its second, ``rows`` where there are no splits."""
    split = card.files[index].split
    alike = [at for at, file in enumerate(card.files) if file.split == split]
    name = split or "rows"
    return name if len(alike) == 1 else f"{name}-{alike.index(index) + 1}"
