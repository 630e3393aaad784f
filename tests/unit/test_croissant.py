"""Data cards as Croissant: mlcroissant reads every one, and the records behind it, without a network."""

import csv
import gzip
import hashlib
import json
from pathlib import Path

import mlcroissant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from sovtune.croissant_command import export_croissant
from sovtune.errors import DataRefused, EnvironmentFault, UsageError
from sovtune.progress import Reporter

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted((ROOT / "data_cards").glob("*.yaml"))
GOLDEN = Path(__file__).with_name("golden") / "croissant.json"

CARD = """\
schema_version: 1
id: letters
version: "2026.10.0"
title: 시청에 보낸 편지와 답장
description: Letters to a city office and its answers.
files:
{files}
languages: [{{tag: ko-KR, share: 0.97}}, {{tag: ar, share: 0.03}}]
licence: {licence}
rights:
  basis: licence
  training: yes
  redistribution: yes
  commercial: no
  attribution: City of Example, Letters 2021-2025
  territory: [KR]
  expires: 2036-12-31
sources:
  - kind: government
    name: Letters to the city office
    url: https://data.example.org/letters
    collected: [2021-01-01, 2025-12-31]
  - kind: crawl
    name: News pages
    crawler: spider 2.1
    robots_respected: yes
    collected: [2020-06-01, 2020-07-01]
  - kind: synthetic
    name: Paraphrases
    generator: {{model: example-org/Writer, revision: abc123, terms: output is free}}
personal_data:
  contains: possible
  scan: {{tool: in-house scanner, version: "3.1", date: 2026-09-28, findings: 2}}
  action: masked
  residual_risk: Names of shops remain.
sensitivity: internal
residency: {{allowed_regions: [KR]}}
synthetic_share: 0.25
annotation: {{by: staff of the office, guideline: docs/answer-style.pdf, pay: salaried, agreement: kappa 0.81}}
quality:
  dedup: {{method: exact after NFC, removed: 312}}
  filters: [answers under 20 characters removed]
  eval_overlap: {{against: [kmmlu], method: 13-gram, hits: 4}}
limits: [Formal written Korean only.]
contact: data@example.org
{format}"""
TEXTS = ["첫째 문장입니다.", "두 번째, 쉼표가 있는 문장", "نص عربي قصير"]
TURNS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": "네, 그렇습니다."}] for text in TEXTS
]


def write_card(
    folder: Path,
    files: list[tuple[Path, str | None]],
    format: str = "",
    licence: str = "{expression: CC-BY-4.0}",
) -> Path:
    """A card that fills in every section, over these files (path, split)."""
    lines = []
    for path, split in files:
        lines.append(f"  - path: {path.relative_to(folder).as_posix()}")
        content = path.read_bytes() if path.is_file() else b"a folder"
        lines += [f"    sha256: {hashlib.sha256(content).hexdigest()}", f"    rows: {len(TEXTS)}"]
        lines += [f"    bytes: {len(content)}"] if path.is_file() else []
        lines += [f"    split: {split}"] if split else []
    card = folder / "card.yaml"
    card.write_text(CARD.format(files="\n".join(lines), licence=licence, format=format), encoding="utf-8")
    return card


def export(card: Path, out: Path | None) -> dict[str, object]:
    """What the command would print."""
    text = export_croissant(card, out, Reporter(Console(stderr=True), quiet=True))
    return dict(json.loads(text))


def load(out: Path) -> mlcroissant.Dataset:
    """The file as mlcroissant sees it; it raises on an error."""
    dataset = mlcroissant.Dataset(jsonld=str(out))
    assert not dataset.metadata.ctx.issues.errors
    return dataset


def warnings_of(dataset: mlcroissant.Dataset) -> set[str]:
    """The last word of the property each warning is about."""
    warned = {warning.partition('"')[2].partition('"')[0] for warning in dataset.metadata.ctx.issues.warnings}
    return {name.rpartition("/")[2] for name in warned}


def records(dataset: mlcroissant.Dataset, name: str = "rows") -> list[dict[str, object]]:
    """All records of a set, with text decoded."""
    return [decoded(record) for record in dataset.records(name)]  # type: ignore[misc]


