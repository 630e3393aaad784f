"""`sovtune data scan` and `sovtune data card` as scripts and data stewards call them, in processes of their own."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cli_runs import environment, sovtune
from planted_texts import SENTENCES
from sovtune.data.card import check_card, load_card, verify_files
from sovtune.errors import DataRefused, SovtuneError, UsageError
from sovtune.progress import Reporter
from sovtune.scan_command import ScanRequest, scan_files

PHONE = "010-2345-6789"
KO = SENTENCES["ko"]


def documents(language: str, wanted: int) -> list[str]:
    """Texts of three sentences; two of them share one sentence at most, so that none is a near-duplicate."""
    chance = random.Random(language)
    sentences = SENTENCES[language]
    pairs: set[frozenset[int]] = set()
    made: list[str] = []
    for _ in range(20_000):
        first, second, third = chance.sample(range(len(sentences)), 3)
        new = {frozenset(pair) for pair in ((first, second), (first, third), (second, third))}
        if not pairs & new:
            pairs |= new
            made.append(" ".join(sentences[place] for place in (first, second, third)))
            if len(made) == wanted:
                return made
    raise AssertionError(f"only {len(made)} documents of {language}")


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_rows(path: Path, *rows: dict) -> Path:
    return write_lines(path, *(json.dumps(row, ensure_ascii=False) for row in rows))


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def corpus(folder: Path, repeats: int = 1, name: str = "big.jsonl") -> Path:
    """Rows that differ enough to stay, for runs that must take a while."""
    words = [word for sentence in KO for word in sentence.split()]
    chance = random.Random(7)
    rows = [
        {"text": " ".join(chance.choices(words, k=60)) + f" {number}."} for number in range(400 * repeats)
    ]
    return write_rows(folder / name, *rows)


def test_json_shapes_are_exact(tmp_path):
    write_rows(
        tmp_path / "a.jsonl",
        {
            "messages": [
                {"role": "user", "content": f"제 번호는 {PHONE}입니다."},
                {"role": "assistant", "content": KO[0]},
            ]
        },
        {"text": KO[1]},
        {"text": KO[1]},
        {"text": "The office is open from nine in the morning until six in the evening on weekdays."},
        {"text": KO[2]},
    )
    write_lines(tmp_path / "eval.txt", KO[2])
    done = sovtune(
        "data", "scan", "a.jsonl", "--language", "ko", "--candidates", "ko,en", "--against", "eval.txt",
        "--decisions", "rows.jsonl", "--out", "clean.jsonl", "--report", "report.html", "--json", "-q", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    shares = summary.pop("languages")
    assert summary == {
        "rows": 5, "kept": 2,
        "dropped": {"wrong_language": 1, "contamination": 1, "exact_duplicate": 1},
        "changed": {"personal_data": 1}, "pii": {"phone": 1},
    }  # fmt: skip
    assert list(shares) == ["ko", "en"] and sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert read_rows(tmp_path / "rows.jsonl") == [
        {"file": "a.jsonl", "row": row, "kept": kept, "reason": reason, "changed": changed, "pii": pii, "duplicate_of": of}
        for row, kept, reason, changed, pii, of in (
            (1, True, None, ["personal_data"], ["phone"], None),
            (2, True, None, [], [], None),
            (3, False, "exact_duplicate", [], [], "a.jsonl:2"),
            (4, False, "wrong_language", [], [], None),
            (5, False, "contamination", [], [], None),
        )
    ]  # fmt: skip
    assert read_rows(tmp_path / "clean.jsonl") == [
        {
            "messages": [
                {"role": "user", "content": "제 번호는 <전화번호>입니다."},
                {"role": "assistant", "content": KO[0]},
            ]
        },
        {"text": KO[1]},
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert PHONE not in page and "://" not in page and 'dir="auto"' in page
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == [
        "a.jsonl", "clean.jsonl", "eval.txt", "report.html", "rows.jsonl",
    ]  # fmt: skip


def test_several_held_out_files_follow_one_option(tmp_path):
    for number in range(3):
        write_lines(tmp_path / f"e{number}.txt", KO[number])
    write_lines(tmp_path / "a.txt", *KO[:5])
    done = sovtune(
        "data",
        "scan",
        "a.txt",
        "--against",
        "e0.txt",
        "e1.txt",
        "e2.txt",
        "--language",
        "ko",
        "--json",
        folder=tmp_path,
    )
    assert json.loads(done.stdout)["dropped"] == {"contamination": 3}, done.stderr


def test_the_table_tells_what_and_why(tmp_path):
    write_lines(tmp_path / "a.txt", KO[0], KO[0], f"전화 {PHONE} 로 연락해 주시면 자세히 알려 드리겠습니다.")
    done = sovtune("data", "scan", "a.txt", "--language", "ko", folder=tmp_path)
    assert done.returncode == 0
    assert "3 rows from 1 file: 2 kept (66.7 %)" in done.stdout
    assert "the same as another row 1" in done.stdout and "a.txt:2" in done.stdout
    assert PHONE not in done.stdout + done.stderr


def test_one_and_two_workers_give_the_same_bytes(tmp_path):
    """Two files of more than one part each; the second repeats rows of the first."""
    corpus(tmp_path)
    rows = read_rows(tmp_path / "big.jsonl")
    write_rows(tmp_path / "two.jsonl", *rows[::5], *({"text": text} for text in documents("ko", 20)))
    results = []
    for workers in ("1", "2"):
        outputs = [f"{name}{workers}.jsonl" for name in ("clean", "rows")]
        done = sovtune(
            "data", "scan", "big.jsonl", "two.jsonl", "--language", "ko", "--workers", workers, "--quality", "0.5,99.5",
            "--out", outputs[0], "--decisions", outputs[1], "--json", folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append((done.stdout, *((tmp_path / name).read_bytes() for name in outputs)))
    assert results[0] == results[1]
    assert json.loads(results[0][0])["dropped"]["exact_duplicate"] >= 70


CURATE = """
import sys
from pathlib import Path
from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_settings import GateSettings

