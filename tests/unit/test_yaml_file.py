"""Files as people write them: values, places, and a plain sentence for everything that is refused."""

import math
import os
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.yaml_file import MAX_BYTES, Place, core_scalar, parse_value, parse_yaml, read_yaml
from sovtune.yaml_write import yaml_lines

examples = settings(derandomize=True, max_examples=50, deadline=None)

CORE = [
    ("1e-4", 1e-4),
    ("2E5", 2e5),
    ("1.", 1.0),
    (".5", 0.5),
    ("-3", -3),
    ("+7", 7),
    ("012", 12),
    ("0o17", 15),
    ("0x1F", 31),
    ("true", True),
    ("False", False),
    ("TRUE", True),
    ("null", None),
    ("~", None),
    ("", None),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    # text, although YAML 1.1 or a hopeful reader may see something else
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("tRUE", "tRUE"),
    ("1_000", "1_000"),
    ("12:30:45", "12:30:45"),
    ("2026-11-22", "2026-11-22"),
    ("0b11", "0b11"),
    ("1e", "1e"),
    ("٣", "٣"),
    ("9" * 5000, "9" * 5000),
]


@pytest.mark.parametrize(("text", "value"), CORE, ids=[repr(text[:12]) for text, _ in CORE])
def test_core_schema(text: str, value: object) -> None:
    found = core_scalar(text)
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(f"key: {text}\n", "r").values == {"key": value}
    if text:
        assert parse_yaml(f'key: "{text}"\n', "r").values == {"key": text}


def test_nan() -> None:
    assert math.isnan(core_scalar(".nan"))


def test_places_of_keys_values_and_items() -> None:
    file = parse_yaml("# c\ntrain:\n  steps: 3\ndata:\n  - card: a\n  - {card: b, share: 0.5}\n", "r.yaml")
    assert file.values == {"train": {"steps": 3}, "data": [{"card": "a"}, {"card": "b", "share": 0.5}]}
    assert not file.problems
    mark = file.marks["train", "steps"]
    assert (mark.key, mark.value, mark.text) == (Place("r.yaml", 3, 3), Place("r.yaml", 3, 10), "3")
    assert file.marks["data", 1].value == Place("r.yaml", 6, 5)
    assert file.marks["data", 1, "share"].key == Place("r.yaml", 6, 15)
    assert file.marks[()].key == Place("r.yaml", 2, 1)


def test_lines_are_those_an_editor_shows_with_windows_ends() -> None:
    assert parse_yaml("a: 1\r\n\r\nb: 2\r\n", "r").marks["b",].key.line == 3


def test_columns_count_characters_not_bytes() -> None:
    assert parse_yaml("{한국: 1, b: 2}\n", "r").marks["b",].key.column == 9


REFUSED = [
    ("empty", "", 1, "the file is empty"),
    ("blank", "\n  \n", 1, "the file is empty"),
    ("comments", "# only\n", 1, "holds no keys"),
    ("list", "\n- a\n", 2, "found a list"),
    ("scalar", "hello\n", 1, "found a single value"),
    ("anchor", "a: 1\nb: &x 2\n", 2, "anchor `&x`"),
    ("alias", "a: 1\nb: *x\n", 2, "alias `*x`"),
    ("recursive alias", "a: &x\n  - *x\n", 1, "anchor `&x`"),
    ("merge key", "a: 1\n<<: {b: 2}\n", 2, "merge key"),
    ("duplicate", "a: 1\nb: 2\na: 3\n", 3, "stands twice (first on line 1)"),
    ("duplicate below", "s:\n  a: 1\n  a: 1\n", 3, "stands twice (first on line 2)"),
    ("tab", "a:\n\tb: 1\n", 2, "a tab where spaces belong"),
    ("tab deeper", "a:\n  b: 1\n \tc: 1\n", 3, "a tab where spaces belong"),
    (
        "python object",
        "a: !!python/object/apply:os.system ['x']\n",
        1,
        "tag `!!python/object/apply:os.system`",
    ),
    ("own tag", "a: 1\nb: !secret x\n", 2, "tag `!secret`"),
    ("standard tag", "a: !!str 1\n", 1, "tag `!!str`"),
    ("two documents", "a: 1\n---\nb: 2\n", 2, "a second document"),
    ("directive", "%YAML 1.1\n---\na: 1\n", 1, "`%` directive"),
    ("BOM inside", "a: 1\n\ufeffb: 2\n", 2, "U+FEFF"),
    ("control character", "a: 1\nb: x\x07y\n", 2, "U+0007"),
    ("line separator", "a: x\u2028y\n", 1, "U+2028"),
    ("escape beyond Unicode", 'a: 1\nb: "\\UFFFFFFFF"\n', 2, "names no character"),
    ("half a surrogate", 'a: 1\nb: "\\ud83d"\n', 2, "surrogate"),
    ("deep nesting", "a: " + "[" * 5000 + "\n", 1, "levels of nesting"),
    ("unknown escape", 'a: "C:\\path"\n', 1, "unknown `\\` escape"),
    ("open quote", "a: 1\nb: 'x\nc: 2\n", 2, "never closed"),
    ("open bracket", "a: 1\nb: [1, 2\nc: 3\n", 2, "lacks a `,` or its `]`"),
    ("open brace", "a: 1\nb: {c: 2\n", 2, "lacks a `,` or its `}`"),
    ("two colons", "a: b: c\n", 1, "a `:` that does not fit"),
    ("no colon", "a: 1\nb\n", 2, "a line without `:`"),
    ("indentation", "a:\n    b: 1\n  c: 1\n", 3, "indentation"),
    ("at sign", "a: @x\n", 1, "cannot begin with `@`"),
    ("key that is a list", "? [a, b]\n: 1\n", 1, "a key must be a word"),
]


