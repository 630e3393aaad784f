"""Data cards: what they must say, how mistakes are told, how files are held to them."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovtune.data.card import LoadedCard, check_card, load_card, verify_files
from sovtune.data.card_schema import DataCard, Fields
from sovtune.errors import CardError, DataRefused, LicenceRefused
from sovtune.schema_walk import descriptions
from sovtune.section import Section

ROWS = (
    '{"messages": [{"role": "user", "content": "안녕하세요"}, {"role": "assistant", "content": "네, 안녕하세요."}]}\n'
    "\n"
    '{"messages": [{"role": "user", "content": "مرحبا"}, {"role": "assistant", "content": "أهلا"}]}\n'
)
CARD = """\
schema_version: 1
id: greetings
version: "2026.10"
title: Greetings in two languages
files:
  - path: a.jsonl  # the only file
    sha256: {sha256}
    bytes: {bytes}
    rows: 2
languages: [{{tag: ko, share: 0.6}}, {{tag: ar, share: 0.4}}]
licence: {{expression: cc0-1.0}}
rights: {{basis: own-work, training: yes}}
sources: [{{kind: own, name: written for these tests}}]
personal_data: {{contains: none}}
annotation: {{by: the authors}}
contact: data@example.org
"""


def write_card(
    folder: Path, *changes: tuple[str, str], rows: bytes = ROWS.encode(), name: str = "a.jsonl"
) -> Path:
    """A data file and its card, with parts of the card's text exchanged."""
    (folder / name).write_bytes(rows)
    text = CARD.format(sha256=hashlib.sha256(rows).hexdigest(), bytes=len(rows))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "card.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, *changes: tuple[str, str]) -> LoadedCard:
    return load_card(write_card(folder, *changes))


def mistakes(folder: Path, *changes: tuple[str, str]) -> list[str]:
    path = write_card(folder, *changes)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.problems == check_card(path)
    return [
        str(problem).removeprefix(f"{caught.value.problems[0].file}:") for problem in caught.value.problems
    ]