if __name__ == "__main__":
    source = GateSource(file=LocalFile(path=Path("big.jsonl"), shown="big.jsonl"))
    with curate([source], GateSettings(language="ko"), Path("work"), workers=2, shard_bytes=100_000) as curated:
        print(curated.report.rows, curated.report.shards, curated.report.shards_reused)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Killed with SIGKILL after the first part; its workers leave too, and the second run redoes no finished part."""
    corpus(tmp_path, repeats=10)
    (tmp_path / "curate.py").write_text(CURATE)
    command = [sys.executable, "curate.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path))
    wait_for_parts(tmp_path / "work", 2, process)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone([int(child) for child in children])
    finished = finished_parts(tmp_path / "work")
    again = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    rows, shards, reused = map(int, again.stdout.split())
    assert rows == 4000 and 2 <= len(finished) == reused < shards
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list((tmp_path / "work").glob(".part-*"))


def finished_parts(work: Path) -> dict[Path, int]:
    """The parts under their final names; `.part-*` folders are still written, and go away at any moment."""
    return {path: path.stat().st_mtime_ns for path in work.glob("[!.]*/shard.json")}


def wait_for_parts(work: Path, wanted: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if len(finished_parts(work)) >= wanted:
            return
        time.sleep(0.02)
    raise AssertionError(f"no part was finished; exit code {process.poll()}")


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_an_edited_file_is_never_stale(tmp_path):
    path = write_lines(tmp_path / "a.txt", *KO[:3])
    outputs = {"work": tmp_path / "work", "out": tmp_path / "clean.jsonl"}
    scan_here(tmp_path, "a.txt", **outputs)
    assert scan_here(tmp_path, "a.txt", **outputs).shards_reused == 1
    stamp = path.stat()
    write_lines(path, KO[3], *KO[1:3])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert scan_here(tmp_path, "a.txt", **outputs).shards_reused == 0
    assert [row["text"] for row in read_rows(tmp_path / "clean.jsonl")] == [KO[3], *KO[1:3]]


def test_the_cache_is_empty_after_a_scan(tmp_path):
    write_lines(tmp_path / "a.txt", *KO[:3])
    scan_here(tmp_path, "a.txt")
    assert not list((Path(os.environ["SOVTUNE_HOME"]) / "gate").iterdir())


def make_broken_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(KO * 200).encode())[:-40])


def make_truncated_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": KO}), path)
    path.write_bytes(path.read_bytes()[:-30])


def make_endless_line(path: Path) -> None:
    """80 MB without a line end; reading stops at the limit, however long the line is."""
    path.write_bytes(b"a" * (80 << 20))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_legacy_csv_with_open_quote(path: Path) -> None:
    path.write_bytes('text\n"가나다 라마바\n'.encode("cp949"))


BROKEN = {
    "cut.jsonl.gz": (make_broken_gzip, 4, "the compressed file is cut short"),
    "cut.parquet": (make_truncated_parquet, 4, "not a sound Parquet file"),
    "long.txt": (make_endless_line, 4, "long.txt:1: the line is longer than 64 MB"),
    "binary.txt": (lambda path: path.write_bytes(random.Random(1).randbytes(5000)), 4, "binary data"),
    "picture.txt": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x01" * 50),
        4,
        "this is a picture",
    ),
    "empty.txt": (lambda path: path.write_bytes(b""), 4, "the file is empty"),
    "blank.txt": (lambda path: path.write_bytes(b" \n\n \n"), 4, "the file has no rows"),
    "loop.txt": (make_loop, 4, "a symbolic link that leads back to itself"),
    "keys.jsonl": (
        lambda path: path.write_text('{"question": "a"}\n'),
        4,
        "no row has the usual keys; there is: question",
    ),
    "quote.csv": (make_legacy_csv_with_open_quote, 4, "not sound CSV"),
    "table.xlsx": (lambda path: path.write_bytes(b"PK\x03\x04"), 4, "no reader for files named *.xlsx"),
    "absent.txt": (lambda path: None, 2, "there is no such file"),
}


def scan_here(folder: Path, *files: str, **more: object):
    """The scan in this process."""
    words = {"language": "ko", "workers": 1, **more}
    request = ScanRequest(files=tuple(folder / name for name in files), **words)
    return scan_files(request, Reporter(Console(stderr=True), quiet=True))


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_has_a_name_and_leaves_nothing(tmp_path, name):
    make, code, message = BROKEN[name]
    make(tmp_path / name)
    write_lines(tmp_path / "good.txt", *KO[:3])
    write_lines(tmp_path / "clean.jsonl", "what was here before")
    outputs = {"out": "clean.jsonl", "decisions": "rows.jsonl", "report": "report.html"}
    with pytest.raises(SovtuneError) as caught:
        scan_here(tmp_path, "good.txt", name, **{key: tmp_path / value for key, value in outputs.items()})
    assert caught.value.exit_code == code
    assert message in str(caught.value) and name in str(caught.value)
    assert (tmp_path / "clean.jsonl").read_text() == "what was here before\n"
    assert {path.name for path in tmp_path.iterdir()} <= {name, "good.txt", "clean.jsonl", "sovtune-home"}


def test_bad_input_ends_the_command_with_a_sentence(tmp_path):
    make_broken_gzip(tmp_path / "cut.jsonl.gz")
    done = sovtune("data", "scan", "cut.jsonl.gz", "--language", "ko", "--json", folder=tmp_path)
    assert done.returncode == 4 and done.stdout == ""
    assert done.stderr.startswith("sovtune: cut.jsonl.gz: the compressed file is cut short")


def test_no_permission_to_read(tmp_path):
    path = write_lines(tmp_path / "secret.txt", *KO[:3])
    assert scan_here(tmp_path, "secret.txt").kept == 3  # and everything is imported
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # root may read everything, nobody may not
    try:
        with pytest.raises(DataRefused, match="no permission to read it"):
            scan_here(tmp_path, "secret.txt")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("full", ["out", "work"])
def test_a_full_disk(tmp_path, full):
    """On a file system of 200 kB of its own; mounting one needs root."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        corpus(tmp_path, repeats=2)
        option = {"out": ("--out", "small/clean.jsonl"), "work": ("--work", "small/work")}[full]
        done = sovtune("data", "scan", "big.jsonl", "--language", "ko", *option, folder=tmp_path)
        left = sorted(path.name for path in small.rglob("*") if path.is_file())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert left == ([] if full == "out" else ["lock"])


