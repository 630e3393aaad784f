"""Documents out of real files: every kind, every packing, every way a file or a row can be wrong."""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.server
import io
import json
import os
import tempfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data import files as data_files
from sovtune.data.card import LoadedCard, verify_files
from sovtune.data.card_schema import DataCard, Format, Kind
from sovtune.data.document import Document, Message
from sovtune.data.entries import files_of, measure
from sovtune.data.rows import RowFault, to_document
from sovtune.data.sources import SourceRequest, dropped_rows, read_documents
from sovtune.errors import DataRefused, EnvironmentFault
from sovtune.yaml_file import YamlFile

CHAT = {"kind": "chat"}
TEXT = {"kind": "text"}


def card_of(
    folder: Path, *names: str, format: object = None, languages: tuple[str, ...] = ("ko",), **entry: object
) -> LoadedCard:
    """A card for files whose figures nobody looks at."""
    values = {
        "schema_version": 1,
        "id": "test",
        "version": "1",
        "title": "Test",
        "files": [{"path": name, "sha256": "0" * 64, "rows": 1, **entry} for name in names],
        "languages": [{"tag": tag, "share": 1 / len(languages)} for tag in languages],
        "licence": {"expression": "CC0-1.0"},
        "rights": {"training": "yes"},
        "sources": [{"kind": "own", "name": "written for these tests"}],
        "personal_data": {"contains": "none"},
        "annotation": {"by": "the authors"},
        "contact": "data@example.org",
        "format": format,
    }
    path = folder / "card.yaml"
    return LoadedCard(card=DataCard.model_validate(values), path=path, yaml=YamlFile(str(path), {}, {}, ()))