def test_a_sound_card(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.card.licence.expression == "CC0-1.0"
    assert loaded.card.sensitivity == "internal"
    assert loaded.folder == tmp_path
    assert loaded.where("files", 0, "rows").endswith("card.yaml:9:11")
    assert check_card(loaded.path) == []
    (found,) = verify_files(loaded, None)
    assert (found.path, found.bytes) == ("a.jsonl", len(ROWS.encode()))


def _our_sections() -> list[type[Section]]:
    return [kind for kind in Section.__subclasses__() if kind.__module__.startswith("sovtune.data.card")]


def test_sections_have_at_most_twelve_fields() -> None:
    ours = _our_sections()
    assert len(ours) > 15
    for kind in ours:  # of the names in Fields, a kind of row reads six at most
        assert kind in (DataCard, Fields) or len(kind.model_fields) <= 12, kind
        assert set(descriptions(kind)) == set(kind.model_fields), kind


@pytest.mark.parametrize(
    "line",
    [line for line in CARD.splitlines() if not line.startswith((" ", "files:", "annotation"))]
    + ["    sha256: {sha256}", "    rows: 2"],
)
def test_every_required_key_is_missed(tmp_path: Path, line: str) -> None:
    path = write_card(tmp_path)
    key = line.strip().partition(":")[0]
    text = "\n".join(
        old for old in path.read_text("utf-8").splitlines() if not old.strip().startswith(f"{key}:")
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CardError) as caught:
        load_card(path)
    missing = [problem for problem in caught.value.problems if "this key is missing" in problem.message]
    assert [problem.path.split(".")[-1] for problem in missing] == [key]


@pytest.mark.parametrize("word", ["yes", "true", "True", '"yes"'])
def test_yes_in_all_its_spellings(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, ("training: yes", f"training: {word}")).card.rights.training == "yes"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("title:", "titel:", "4:1: titel: unknown key (did you mean `title`?)"),
        ("training: yes", "trianing: yes", "12:27: rights.trianing: unknown key (did you mean `training`?)"),
        ('"2026.10"', "2026.10", '3:10: version: expected text, found 2026.10; put it in quotes (did you mean `"2026.10"`?)'),
        ("share: 0.6", "share: 0.7", "10:12: languages: the shares add up to 1.1, not 1"),
        ("tag: ar", "tag: ko", "10:12: languages: a language is named twice"),
        ("training: yes", "training: maybe", '12:37: rights.training: expected one of `yes`, `no`, `unknown`, found "maybe"'),
        ("contains: none", "contains: non", '14:27: personal_data.contains: expected one of `none`, `possible`, `yes`, `special-category`, found "non" (did you mean `none`?)'),
        ("contains: none", "contains: yes", "14:27: personal_data.contains: with yes, `lawful_basis` must say why"),
        ("contains: none", "contains: none, scan: {tool: x, date: 2026-01-01, findings: 3}", "14:27: personal_data.contains: none, but the scan left 3 findings: write possible or yes"),
        ("own-work", "permission", "12:17: rights.basis: a permission needs `agreement`: the file of the letter"),
        ("training: yes", "training: yes, expires: 31.12.2026", "12:51: rights.expires: expected a day, written YYYY-MM-DD, found '31.12.2026'"),
        ("cc0-1.0", "LicenseRef-Ours", "11:23: licence.expression: nobody can look up LicenseRef-Ours: name its text under `evidence` or `link`"),
        ("cc0-1.0", "cc0-1.0, sha256: " + "a" * 64, "11:40: licence.sha256: this is the hash of `evidence`, and there is none"),
        ("own-work, training: yes", "licence, training: yes, commercial: yes}\nlimits: [] #", ""),
        ("kind: own,", "kind: synthetic,", "13:10: sources: a source is synthetic: say which share of the rows\n13:18: sources.0.kind: synthetic data needs `generator`: model and terms"),
        ("kind: own,", "kind: own, crawler: x 1.0,", "13:32: sources.0.crawler: `crawler` is for kind crawl, this is own"),
        ("kind: own,", "kind: own, collected: [2026-02-01, 2026-01-01],", "13:34: sources.0.collected: the first day is after the last"),
        ("annotation: {by: the authors}", "limits: []", "13:18: sources.0.kind: for kind own, `annotation.by` must say how the data was made"),
        ("annotation:", "synthetic_share: 0.5\nannotation:", "15:18: synthetic_share: no source is synthetic: name the generator under sources"),
        ("path: a.jsonl", "path: hub:org/set", "6:11: files.0.path: a Hub data set needs `revision`, a commit"),
        ("    rows: 2", "    rows: 2\n    revision: abc", "10:15: files.0.revision: `revision` is for hub: data sets"),
        ("annotation:", "format: {kind: text, fields: {prompt: x}}\nannotation:", "15:39: format.fields.prompt: kind text reads only text, document"),
        ("annotation:", "format: {kind: text, role_map: {gpt: user}}\nannotation:", "15:32: format.role_map: `role_map` is for kinds chat, preference and feedback, this is text"),
        ("annotation:", "format: {kind: chat, role_map: {gpt: assistent}}\nannotation:", '15:38: format.role_map.gpt: expected one of `system`, `user`, `assistant`, `tool`, found "assistent" (did you mean `assistant`?)'),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    if not expected:
        assert load(tmp_path, (old, new)).card.rights.commercial == "yes"
        return
    assert mistakes(tmp_path, (old, new)) == expected.splitlines()


def test_non_commercial_licence_is_not_commercial(tmp_path: Path) -> None:
    change = ("basis: own-work, training: yes", "training: yes, commercial: true")
    (told,) = mistakes(tmp_path, ("cc0-1.0", "CC-BY-NC-4.0"), change)
    assert "CC-BY-NC-4.0 forbids commercial use; write no, or name another basis" in told


def test_unknown_licence_names_the_nearest(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, ("cc0-1.0", "CC-BY-4"))
    assert told.startswith("11:23: licence.expression: unknown licence `CC-BY-4` (did you mean `CC-BY-4.0`")


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_korean_open_government_licences_are_known(tmp_path: Path, kind: int) -> None:
    assert f"KOGL-{kind}" in load(tmp_path, ("cc0-1.0", f"KOGL-{kind}")).card.licence.expression


def test_files_with_and_without_split(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    entry = path.read_text("utf-8").split("files:\n")[1].split("languages")[0]
    text = path.read_text("utf-8")
    path.write_text(
        text.replace(entry, entry + "    split: train\n" + entry.replace("a.jsonl", "b.jsonl")), "utf-8"
    )
    with pytest.raises(CardError, match=r"files\.1: other files name a split, this one does not"):
        load_card(path)
    path.write_text(text.replace(entry, entry + entry), "utf-8")
    with pytest.raises(CardError, match=r"files\.1\.path: this file is named twice"):
        load_card(path)


def two_splits(folder: Path) -> LoadedCard:
    path = write_card(folder)
    entry = path.read_text("utf-8").split("files:\n")[1].split("languages")[0]
    (folder / "b.jsonl").write_text(ROWS, "utf-8")
    both = entry + "    split: train\n" + entry.replace("a.jsonl", "b.jsonl") + "    split: test\n"
    path.write_text(path.read_text("utf-8").replace(entry, both), "utf-8")
    return load_card(path)


def test_splits_are_chosen_and_refused(tmp_path: Path) -> None:
    loaded = two_splits(tmp_path)
    assert [file.path for file in verify_files(loaded, "test")] == ["b.jsonl"]
    with pytest.raises(DataRefused, match=r"several splits \(test, train\) and none is named"):
        verify_files(loaded, None)
    with pytest.raises(DataRefused, match=r"no split `trian` \(it has test, train\); did you mean `train`"):
        verify_files(loaded, "trian")


def test_split_of_a_card_without_splits(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"no split `train` \(it has none\)"):
        verify_files(load(tmp_path), "train")


@pytest.mark.parametrize(
    ("change", "text", "place"),
    [
        (("training: yes", "training: no"), "The card says no", "12:37"),
        (("training: yes", "training: unknown"), "The card says that nobody knows", "12:37"),
        (("training: yes", "training: yes, expires: 2020-02-29"), "ended on 2020-02-29", "12:51"),
    ],
)
def test_no_training_without_the_right(
    tmp_path: Path, change: tuple[str, str], text: str, place: str
) -> None:
    loaded = load(tmp_path, change)
    with pytest.raises(LicenceRefused, match=text) as caught:
        verify_files(loaded, None)
    assert caught.value.exit_code == 4
    assert str(caught.value.where).endswith(f"card.yaml:{place}")
    (problem,) = check_card(loaded.path)
    assert text in problem.message
    assert check_card(loaded.path, for_training=False) == []
    assert verify_files(loaded, None, for_training=False)


def test_a_right_that_ends_later_holds(tmp_path: Path) -> None:
    assert verify_files(load(tmp_path, ("training: yes", "training: yes, expires: 2999-01-01")), None)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    changed = ROWS.replace("네", "예") + ROWS.splitlines()[0]
    (tmp_path / "a.jsonl").write_text(changed, "utf-8")
    with pytest.raises(DataRefused) as caught:
        verify_files(loaded, None)
    told = str(caught.value)
    assert caught.value.exit_code == 4
    assert "card.yaml:6:5: a.jsonl is not what the card describes" in told
    assert f"bytes {len(changed.encode())}, expected {len(ROWS.encode())}" in told
    assert "rows 3, expected 2" in told
    assert (
        f"sha256 {hashlib.sha256(changed.encode()).hexdigest()}, expected {loaded.card.files[0].sha256}"
        in told
    )
    assert "only if the change was meant: `python scripts/hash_card.py" in told


def test_same_size_other_bytes_are_refused(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    (tmp_path / "a.jsonl").write_text(ROWS.replace("네", "예"), "utf-8")
    assert check_card(loaded.path) == []  # check does not read data
    with pytest.raises(DataRefused, match=r"describes: sha256 \w+, expected \w+\n"):
        verify_files(loaded, None)


def test_wrong_row_count_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="describes: rows 2, expected 3\n"):
        verify_files(load(tmp_path, ("rows: 2", "rows: 3")), None)


def test_a_missing_file(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataRefused, match=r"^a\.jsonl: there is no such file\n"):
        verify_files(loaded, None)
    (problem,) = check_card(loaded.path)
    assert (problem.line, problem.path) == (6, "files.0.path")
    assert problem.message == "cannot read a.jsonl: No such file or directory"


def test_licence_evidence_is_held_to_its_hash(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("You may.", "utf-8")
    sha256 = hashlib.sha256(b"You may.").hexdigest()
    loaded = load(tmp_path, ("cc0-1.0", f"LicenseRef-Letter, evidence: letter.txt, sha256: {sha256}"))
    assert verify_files(loaded, None)
    (tmp_path / "letter.txt").write_text("You may not.", "utf-8")
    with pytest.raises(DataRefused, match="the licence's evidence has changed: sha256"):
        verify_files(loaded, None)
    (tmp_path / "letter.txt").unlink()
    assert [problem.message for problem in check_card(loaded.path)] == ["there is no file letter.txt"]


def test_a_folder_of_markdown_is_one_entry(tmp_path: Path) -> None:
    book = tmp_path / "book" / "part"
    book.mkdir(parents=True)
    (book / "b.md").write_text("둘째", "utf-8")
    (tmp_path / "book" / "a.md.gz").write_bytes(gzip.compress("첫째".encode()))
    (tmp_path / "book" / "notes.log").write_text("not read", "utf-8")
    lines = sorted(
        f"{path.relative_to(tmp_path / 'book').as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in (book / "b.md", tmp_path / "book" / "a.md.gz")
    )
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    path = write_card(tmp_path, ("path: a.jsonl", "path: book"))
    text = path.read_text("utf-8").splitlines()
    size = (book / "b.md").stat().st_size + (tmp_path / "book" / "a.md.gz").stat().st_size
    text[6:8] = [f"    sha256: {sha256}", f"    bytes: {size}"]
    path.write_text("\n".join(text), "utf-8")
    assert check_card(path) == []
    (found,) = verify_files(load_card(path), None)
    assert (found.path, found.sha256) == ("book", sha256)
    (book / "c.md").write_text("셋째", "utf-8")
    with pytest.raises(DataRefused, match="rows 3, expected 2"):
        verify_files(load_card(path), None)


def test_check_imports_nothing_heavy(tmp_path: Path, root: Path) -> None:
    path = write_card(tmp_path)
    program = (
        "import sys, pathlib, sovtune.data.card as c, sovtune.data.sources\n"
        f"assert c.check_card(pathlib.Path({str(path)!r})) == []\n"
        "print([m for m in ('torch', 'pyarrow', 'datasets', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "[]\n"


def hash_card(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(root / "scripts" / "hash_card.py"), *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, env={**os.environ})


def test_hash_card_fills_in_figures_and_nothing_else(tmp_path: Path, root: Path) -> None:
    path = write_card(tmp_path)
    right = path.read_text("utf-8")
    lines = right.splitlines(keepends=True)
    lines[6:9] = ["    sha256: x   # of the file\n", "    bytes: '1'\n", "    rows: 7 # lines\n"]
    path.write_text("".join(lines), "utf-8")
    told = hash_card(root, str(path))
    assert told.returncode == 1
    assert "files.0.rows: 2 in the file, the card says 7" in told.stdout
    assert path.read_text("utf-8") == "".join(lines)  # nothing written without --write
    assert hash_card(root, str(path), "--write").returncode == 0
    sha256 = load_card(path).card.files[0].sha256
    lines[6:9] = [
        f"    sha256: {sha256}   # of the file\n",
        f"    bytes: {len(ROWS.encode())}\n",
        "    rows: 2 # lines\n",
    ]
    assert path.read_text("utf-8") == "".join(lines)
    assert verify_files(load_card(path), None)
    assert hash_card(root, str(path)).returncode == 0


def test_hash_card_needs_the_rest_of_the_card(tmp_path: Path, root: Path) -> None:
    told = hash_card(root, str(write_card(tmp_path, ("title:", "titel:"))))
    assert told.returncode == 2
    assert "did you mean `title`?" in told.stderr
    assert "Traceback" not in told.stderr


def test_json_schema_can_be_exported() -> None:
    schema = DataCard.model_json_schema()
    assert schema["additionalProperties"] is False
    assert json.dumps(schema)


def test_the_card_in_the_guide_is_sound(tmp_path: Path, root: Path) -> None:
    guide = (root / "docs" / "data-cards.md").read_text("utf-8")
    (example,) = [block for block in guide.split("```yaml\n")[1:] if block.startswith("schema_version")]
    path = tmp_path / "card.yaml"
    path.write_text(example.partition("```")[0], "utf-8")
    assert load_card(path).card.licence.expression == "CC-BY-SA-4.0"


def test_the_guide_names_every_key(root: Path) -> None:
    guide = (root / "docs" / "data-cards.md").read_text("utf-8")
    missing = {name for kind in _our_sections() for name in kind.model_fields if f"`{name}" not in guide}
    assert missing == set()