def decoded(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {str(key).rpartition("/")[2]: decoded(inner) for key, inner in value.items()}
    return [decoded(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_mlcroissant_reads_every_shipped_card_and_its_rows(card: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "data_cards/samples")
    for name in (card.name, *(path.name for path in CARDS)):
        (tmp_path / name).write_bytes((card.parent / name).read_bytes())
    out = tmp_path / "croissant.json"
    document = export(tmp_path / card.name, out)
    dataset = load(out)
    # A card does not know when the data was published, nor how to cite it where nobody must be named.
    assert warnings_of(dataset) == {"citeAs", "datePublished"}
    (file,) = document["distribution"]  # type: ignore[misc]
    rows = (tmp_path / str(file["contentUrl"])).read_text(encoding="utf-8").splitlines()  # type: ignore[index]
    expected = [json.loads(row) for row in rows]
    not_trained_on = {"id", "topic"}  # a card describes the columns that a row is made of
    assert records(dataset) == [
        {key: value for key, value in row.items() if key not in not_trained_on} for row in expected
    ]


def test_the_golden_document() -> None:
    """`sovtune data croissant data_cards/sample-ko-instruct.yaml`, word for word."""
    text = export_croissant(
        ROOT / "data_cards/sample-ko-instruct.yaml", None, Reporter(Console(stderr=True), quiet=True)
    )
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_full_card_becomes_all_properties(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    files = []
    for split in ("train", "test"):
        path = tmp_path / "letters" / f"{split}.jsonl.gz"
        path.write_bytes(
            gzip.compress("".join(json.dumps({"messages": turns}) + "\n" for turns in TURNS).encode())
        )
        files.append((path, split))
    out = tmp_path / "croissant.json"
    document = export(write_card(tmp_path, files, "format: {kind: chat}\n"), out)
    dataset = load(out)
    metadata = dataset.metadata
    assert warnings_of(dataset) == {"datePublished"}
    assert metadata.name == "시청에 보낸 편지와 답장"
    assert metadata.license == ["https://spdx.org/licenses/CC-BY-4.0.html"]
    assert metadata.cite_as == "City of Example, Letters 2021-2025"
    assert metadata.version == "2026.10.0"
    assert metadata.url == "https://data.example.org/letters"
    assert metadata.in_language == ["ko-KR", "ar"]
    assert [creator.email for creator in metadata.creators] == ["data@example.org"]
    assert set(metadata.data_collection_type or []) == {"Secondary Data analysis", "Web Scraping", "Others"}
    assert [str(day)[:10] for day in metadata.data_collection_timeframe or []] == ["2020-06-01", "2025-12-31"]
    assert "spider 2.1" in (metadata.data_collection or "")
    assert metadata.machine_annotation_tools == ["example-org/Writer abc123"]
    assert metadata.data_annotation_analysis == ["kappa 0.81"]
    assert metadata.data_annotation_protocol == [
        "Made by staff of the office", "Guideline: docs/answer-style.pdf", "Pay: salaried",
    ]  # fmt: skip
    assert metadata.data_preprocessing_protocol == [
        "answers under 20 characters removed",
        "Duplicates by exact after NFC: 312 rows removed",
        "Overlap with kmmlu searched by 13-gram",
    ]
    assert metadata.data_limitations == [
        "Formal written Korean only.",
        "4 rows overlap with kmmlu: not for measuring with these",
    ]
    assert metadata.data_biases == [
        "Languages by characters: ko-KR 97 %, ar 3 %",
        "A model wrote 25 % of the rows",
    ]
    assert "2 findings left" in " ".join(metadata.personal_sensitive_information or [])
    assert "Names of shops remain." in " ".join(metadata.personal_sensitive_information or [])
    assert document["conditionsOfAccess"] == (
        "Sensitivity: internal; basis of use: licence; training: yes; redistribution: yes; commercial use: no; "
        "territory of the right: KR; the right ends on 2036-12-31; kept in KR, may not leave"
    )
    train, _ = metadata.file_objects
    assert (train.content_url, train.encoding_formats) == (
        "letters/train.jsonl.gz", ["application/gzip", "application/jsonlines"],
    )  # fmt: skip
    assert train.content_size == f"{files[0][0].stat().st_size} B"
    assert train.sha256 == hashlib.sha256(files[0][0].read_bytes()).hexdigest()
    for split in ("train", "test"):
        assert records(dataset, split) == [{"messages": turns, "split": split} for turns in TURNS]


def _csv(path: Path, names: list[str], rows: list[list[str]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([names, *rows])


def _write(path: Path, column: str) -> None:
    """The texts under one column, in the form that the suffix says."""
    rows = [{column: text} for text in TEXTS]
    name = path.name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif name.endswith((".csv", ".tsv")):
        _csv(path, [column], [[text] for text in TEXTS], "\t" if name.endswith("tsv") else ",")
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.mark.parametrize("column", ["text", "본문"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_texts_are_read_from_every_form(tmp_path: Path, name: str, column: str) -> None:
    _write(tmp_path / name, column)
    format = f"format: {{kind: text, fields: {{text: {column}}}}}\n" if column != "text" else ""
    out = tmp_path / "c.json"
    export(write_card(tmp_path, [(tmp_path / name, None)], format), out)
    assert records(load(out)) == [{column: text} for text in TEXTS]


def test_a_json_list_whose_rows_lack_a_key_is_not_shifted(tmp_path: Path) -> None:
    rows = [
        {"instruction": "가", "output": "나"},
        {"instruction": "다", "input": "라", "output": "마"},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    out = tmp_path / "c.json"
    export(write_card(tmp_path, [(path, None)], "format: {kind: instruction}\n"), out)
    assert records(load(out)) == [
        {"instruction": "가", "input": None, "output": "나"},
        {"instruction": "다", "input": "라", "output": "마"},
    ]


def test_dialogues_of_a_json_list_with_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"대화": [{"from": turn["role"], "value": turn["content"]} for turn in turns]} for turns in TURNS]
    path.write_text(json.dumps(rows), encoding="utf-8")
    out = tmp_path / "c.json"
    format = "format: {kind: chat, fields: {messages: 대화, role: from, content: value}}\n"
    export(write_card(tmp_path, [(path, None)], format), out)
    assert records(load(out)) == rows


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("line", [{"text": "하나"}, {"text": "둘"}, {"text": "셋"}]),
        ("file", [{"text": "하나\n둘\n\n셋\n"}]),
        ("paragraph", [{"text": "하나\n둘\n\n셋\n"}]),
    ],
)
def test_running_text(tmp_path: Path, document: str, expected: list[dict[str, object]]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("하나\n둘\n\n셋\n" if document != "line" else "하나\n둘\n셋\n", encoding="utf-8")
    out = tmp_path / "c.json"
    format = f"format: {{kind: text, fields: {{document: {document}}}}}\n"
    export(write_card(tmp_path, [(path, None)], format), out)
    assert records(load(out)) == expected


def test_a_folder_of_markdown_is_a_file_set(tmp_path: Path) -> None:
    (tmp_path / "pages" / "inner").mkdir(parents=True)
    (tmp_path / "pages" / "a.md").write_text("# 하나", encoding="utf-8")
    (tmp_path / "pages" / "inner" / "b.md").write_text("# 둘", encoding="utf-8")
    out = tmp_path / "c.json"
    document = export(write_card(tmp_path, [(tmp_path / "pages", None)]), out)
    (described,) = document["distribution"]  # type: ignore[misc]
    assert described["@type"] == "cr:FileSet"  # type: ignore[index]
    assert sorted(str(record["text"]) for record in records(load(out))) == ["# 둘", "# 하나"]


def test_a_comparison_of_answers_shows_by_its_first_row_whether_it_has_turns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"prompt": [{"role": "user", "content": "안녕"}], "chosen": "네", "rejected": "아니요"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    out = tmp_path / "c.json"
    export(write_card(tmp_path, [(path, None)]), out)
    assert records(load(out)) == [row]


def test_a_hub_data_set_is_a_pinned_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n', encoding="utf-8")
    card = write_card(tmp_path, [(path, None)])
    text = card.read_text(encoding="utf-8")
    card.write_text(
        text.replace("path: a.jsonl", "path: hub:org/set\n    revision: 0a1b").replace("    bytes: 14\n", ""),
        encoding="utf-8",
    )
    out = tmp_path / "c.json"
    document = export(card, out)
    (file,) = load(out).metadata.file_objects
    assert file.content_url == "https://hub.example.org/datasets/org/set/tree/0a1b"
    assert document["url"] == "https://hub.example.org/datasets/org/set"
    assert "recordSet" not in document


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("{expression: KOGL-1}", "https://www.kogl.or.kr/info/license.do"),
        ("{expression: MIT AND CC0-1.0}", {"@type": "sc:CreativeWork", "name": "MIT AND CC0-1.0"}),
        (
            "{expression: LicenseRef-Ours, link: https://example.org/l}",
            {"@type": "sc:CreativeWork", "name": "LicenseRef-Ours", "url": "https://example.org/l"},
        ),
    ],
)
def test_licences(tmp_path: Path, licence: str, expected: object) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n', encoding="utf-8")
    out = tmp_path / "c.json"
    document = export(write_card(tmp_path, [(path, None)], "", licence), out)
    assert document["license"] == expected
    assert load(out).metadata.license is not None


def test_addresses_are_relative_to_the_file_and_hide_where_the_machine_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n', encoding="utf-8")
    card = write_card(tmp_path, [(path, None)])
    (tmp_path / "portal").mkdir()
    out = tmp_path / "portal" / "c.json"
    assert export(card, out)["distribution"][0]["contentUrl"] == "../a.jsonl"  # type: ignore[index]
    assert records(load(out)) == [{"text": "x"}]
    card.write_text(
        card.read_text(encoding="utf-8").replace("path: a.jsonl", f"path: {path}"), encoding="utf-8"
    )
    assert str(tmp_path) not in json.dumps(export(card, None))


def test_what_croissant_asks_for_and_the_card_lacks_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"unusual": "x"}\n', encoding="utf-8")
    document = json.loads(
        export_croissant(
            write_card(tmp_path, [(path, None)]), None, Reporter(Console(stderr=True, width=200), quiet=False)
        )
    )
    told = capsys.readouterr().err
    assert "datePublished" in told and "datePublished" not in document
    assert "a.jsonl: records not described" in told and "recordSet" not in document


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n', encoding="utf-8")
    card = write_card(tmp_path, [(path, None)])
    for taken in (card, path):
        with pytest.raises(UsageError, match="overwrite"):
            export(card, taken)
    with pytest.raises(EnvironmentFault, match="cannot write"):
        export(card, tmp_path / "nowhere" / "c.json")
    path.unlink()
    with pytest.raises(DataRefused, match="no such file"):
        export(card, None)