def read(loaded: LoadedCard, **request: object) -> tuple[list[Document], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(read_documents(loaded, SourceRequest(**request), counts)), counts  # type: ignore[arg-type]


def refusal(loaded: LoadedCard, **request: object) -> str:
    with pytest.raises(DataRefused) as caught:
        read(loaded, **request)
    assert caught.value.exit_code == 4
    return str(caught.value).splitlines()[0]


def turns(*texts: str) -> dict[str, object]:
    """A row whose turns are user and assistant by turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


PLAIN: Callable[[bytes], bytes] = bytes
PACKERS = {"": PLAIN, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
KO_AR = turns("수도가 얼었어요", "미지근한 물로 녹이세요.", "أين المكتبة؟", "خلف المسجد.")
MESSAGES = (
    Message("user", "수도가 얼었어요"),
    Message("assistant", "미지근한 물로 녹이세요."),
    Message("user", "أين المكتبة؟"),
    Message("assistant", "خلف المسجد."),
)


def as_csv(rows: list[dict[str, str]], delimiter: str) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_chat_in_json(tmp_path: Path, kind: str, packed: str) -> None:
    data = lines(KO_AR, KO_AR) if kind == "jsonl" else json.dumps([KO_AR, KO_AR], indent=2).encode()
    name = f"chat.{kind}{packed}"
    (tmp_path / name).write_bytes(PACKERS[packed](data))
    documents, counts = read(card_of(tmp_path, name, format=CHAT))
    assert [document.messages for document in documents] == [MESSAGES, MESSAGES]
    assert [document.where for document in documents] == [f"{name}:1", f"{name}:2"]
    assert counts == {"rows_read": 2, "rows_used": 2, "normalised_nfc": 0}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
def test_instructions_in_tables(tmp_path: Path, kind: str, delimiter: str, packed: str) -> None:
    rows = [
        {"과제": "번역하세요", "input": 'good,\nmorning; "all"\tof you', "output": "안녕하세요"},
        {"과제": "인사하세요", "input": "", "output": "안녕"},
    ]
    name = f"table.{kind}{packed}"
    (tmp_path / name).write_bytes(PACKERS[packed](as_csv(rows, delimiter)))
    format = {"kind": "instruction", "fields": {"instruction": "과제"}, "system": "친절하게."}
    if delimiter == ";":
        format["delimiter"] = ";"
    documents, _ = read(card_of(tmp_path, name, format=format))
    assert [message.content for message in documents[0].messages] == [
        "친절하게.",
        '번역하세요\n\ngood,\nmorning; "all"\tof you',
        "안녕하세요",
    ]
    assert [message.role for message in documents[0].messages] == ["system", "user", "assistant"]
    assert documents[1].messages[1].content == "인사하세요"
    assert [document.where for document in documents] == [f"{name}:2", f"{name}:4"]


def test_parquet_reads_only_what_it_needs(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["가", "나"], "completion": ["A", "B"], "noise": [b"\xff" * 9, b""]})
    pq.write_table(table, tmp_path / "a.parquet")
    format = {"kind": "prompt_completion"}
    documents, _ = read(card_of(tmp_path, "a.parquet", format=format))
    assert [document.messages for document in documents] == [
        (Message("user", "가"), Message("assistant", "A")),
        (Message("user", "나"), Message("assistant", "B")),
    ]
    assert documents[1].where == "a.parquet:2"


def test_nested_messages_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([KO_AR, KO_AR]), tmp_path / "a.parquet")
    documents, _ = read(card_of(tmp_path, "a.parquet"))
    assert [document.messages for document in documents] == [MESSAGES, MESSAGES]


TWO_PARAGRAPHS = "\n첫째 줄  \n둘째 줄\r\n\n \n셋째\n"


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(
    ("document", "texts", "rows"),
    [
        (None, ["첫째 줄  ", "둘째 줄", "셋째"], [2, 3, 6]),
        ("line", ["첫째 줄  ", "둘째 줄", "셋째"], [2, 3, 6]),
        ("paragraph", ["첫째 줄  \n둘째 줄", "셋째"], [2, 6]),
        ("file", [TWO_PARAGRAPHS], [1]),
    ],
)
def test_text_files(
    tmp_path: Path, document: str | None, texts: list[str], rows: list[int], packed: str
) -> None:
    name = f"a.txt{packed}"
    (tmp_path / name).write_bytes(PACKERS[packed](TWO_PARAGRAPHS.encode()))
    format = {"kind": "text", "fields": {"document": document}} if document else None
    loaded = card_of(tmp_path, name, format=format)
    documents, _ = read(loaded)
    assert [found.text for found in documents] == texts
    assert [found.where for found in documents] == [f"{name}:{row}" for row in rows]
    assert measure(loaded.card, loaded.card.files[0], tmp_path).rows == len(texts)


def test_a_folder_of_markdown(tmp_path: Path) -> None:
    (tmp_path / "book" / "z").mkdir(parents=True)
    for packed, pack in PACKERS.items():
        (tmp_path / "book" / "z" / f"b.md{packed}").write_bytes(pack(f"# 제목{packed}\n\n글".encode()))
    (tmp_path / "book" / "a.md").write_text("처음", "utf-8")
    (tmp_path / "book" / "readme.rst").write_text("not read", "utf-8")
    documents, _ = read(card_of(tmp_path, "book"))
    assert [(document.where, document.text) for document in documents] == [
        ("book/a.md:1", "처음"),
        ("book/z/b.md:1", "# 제목\n\n글"),
        ("book/z/b.md.gz:1", "# 제목.gz\n\n글"),
        ("book/z/b.md.zst:1", "# 제목.zst\n\n글"),
    ]


def test_share_gpt_names(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "안녕"}, {"from": "gpt", "value": "네"}]}
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    format = {
        "kind": "chat",
        "fields": {"messages": "conversations"},
        "role_map": {"human": "user", "gpt": "assistant"},
    }
    documents, _ = read(card_of(tmp_path, "a.jsonl", format=format))
    assert documents[0].messages == (Message("user", "안녕"), Message("assistant", "네"))


def test_role_map_and_own_field_names(tmp_path: Path) -> None:
    row = {"대화": [{"화자": "손님", "말": "안녕"}, {"화자": "직원", "말": "네"}]}
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    fields = {"messages": "대화", "role": "화자", "content": "말"}
    format = {"kind": "chat", "fields": fields, "role_map": {"손님": "user", "직원": "assistant"}}
    documents, _ = read(card_of(tmp_path, "a.jsonl", format=format))
    assert documents[0].messages == (Message("user", "안녕"), Message("assistant", "네"))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (KO_AR, 4),
        ({"instruction": "a", "output": "b"}, 2),
        ({"prompt": "a", "completion": "b"}, 2),
        ({"text": "a"}, 0),
    ],
)
def test_usual_names_need_no_format(tmp_path: Path, row: object, kind: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    documents, _ = read(card_of(tmp_path, "a.jsonl"))
    assert len(documents[0].messages) == kind


def test_unusual_names_need_a_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"question": "a", "answer": "b"}))
    told = refusal(card_of(tmp_path, "a.jsonl"), on_bad_row="drop")
    assert (
        told == "a.jsonl:1: the card has no `format`, and these keys are not the usual ones: answer, question"
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.md"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, name: str) -> None:
    content = {"a.jsonl": '{"text": "가"}', "a.json": '[{"text": "가"}]', "a.csv": "text\n가\n"}.get(
        name, "가"
    )
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    documents, _ = read(card_of(tmp_path, name))
    assert [document.text for document in documents] == ["가"]


def test_json_lines_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines({"text": "가"}, {"text": "나"}))
    loaded = card_of(tmp_path, "a.json")
    assert [document.where for document in read(loaded)[0]] == ["a.json:1", "a.json:2"]
    assert measure(loaded.card, loaded.card.files[0], tmp_path).rows == 2


def test_json_list_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovtune.data.formats.CHUNK", 7)  # cuts characters and elements apart
    rows = [{"text": "가나다" * n, "n": [n, {"x": -n}]} for n in range(1, 40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    assert [document.text for document in read(card_of(tmp_path, "a.json"))[0]] == [
        row["text"] for row in rows
    ]


def test_max_rows_counts_bad_rows_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "1"}, {"text": ""}, {"text": "3"}))
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "4"}, {"text": "5"}))
    loaded = card_of(tmp_path, "a.jsonl", "b.jsonl", format=TEXT)
    documents, counts = read(loaded, max_rows=4, on_bad_row="drop")
    assert [document.text for document in documents] == ["1", "3", "4"]
    assert counts["rows_read"] == 4
    assert dropped_rows(counts) == {"empty": 1}


def test_nfd_becomes_nfc_and_all_else_stays(tmp_path: Path) -> None:
    text = "  ﷽ ½ ㅋㅋ e\u200d\u200f\t\r\n한글 ＡＢＣ  "
    nfd = unicodedata.normalize("NFD", text)
    assert nfd != text
    (tmp_path / "a.jsonl").write_bytes(lines({"text": nfd}, {"text": text}))
    documents, counts = read(card_of(tmp_path, "a.jsonl"))
    assert [document.text for document in documents] == [text, text]
    assert counts["normalised_nfc"] == 1


ROW_FAULTS = [
    ("not_json", b'{"messages": [}', "not JSON: Expecting value: line 1 column 15 (char 14)"),
    ("not_json", b"[" * 100_000, "not JSON: "),
    ("not_object", b'["a"]', "the row is a list, expected an object"),
    ("not_object", b"null", "the row is null, expected an object"),
    ("missing_field", b'{"message": [], "id": 1}', 'no field "messages" (there is: id, message); `message`? Name it under format.fields'),
    ("missing_field", b'{"messages": [{"role": "user", "text": "a"}]}', 'messages[0] has no field "content" (there is: role, text); name the right one under format.fields'),
    ("wrong_type", b'{"messages": "a"}', "messages is text, expected a list of turns"),
    ("wrong_type", b'{"messages": ["a"]}', "messages[0] is text; a turn is an object"),
    ("wrong_type", b'{"messages": [{"role": "user", "content": [1]}]}', "messages[0].content is a list, expected text"),
    ("wrong_type", b'{"messages": [{"role": "user", "content": true}]}', "messages[0].content is true or false, expected text"),
    ("null", b'{"messages": null}', "messages is null, expected a list of turns"),
    ("null", b'{"messages": [{"role": "user", "content": null}]}', "messages[0].content is null, expected text"),
    ("empty", b'{"messages": []}', "messages is empty"),
    ("empty", b'{"messages": [{"role": "user", "content": " \\n"}]}', "messages[0].content is empty"),
    ("bad_role", lines(turns("a", "b", "c")).replace(b'"user", "content": "c"', b'"gpt", "content": "c"'), 'messages[2].role = "gpt", expected system, user, assistant or tool; add role_map:'),
    ("bad_role", b'{"messages": [{"role": null, "content": "a"}]}', "messages[0].role = null, expected system, user, assistant or tool; add role_map:"),
    ("bad_role", b'{"messages": [{"role": ["user"], "content": "a"}]}', 'messages[0].role = ["user"], expected system'),
    ("role_order", lines(turns("a", "b")).replace(b"user", b"assistant"), 'messages[0].role = "assistant" comes first, expected system or user'),
    ("role_order", b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}]}', 'messages[2].role = "assistant" follows assistant, expected user or tool'),
    ("role_order", b'{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}', 'messages[1].role = "system" follows user, expected assistant'),
    ("no_answer", lines(turns("a")), "messages has no assistant turn, there is nothing to learn"),
    ("tool_call", b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{}]}]}', "messages[1].tool_calls is set; write tool calls out in the content"),
    ("lone_surrogate", b'{"messages": [{"role": "user", "content": "ab\\ud800"}]}', "messages[0].content has half a surrogate pair (U+D800) at character 3"),
    ("nul_character", b'{"messages": [{"role": "user", "content": "a\\u0000"}]}', "messages[0].content has U+0000 at character 2"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "row", "expected"), ROW_FAULTS)
def test_a_bad_row_is_named_or_dropped(tmp_path: Path, reason: str, row: bytes, expected: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(KO_AR) + b"\n" + row.strip() + b"\n" + lines(KO_AR))
    loaded = card_of(tmp_path, "a.jsonl", format=CHAT)
    assert refusal(loaded).startswith(f"a.jsonl:3: {expected}")
    documents, counts = read(loaded, on_bad_row="drop")
    assert [document.where for document in documents] == ["a.jsonl:1", "a.jsonl:4"]
    assert counts == {"rows_read": 3, "rows_used": 2, "normalised_nfc": 0, f"dropped.{reason}": 1}


def test_no_row_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": ""}, {"text": ""}, 3))
    told = refusal(card_of(tmp_path, "a.jsonl", format=TEXT), on_bad_row="drop")
    assert told.endswith("no row is left (dropped: empty 2, not_object 1)")


def test_a_named_input_column_is_a_promise(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"instruction": "a", "output": "b"}))
    format = {"kind": "instruction", "fields": {"input": "material"}}
    told = refusal(card_of(tmp_path, "a.jsonl", format=format))
    assert told.startswith('a.jsonl:1: no field "material" (there is: instruction, output)')


def test_a_csv_row_with_too_many_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\nc,d,e\n", "utf-8")
    told = refusal(card_of(tmp_path, "a.csv", format={"kind": "prompt_completion"}))
    assert told == "a.csv:3: 3 columns, the header has 2"


def test_a_parquet_column_that_is_not_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"frage": ["a"], "completion": ["b"]}), tmp_path / "a.parquet")
    told = refusal(card_of(tmp_path, "a.parquet", format={"kind": "prompt_completion"}))
    assert told.startswith('a.parquet:1: no field "prompt" (there is: completion, frage)')


NOISE = hashlib.sha512(b"noise").digest() * 4000  # does not compress to one block
GOOD = lines(*(turns(f"질문 {n} {NOISE[n : n + 40].hex()}", "답") for n in range(2000)))
GZIP = gzip.compress(GOOD, mtime=0)
PARQUET = io.BytesIO()
pq.write_table(pa.table({"text": ["가" * 1000] * 100}), PARQUET)

BROKEN_FILES = [
    ("a.jsonl.gz", GZIP[:-2000], "a.jsonl.gz: the compressed file is cut short"),
    ("a.jsonl.gz", b"no gzip at all", "a.jsonl.gz: not a sound gzip file: Not a gzipped file (b'no')"),
    ("a.jsonl.gz", GZIP[:5000] + bytes(99) + GZIP[5099:], "a.jsonl.gz: not a sound gzip file: "),
    ("a.jsonl.zst", PACKERS[".zst"](GOOD)[:-2000], "a.jsonl.zst: the compressed file is cut short"),
    ("a.jsonl.zst", b"no zst at all", "a.jsonl.zst: the file is damaged: "),
    ("a.parquet", PARQUET.getvalue()[:-500], "a.parquet: not a sound Parquet file: "),
    ("a.parquet", b"no parquet at all", "a.parquet: not a sound Parquet file: "),
    ("a.txt", b"\x7fELF\x02\x01\x01\x00\x00", "a.txt: binary data, text was expected (a zero byte at offset 7)"),
    ("a.txt", b"%PDF-1.7 ...", "a.txt: this is a PDF, text was expected"),
    ("a.jsonl", GZIP, "a.jsonl: this is a gzip file, text was expected"),
    ("a.csv", b"PK\x03\x04...", "a.csv: this is a zip archive or office document, text was expected"),
    ("a.txt", "가".encode("utf-16"), "a.txt: this is UTF-16 text, text was expected"),
    ("a.jsonl", b"", "a.jsonl: the file is empty"),
    ("a.parquet", b"", "a.parquet: the file is empty"),
    ("a.jsonl", b"\n \n", "a.jsonl: the file has no rows"),
    ("a.jsonl.gz", gzip.compress(b"", mtime=0), "a.jsonl.gz: the file has no rows"),
    ("a.json", b"[]", "a.json: the file has no rows"),
    ("a.csv", b"text\n", "a.csv: the file has no rows"),
    ("a.csv", b"text,text\na,b\n", "a.csv:1: the header names a column twice or not at all: text, text"),
    ("a.csv", b'text\n"open\n', "a.csv:2: not sound CSV: unexpected end of data"),
    ("a.json", b'{\n"text": "a"\n}', "a.json: a .json file holds a list of objects, this one does not begin with ["),
    ("a.json", b'[{"text": "a"}, {"text": ', "a.json:2: not JSON: Expecting value: "),
    ("a.json", b'[{"text": "a"}', "a.json:1: not JSON: the list is cut short"),
    ("a.json", b'[{"text": "a"} {"text": "b"}]', "a.json:1: not JSON: expected a comma or ] behind the element"),
    ("a.json", b'[{"text": "a"}] x', "a.json:1: something stands behind the end of the list"),
    ("a.json", b'[{"text": "a"},]', "a.json:2: not JSON: Expecting value: "),
    ("a.docx", b"x", "a.docx: no reader for files named *.docx"),
    ("a.parquet.gz", b"x", "a.parquet.gz: no reader for files named *.parquet.gz"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), BROKEN_FILES)
@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
def test_a_broken_file_is_named(
    tmp_path: Path, name: str, content: bytes, expected: str, on_bad_row: str
) -> None:
    (tmp_path / name).write_bytes(content)
    loaded = card_of(tmp_path, name)
    assert refusal(loaded, on_bad_row=on_bad_row).startswith(expected)


def test_a_damaged_parquet_page(tmp_path: Path) -> None:
    data = bytearray(PARQUET.getvalue())
    data[20:60] = bytes(40)
    (tmp_path / "a.parquet").write_bytes(data)
    assert "damaged" in refusal(card_of(tmp_path, "a.parquet"))


@pytest.mark.parametrize(
    ("codec", "language", "text"),
    [("cp949", "ko", "좋은 아침입니다, 뷁"), ("cp1256", "ar", "صباح الخير"), ("gb18030", "zh", "早上好"), ("cp932", "ja-JP", "おはよう")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
def test_bytes_that_are_not_utf8(tmp_path: Path, codec: str, language: str, text: str, name: str) -> None:
    head = "ok 가\n" if name == "a.txt" else '{"text": "가"}\n' if name == "a.jsonl" else "text\n"
    tail = f'{{"text": "{text}"}}' if name == "a.jsonl" else text
    if name == "a.json":
        head, tail = '[{"text":\n"', f'{text}"}}]'
    raw = head.encode() + tail.encode(codec)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UnicodeDecodeError) as truth:
        raw.decode()
    told = refusal(card_of(tmp_path, name, languages=(language,)))
    at = truth.value.start
    line = 1 if name == "a.json" else 2
    assert told == f"{name}:{line}: not UTF-8 at byte {at} (0x{raw[at]:02x}); it looks like {codec.upper()}"


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "LINE_LIMIT", 2**20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines({"text": "a"}) + b" " * (2**20 + 1)))
    assert refusal(card_of(tmp_path, "a.jsonl.gz")) == "a.jsonl.gz:2: the line is longer than 1 MB"


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    told = {name: refusal(card_of(tmp_path, name)) for name in ("loop.jsonl", "gone.jsonl", "folder.jsonl")}
    assert told == {
        "loop.jsonl": "loop.jsonl: a symbolic link that leads back to itself",
        "gone.jsonl": "gone.jsonl: there is no such file",
        "folder.jsonl": "folder.jsonl: a folder without .md files stands where a file is expected",
    }


def test_a_circular_link_among_markdown(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.md").write_text("가", "utf-8")
    (tmp_path / "book" / "b.md").symlink_to("b.md")
    assert refusal(card_of(tmp_path, "book")) == "book/b.md: a symbolic link that leads back to itself"


@pytest.fixture
def _nobody() -> Iterator[None]:
    """Tests may run as root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.usefixtures("_nobody")
def test_no_permission_to_read(kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = card_of(folder, "a.jsonl" if kind == "file" else "book")
        closed = folder / loaded.card.files[0].path
        if kind == "file":
            closed.write_bytes(lines(KO_AR))
        else:
            closed.mkdir()
        closed.chmod(0)
        assert refusal(loaded) == f"{closed.name}: no permission to read it"
        with pytest.raises(DataRefused, match="no permission to read it"):
            verify_files(loaded, None)
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.txt", CHAT, "a .txt file holds running text, format.kind is chat"),
        ("a.md", {"kind": "text", "fields": {"document": "line"}}, "each .md file is one document, format.fields.document is line"),
        ("a.txt", {"kind": "text", "fields": {"text": "body"}}, "a .txt file has no fields, format.fields.text is body"),
        ("a.jsonl", {"kind": "text", "fields": {"document": "file"}}, "format.fields.document is for .txt files, in .jsonl each row is a document"),
        ("a.jsonl", {"kind": "text", "delimiter": ";"}, "format.delimiter is for .csv and .tsv, this is .jsonl"),
    ],
)  # fmt: skip
def test_a_setting_that_the_file_cannot_follow(
    tmp_path: Path, name: str, format: object, expected: str
) -> None:
    (tmp_path / name).write_text('{"text": "a"}', "utf-8")
    assert refusal(card_of(tmp_path, name, format=format)) == f"{name}: {expected}"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv", "a.parquet"])