WRONG = {
    "language": ({"language": "xx"}, "`xx` is no language tag"),
    "pii": ({"personal_data": "hide"}, "--pii hide: expected report or mask or drop"),
    "quality": ({"quality": "1"}, "--quality 1: expected fixed, off"),
    "percentiles": ({"quality": "60,99"}, "the first is 0 to 50"),
    "overwrites": ({"out": "a.txt"}, "this output is one of the inputs"),
    "twice": ({"out": "x", "decisions": "x"}, "two outputs have the same name"),
    "folder": ({"out": "no/x"}, "there is no such folder"),
    "is folder": ({"out": "."}, "this output is a folder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words_are_usage_errors(tmp_path, name):
    words, message = WRONG[name]
    write_lines(tmp_path / "a.txt", *KO[:3])
    before = (tmp_path / "a.txt").read_bytes()
    placed = {key: tmp_path / word if key in ("out", "decisions") else word for key, word in words.items()}
    with pytest.raises(UsageError, match=re.escape(message)):
        scan_here(tmp_path, "a.txt", **placed)
    assert (tmp_path / "a.txt").read_bytes() == before


@pytest.mark.parametrize(("words", "missing"), [(("a.txt",), "--language"), (("--language", "ko"), "FILES")])
def test_what_is_required_is_named(tmp_path, words, missing):
    done = sovtune("data", "scan", *words, folder=tmp_path)
    assert done.returncode == 2 and missing in done.stderr and "Traceback" not in done.stderr


def test_planted_defects_are_caught_in_five_languages(tmp_path, root):
    """The measuring script itself, on texts written for this test; it prints recall by type, held-back text apart."""
    words = []
    (tmp_path / "other" / "source").mkdir(parents=True)
    write_rows(
        tmp_path / "other" / "source" / "ko.jsonl", *({"text": text} for text in documents("ko", 52)[26:])
    )
    for language in SENTENCES:
        path = write_rows(
            tmp_path / f"{language}.jsonl", *({"text": text} for text in documents(language, 52))
        )
        words.append(f"{language}={path}")
    done = subprocess.run(
        [
            sys.executable,
            str(root / "scripts/measure_gate.py"),
            *words,
            "--count",
            "2",
            "--verbose",
            "--held-back",
            str(tmp_path / "other"),
        ],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    tuned, _, held_back = done.stdout.partition("Held-back text")
    assert "wrong language" in tuned and "held-out text" in tuned
    assert "kr_rrn" in held_back and "wrong language" not in held_back, "it is in one language"


def test_a_drafted_card_is_refused_until_people_have_answered(tmp_path):
    rows = [{"text": text} for text in documents("ko", 20)]
    write_rows(
        tmp_path / "corpus.jsonl", *rows, rows[0], {"text": f"전화는 {PHONE} 입니다. 평일에 받습니다."}
    )
    done = sovtune(
        "data", "card", "corpus.jsonl", "--language", "ko", "--candidates", "ko,en", "--out", "corpus.yaml", "--json",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    questions = json.loads(done.stdout)["questions"]
    assert {"licence.expression", "rights.training", "sources.0.kind", "contact"} <= set(questions)
    card = tmp_path / "corpus.yaml"
    text = card.read_text(encoding="utf-8")
    assert "findings: 1" in text and "Rows that repeat another row: 1" in text and PHONE not in text
    problems = check_card(card)
    assert [problem.path for problem in problems] == questions
    assert all("to be answered by a person" in problem.message and problem.line for problem in problems)
    answers = {
        "title": "Korean notices", "expression": "CC-BY-4.0", "evidence": None, "basis": "licence", "training": '"yes"',
        "redistribution": '"yes"', "commercial": '"yes"', "kind": "own", "name": "city hall", "contains": "possible",
        "sensitivity": "internal", "synthetic_share": "0.0", "contact": "data team",
    }  # fmt: skip
    lines = []
    for line in text.splitlines():
        key, _, value = line.strip().removeprefix("- ").partition(": ")
        if value.startswith('"TODO'):
            if answers[key] is None:
                continue
            lines.append(line[: line.index(key)] + f"{key}: {answers[key]}")
        else:
            lines.append(line)
    card.write_text("\n".join([*lines, "annotation:", "  by: staff"]) + "\n", encoding="utf-8")
    assert check_card(card) == []
    (hashed,) = verify_files(load_card(card), None)
    assert hashed.bytes == (tmp_path / "corpus.jsonl").stat().st_size
    again = sovtune(
        "data", "card", "corpus.jsonl", "--language", "ko", "--out", "corpus.yaml", folder=tmp_path
    )
    assert again.returncode == 2 and "there already" in again.stderr


def test_a_recipe_still_follows_data_alone(tmp_path, root):
    done = sovtune("data", "absent.yaml", folder=tmp_path)
    assert done.returncode == 2 and "absent.yaml" in done.stderr
    typo = sovtune("data", "scna", "a.txt", folder=tmp_path)
    assert typo.returncode == 2 and "did you mean `sovtune data scan`" in typo.stderr
    for words in (("data", "--help"), ("data", "scan", "--help")):
        shown = sovtune(*words, folder=tmp_path)
        assert shown.returncode == 0 and "Example:" in shown.stdout