@pytest.mark.parametrize(
    ("text", "line", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode())
    problems = read_yaml(path).problems
    assert problems
    assert (problems[0].file, problems[0].line) == (str(path), line)
    assert problems[0].column >= 1
    assert words in problems[0].message


def test_every_refused_thing_is_reported_at_once() -> None:
    file = parse_yaml("a: &x 1\nb: *x\na: 2\nc: !t 3\n<<: {d: 1}\n---\ne: 1\n", "r")
    assert sorted(problem.line for problem in file.problems) == [1, 2, 3, 4, 5, 6]
    assert file.values == {"a": 1, "b": None, "c": 3}


BYTES = [
    (b"\xef\xbb\xbfa: 1\n", 1, 1, "byte order mark"),
    ("a: 1\n".encode("utf-16"), 1, 1, "UTF-16"),
    ("a: 1\nb: 한국\n".encode("euc-kr"), 2, 4, "not UTF-8"),
    ("a: é\n".encode("latin-1"), 1, 4, "0xe9"),
]


@pytest.mark.parametrize(("data", "line", "column", "words"), BYTES)
def test_other_encodings(tmp_path: Path, data: bytes, line: int, column: int, words: str) -> None:
    (tmp_path / "r.yaml").write_bytes(data)
    (problem,) = read_yaml(tmp_path / "r.yaml").problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


def test_decomposed_text_stays_as_it_is(tmp_path: Path) -> None:
    text = unicodedata.normalize("NFD", "한국어")
    (tmp_path / "r.yaml").write_text(f"a: {text}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "r.yaml").values == {"a": text}


def test_ten_megabytes_are_refused_before_parsing(tmp_path: Path) -> None:
    path = tmp_path / "corpus.yaml"
    path.write_bytes(b"a: &x [1]\n" * 1_000_000)
    started = time.process_time()
    (problem,) = read_yaml(path).problems
    assert time.process_time() - started < 0.2
    assert "larger than 1 MB" in problem.message


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"a: 1\n#" + b"x" * (MAX_BYTES - 6))
    assert read_yaml(path).values == {"a": 1}
    path.write_bytes(b"a: 1\n#" + b"x" * (MAX_BYTES - 5))
    assert read_yaml(path).values is None


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart-ko.yaml").write_text("a: 1\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    cases = {
        tmp_path: "this is a folder",
        tmp_path / "none.txt": "there is no such file",
        tmp_path / "pipe.yaml": "not a regular file",
        tmp_path / "circle.yaml": "cannot read this file",
        tmp_path / ("x" * 300): "cannot read this file",
        tmp_path / "quickstart-ko.yaml" / "below": "cannot read this file",
        tmp_path / "a\0b": "NUL",
    }
    for path, words in cases.items():
        file = read_yaml(path)
        assert file.values is None
        assert [problem.line for problem in file.problems] == [0]
        assert words in file.problems[0].message, path
    near = read_yaml(tmp_path / "quikstart-ko.yaml").problems[0].suggestion
    assert near == str(tmp_path / "quickstart-ko.yaml")


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\n")
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # root may read everything; for the length of one call this process is somebody else
        os.seteuid(65534)
    try:
        (problem,) = read_yaml(path).problems
    finally:
        if root:
            os.seteuid(0)
    assert "no permission" in problem.message


def test_a_file_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
    read_yaml(path).problems[0].file.encode()


def test_a_value_alone() -> None:
    assert parse_value("1e-4", "--set")[0] == 1e-4
    assert parse_value("[q_proj, v_proj]", "--set")[0] == ["q_proj", "v_proj"]
    assert parse_value("dir:out", "--set")[0] == "dir:out"
    value, marks, problems = parse_value("[1, &x 2]", "--set")
    assert value == [1, 2]
    assert marks[1,].value == Place("--set", 0, 0)
    assert [problem.line for problem in problems] == [0]


PIECES = ["a", "b: ", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&x", "*x", "!t", "'", '"', "\\", "\t"]
PIECES += ["#", "|", ">", "%", "---", "...", "?", "<<", "\x00", "\ud800", "한", "\r", "\\UFFFFFFFF", "\u2028"]
SOUP = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@examples
@given(st.one_of(SOUP, st.text(max_size=60)))
def test_whatever_stands_in_a_file_nothing_is_raised(text: str) -> None:
    file = parse_yaml(text, "r")
    assert file.values is not None or file.problems
    assert all(problem.line >= 1 and problem.message for problem in file.problems)


def test_arbitrary_bytes_never_raise(tmp_path: Path) -> None:
    @examples
    @given(st.binary(max_size=80))
    def check(data: bytes) -> None:
        (tmp_path / "r.yaml").write_bytes(data)
        file = read_yaml(tmp_path / "r.yaml")
        assert file.values is not None or file.problems

    check()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(
        ["yes", "1e-4", "~", "", " x", "x ", "a: b", "#", "-", "0o7", "dir:x", "\u2028", "../a", "x\n"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@examples
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4))
def test_what_is_written_reads_back(values: dict[str, object]) -> None:
    lines = list(yaml_lines(values))
    file = parse_yaml("".join(f"{line}\n" for line, _ in lines), "r")
    assert not file.problems
    assert file.values == values
    assert [file.marks[path].value.line for _, path in lines if path is not None] == [
        number for number, (_, path) in enumerate(lines, 1) if path is not None
    ]