def test_rows_are_counted_as_they_are_read(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"줄\n{n}"} for n in range(2500)]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    elif name == "a.csv":
        path.write_bytes(as_csv(rows, ","))
    else:
        data = json.dumps(rows).encode() if name == "a.json" else b"\n" + lines(*rows) + b"  \n"
        path.write_bytes(PACKERS[path.suffix if path.suffix in PACKERS else ""](data))
    loaded = card_of(tmp_path, name)
    assert len(read(loaded)[0]) == 2500
    figures = measure(loaded.card, loaded.card.files[0], tmp_path)
    assert figures.rows == 2500
    assert figures.hash.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_reading_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "1"}) + b"broken")
    documents = read_documents(card_of(tmp_path, "a.jsonl"), SourceRequest(), Counter())
    assert next(documents).text == "1"
    with pytest.raises(DataRefused, match=r"a\.jsonl:2: not JSON"):
        next(documents)


SAFE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)
DIALOGUES = st.tuples(st.none() | SAFE, st.lists(st.tuples(SAFE, SAFE), min_size=1, max_size=4))


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(DIALOGUES, min_size=1, max_size=4),
    st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst", "json"]),
    st.booleans(),
)
def test_any_dialogue_survives(
    dialogues: list[tuple[str | None, list[tuple[str, str]]]], suffix: str, ascii_only: bool
) -> None:
    wanted = []
    for system, pairs in dialogues:
        messages = [Message("system", system)] if system else []
        for question, answer in pairs:
            messages += [Message("user", question), Message("assistant", answer)]
        wanted.append(messages)
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in messages]} for messages in wanted]
    if suffix == "json":
        data = json.dumps(rows, ensure_ascii=ascii_only).encode()
    else:
        data = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"a.{suffix}").write_bytes(PACKERS[suffix[5:] if suffix != "json" else ""](data))
        documents, _ = read(card_of(folder, f"a.{suffix}", format=CHAT))
    normal = [
        tuple(Message(m.role, unicodedata.normalize("NFC", m.content)) for m in messages)
        for messages in wanted
    ]
    assert [document.messages for document in documents] == normal


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "messages", "from", "value", "x"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(derandomize=True, max_examples=50, deadline=None)
@given(JSON_VALUES, st.sampled_from(["chat", "instruction", "prompt_completion", "text"]))
def test_any_json_is_a_document_or_a_fault(value: object, kind: Kind) -> None:
    if isinstance(value, str):
        return
    for row in (value, {"messages": value, "text": value, "prompt": value, "instruction": value}):
        try:
            document, _ = to_document(row, Format(kind=kind), "x:1")
        except RowFault:
            continue
        assert document.messages or document.text


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = {
    "README.md": b"---\nlicense: cc0-1.0\n---\n",
    "data/train-00000.jsonl": lines({"text": "하나"}, {"text": "둘"}),
    "data/train-00001.jsonl": lines({"text": "셋"}),
    "data/test-00000.jsonl": lines({"text": "넷"}),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hub on loopback with one data set; gives the list of paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(self.path)
            if "/tree/" in self.path:
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for name, body in HUB_FILES.items()
                ]
                self.answer(json.dumps(entries).encode(), "application/json")
            elif f"/org/set/resolve/{COMMIT}/" in self.path:
                self.answer(HUB_FILES[self.path.split(f"/{COMMIT}/")[1]], "application/octet-stream")
            else:
                self.send_error(404)

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    yield asked
    server.shutdown()
    server.server_close()


def hub_card(folder: Path, split: str) -> LoadedCard:
    names = [name for name in HUB_FILES if f"/{split}-" in name]
    listing = "".join(f"{name} {hashlib.sha256(HUB_FILES[name]).hexdigest()}\n" for name in sorted(names))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    rows = sum(HUB_FILES[name].count(b"\n") for name in names)
    entry = {"revision": COMMIT, "split": split, "sha256": sha256, "rows": rows}
    return card_of(folder, "hub:org/set", **entry)


def test_a_hub_data_set_is_fetched_once(tmp_path: Path, hub: list[str]) -> None:
    loaded = hub_card(tmp_path, "train")
    (found,) = verify_files(loaded, "train")
    assert found.path == "hub:org/set"
    assert found.bytes == sum(len(body) for name, body in HUB_FILES.items() if "train" in name)
    assert hub
    hub.clear()
    documents, _ = read(loaded, split="train")
    assert [document.text for document in documents] == ["하나", "둘", "셋"]
    assert documents[2].where == "hub:org/set/data/train-00001.jsonl:1"
    assert [document.text for document in read(hub_card(tmp_path, "test"))[0]] == ["넷"]
    assert hub == []  # from the cache


def test_a_hub_split_that_is_not_there(tmp_path: Path, hub: list[str]) -> None:
    entry = hub_card(tmp_path, "train").card.files[0]
    loaded = card_of(tmp_path, "hub:org/set", **entry.model_dump() | {"split": "dev"})
    assert refusal(loaded) == "hub:org/set: no split named dev"
    loaded = card_of(tmp_path, "hub:org/set", **entry.model_dump() | {"split": None})
    assert refusal(loaded) == "hub:org/set: several splits, and the card names none"
    loaded = card_of(tmp_path, "hub:org/set", **entry.model_dump() | {"config": "large"})
    assert refusal(loaded).startswith("hub:org/set: `datasets` finds no such data in it: ")


def test_a_hub_data_set_that_is_not_there(tmp_path: Path, hub: list[str]) -> None:
    loaded = card_of(tmp_path, "hub:org/nothing", revision="main")
    with pytest.raises(
        EnvironmentFault, match="hub:org/nothing at main is not in the cache and cannot be fetched"
    ):
        files_of(loaded.card, loaded.card.files[0], tmp_path)


def test_a_path_from_the_root_is_not_given_away(tmp_path: Path) -> None:
    data = lines({"text": "1"}, {"text": ""})
    (tmp_path / "a.jsonl").write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "rows": 2}
    loaded = card_of(tmp_path / "elsewhere", str(tmp_path / "a.jsonl"), **entry)
    (found,) = verify_files(loaded, None)
    assert found.path == "a.jsonl"
    assert refusal(loaded) == "a.jsonl:2: text is empty"
