"""The data gate: same result however it is cut, nothing stale, nothing leaked, every row accounted for."""

import dataclasses
import errno
import json
import os
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_read import GateSource, rows_of, slices
from sovtune.data.gate_report import DataGateReport
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.errors import DataRefused, EnvironmentFault, UsageError
from sovtune.records import from_json, to_json

PHONE, EMAIL = "010-2345-6789", "minji.kim@daehan-univ.ac.kr"
KEY = "sk-" + "proj4f9Kd82LmQx71TzR0bVn3Wp"
ONE = "동네 도서관은 평일 아침 아홉 시에 문을 열고, 토요일에는 오후 다섯 시까지만 책을 빌려줍니다."
TWO = "전입신고는 이사한 날부터 열네 날 안에 새 주소지의 주민센터나 누리집에서 하시면 됩니다."
THREE = "감자를 채 썰어 찬물에 담갔다가 물기를 닦고 볶으면 서로 달라붙지 않고 아삭하게 익습니다."
HELD = "겨울 바다는 여름보다 조용해서 파도 소리를 들으며 생각을 정리하기에 더없이 좋은 곳이 됩니다."
LONG = f"{ONE} 방학 때는 아이들이 많아서 열람실 자리가 일찍 차니 서두르시는 편이 좋고, 책은 두 주 동안 빌릴 수 있습니다."
KO = GateSettings(language="ko", candidates=("ko", "en"))


def text_file(folder: Path, *lines: str, name: str = "a.txt") -> GateSource:
    (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return GateSource(file=LocalFile(path=folder / name, shown=name))


def json_file(folder: Path, *rows: object, name: str = "a.jsonl", **more: bool) -> GateSource:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return dataclasses.replace(text_file(folder, *lines, name=name), **more)


def run(sources, gate=KO, *, work: Path, held_out=(), workers=1, **more):
    """Decisions, kept documents as rows, and the report."""
    with curate(sources, gate, work, held_out=held_out, workers=workers, **more) as curated:
        decisions = [row.decision() for row in curated.rows()]
        return decisions, [document.as_row() for document in curated.documents()], curated.report


def reasons(decisions):
    return {row["row"]: row["reason"] for row in decisions if not row["kept"]}


def comparable(report: DataGateReport) -> dict:
    """A report without what may differ between machines: time, and how it was cut."""
    values = json.loads(to_json(report))
    for name in ("seconds", "workers", "shards", "shards_reused"):
        del values[name]
    for step in values["steps"]:
        del step["seconds"]
    return values


def mixed(folder: Path) -> list[GateSource]:
    """Two files with something for every step."""
    first = text_file(
        folder,
        LONG,
        f"문의는 {PHONE} 또는 {EMAIL} 로 하세요. 평일 아홉 시부터 여섯 시까지 받습니다.",
        "",
        "The library opens at nine in the morning and closes at six in the evening on weekdays.",
        LONG.replace("토요일", "일요일"),
        f"이 열쇠는 남에게 보이지 마세요: {KEY} 잃어버리면 바로 새로 받으세요.",
        "가나다라 마바사 " * 80,
        TWO,
    )
    second = json_file(
        folder,
        {
            "messages": [
                {"role": "user", "content": f"제 번호는 {PHONE}입니다."},
                {"role": "assistant", "content": THREE},
            ]
        },
        "{broken",
        {"text": TWO},
        {"text": "머리말. " + HELD.replace(" ", "")},
        {"text": 7},
    )
    return [first, second]


def test_every_row_is_judged_once_and_in_order(tmp_path):
    decisions, kept, report = run(
        mixed(tmp_path), work=tmp_path / "w", held_out=[text_file(tmp_path, HELD, name="eval.txt")]
    )
    assert [(row["file"], row["row"]) for row in decisions] == [
        *(("a.txt", number) for number in (1, 2, 4, 5, 6, 7, 8)),
        *(("a.jsonl", number) for number in (1, 2, 3, 4, 5)),
    ]
    assert [row["reason"] for row in decisions] == [
        None, None, "wrong_language", "near_duplicate", None, "repetition", None,
        None, "not_json", "exact_duplicate", "contamination", "wrong_type",
    ]  # fmt: skip
    assert decisions[3] == {
        "file": "a.txt", "row": 5, "kept": False, "reason": "near_duplicate", "changed": [], "pii": [], "duplicate_of": "a.txt:1",
    }  # fmt: skip
    assert decisions[1]["changed"] == ["personal_data"] and decisions[1]["pii"] == ["email", "phone"]
    assert decisions[9]["duplicate_of"] == "a.txt:8"
    assert len(kept) == report.kept == 5 and report.rows == 12
    assert sum(step.rows - step.kept for step in report.steps) == report.rows - report.kept
    assert report.held_out[0].hits == 1
    assert report.inputs[0].rows == 7 and report.inputs[0].kept == 4


def test_masks_turn_by_turn_and_keeps_roles(tmp_path):
    _, kept, report = run(mixed(tmp_path), work=tmp_path / "w")
    dialogue = next(row for row in kept if "messages" in row)
    assert dialogue["messages"] == [
        {"role": "user", "content": "제 번호는 <전화번호>입니다."},
        {"role": "assistant", "content": THREE},
    ]
    assert report.personal_data == {"phone": 2, "email": 1, "secret": 1}


@pytest.mark.parametrize("policy", ["mask", "drop"])
def test_no_value_is_written_anywhere(tmp_path, policy):
    gate = dataclasses.replace(KO, personal_data=policy, secrets=policy)
    sources = [
        *mixed(tmp_path),
        text_file(
            tmp_path, f"Please write to {EMAIL} or call {PHONE}, or use the key {KEY} today.", name="en.txt"
        ),
        json_file(
            tmp_path,
            {"messages": [{"role": EMAIL, "content": "x"}]},
            {"text": "안녕하세요"},
            name="roles.jsonl",
        ),
    ]
    _, kept, report = run(sources, gate, work=tmp_path / "w")
    assert report.dropped["wrong_language"] == 2 and report.dropped["bad_role"] == 1
    written = to_json(report) + json.dumps(kept, ensure_ascii=False)
    for path in (tmp_path / "w").rglob("*"):
        written += path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for value in (PHONE, EMAIL, KEY):
        assert value not in written


def test_result_depends_neither_on_workers_nor_on_shards(tmp_path):
    held_out = [text_file(tmp_path, HELD, name="eval.txt")]
    sources = mixed(tmp_path)
    results = []
    for number, (workers, size) in enumerate([(1, 8 << 20), (1, 1), (1, 300), (2, 300)]):
        decisions, kept, report = run(
            sources, work=tmp_path / f"w{number}", held_out=held_out, workers=workers, shard_bytes=size
        )
        results.append((decisions, kept, comparable(report)))
        assert report.shards == (2 if size > 1000 else report.shards)
    assert all(result == results[0] for result in results)


@given(
    lines=st.lists(
        st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), max_size=30),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 80),
    ended=st.booleans(),
)
@settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_slices_hold_every_line_once(tmp_path, lines, size, ended):
    data = "\n".join(lines).encode() + b"\n" * ended
    if data.startswith((b"\xef\xbb\xbf", b"\x1f\x8b", b"PK", b"%PDF")) or not data.strip() or b"\x1b" in data:
        return
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    source = GateSource(file=LocalFile(path=path, shown="x"))
    parts = list(slices(0, source, ["ko"], size, tmp_path))
    assert b"".join(part.data for part in parts).split() == data.split()
    numbers = [row.number for part in parts for row in rows_of(part, source, ["ko"])]
    assert numbers == [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]


def test_finished_shards_are_reused_and_edited_text_never(tmp_path):
    source = text_file(tmp_path, ONE, TWO)
    first = run([source], work=tmp_path / "w")
    again = run([source], work=tmp_path / "w")
    assert (first[2].shards_reused, again[2].shards_reused) == (0, 1)
    assert again[:2] == first[:2] and comparable(again[2]) == comparable(first[2])
    stamp = source.file.path.stat()
    text_file(tmp_path, ONE.replace("아홉", "여덟"), TWO)  # same size, and the same time of change below
    os.utime(source.file.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    edited = run([source], work=tmp_path / "w")
    assert edited[2].shards_reused == 0
    assert "여덟" in edited[1][0]["text"]


def test_other_settings_do_not_reuse_shards(tmp_path):
    source = text_file(tmp_path, ONE, f"전화 {PHONE} 로 물어보시면 담당자가 자세히 알려 드립니다.")
    run([source], work=tmp_path / "w")
    other = run([source], dataclasses.replace(KO, personal_data="report"), work=tmp_path / "w")
    assert other[2].shards_reused == 0 and PHONE in other[1][1]["text"]
    held_out = [text_file(tmp_path, ONE, name="eval.txt")]
    assert run([source], work=tmp_path / "w", held_out=held_out)[2].shards_reused == 0


def test_same_text_under_another_name_keeps_its_own_place(tmp_path):
    run([text_file(tmp_path, ONE, "x" * 3)], work=tmp_path / "w")
    pair = [text_file(tmp_path, TWO, name="b.txt"), text_file(tmp_path, ONE, "x" * 3, name="c.txt")]
    decisions, _, report = run(pair, work=tmp_path / "w")
    assert report.shards_reused == 1
    assert [row["file"] for row in decisions] == ["b.txt", "c.txt", "c.txt"]


@pytest.mark.parametrize("name", ["rows.jsonl", "shard.json", "features.bin"])
def test_a_damaged_shard_is_made_again(tmp_path, name):
    source = text_file(tmp_path, ONE, TWO)
    first = run([source], work=tmp_path / "w")
    (path,) = (tmp_path / "w").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    assert run([source], work=tmp_path / "w")[:2] == first[:2]


def test_a_work_folder_serves_one_run_at_a_time(tmp_path):
    source = text_file(tmp_path, ONE)
    with ExitStack() as stack:
        stack.enter_context(curate([source], KO, tmp_path / "w", workers=1))
        with pytest.raises(UsageError, match="another run"):
            stack.enter_context(curate([source], KO, tmp_path / "w", workers=1))
    run([source], work=tmp_path / "w")


def test_duplicates_across_files_keep_a_row_that_passed_all_else(tmp_path):
    """The longer twin holds personal data and is dropped for it: the other one must stay."""
    twin = f"{ONE} {TWO} 문의는 {PHONE} 입니다."
    gate = dataclasses.replace(KO, personal_data="drop")
    sources = [text_file(tmp_path, twin), text_file(tmp_path, f"{ONE} {TWO}", name="b.txt")]
    decisions, kept, _ = run(sources, gate, work=tmp_path / "w")
    assert [row["reason"] for row in decisions] == ["personal_data", None]
    assert kept == [{"text": f"{ONE} {TWO}"}]


def test_rows_of_held_out_files_go_whatever_their_fields_are_called(tmp_path):
    held_out = json_file(
        tmp_path, {"id": 1, "question": HELD, "choices": ["가", "나"]}, name="eval.jsonl", any_fields=True
    )
    short = text_file(tmp_path, "오늘은 쉽니다.", name="short.txt")
    source = text_file(tmp_path, ONE, HELD, "오늘은 쉽니다")
    decisions, _, report = run([source], work=tmp_path / "w", held_out=[held_out, short])
    assert reasons(decisions) == {2: "contamination", 3: "exact_duplicate_of_heldout"}
    assert decisions[2]["duplicate_of"] == "short.txt:1"
    assert [(one.name, one.hits) for one in report.held_out] == [("eval.jsonl", 1), ("short.txt", 0)]


def test_masked_rows_are_still_found_against_held_out_text(tmp_path):
    line = f"{HELD} 더 알고 싶으면 {PHONE} 로 전화하세요."
    decisions, _, _ = run(
        [text_file(tmp_path, line)],
        work=tmp_path / "w",
        held_out=[text_file(tmp_path, line, name="eval.txt")],
    )
    assert reasons(decisions) == {1: "contamination"}


def test_an_unreadable_held_out_row_is_refused(tmp_path):
    held_out = json_file(tmp_path, {"text": HELD}, "{broken", name="eval.jsonl", any_fields=True)
    with pytest.raises(DataRefused, match="held-out row") as caught:
        run([text_file(tmp_path, ONE)], work=tmp_path / "w", held_out=[held_out])
    assert caught.value.where == "eval.jsonl:2"


def test_other_languages_stay_when_accepted(tmp_path):
    english = "The library opens at nine in the morning and closes at six in the evening on weekdays."
    source = text_file(tmp_path, ONE, english, english.replace("six", "seven") + " " + ONE)
    assert reasons(run([source], work=tmp_path / "w")[0]) == {2: "wrong_language"}
    accepting = dataclasses.replace(KO, accepted=("ko", "en"))
    decisions, _, report = run([source], accepting, work=tmp_path / "w")
    assert reasons(decisions) == {}
    assert report.languages_before.keys() == {"ko", "en"}


def test_percentiles_come_from_the_corpus(tmp_path):
    """One document in 150 is all digits; fixed limits are off, the tail of the corpus finds it."""
    rows = [
        f"{number}번째 이야기입니다. " + " ".join((LONG, TWO, THREE, HELD)[: 3 + number % 2])
        for number in range(150)
    ]
    rows.insert(70, "가격표 " + " ".join(f"{number}원" for number in range(1000, 1090)))
    gate = dataclasses.replace(KO, duplicates=False, quality=Percentiles(low=0, high=99.5))
    decisions, _, report = run([text_file(tmp_path, *rows)], gate, work=tmp_path / "w")
    assert 71 in reasons(decisions) and len(reasons(decisions)) <= 5
    assert 0 < report.limits["max_symbols_and_digits"] < 0.5
    cut = run([text_file(tmp_path, *rows)], gate, work=tmp_path / "w2", shard_bytes=2000)
    assert cut[0] == decisions and comparable(cut[2]) == comparable(report)


def test_switches_turn_steps_off(tmp_path):
    gate = GateSettings(
        language="ko",
        normalise=None,
        check_language=False,
        quality=None,
        duplicates=False,
        personal_data="off",
        contamination=False,
    )
    line = f"전화 {PHONE}"
    source = text_file(tmp_path, ONE, ONE, "Good morning to all of you.", "반복 " * 200, line)
    decisions, kept, _ = run(
        [source], gate, work=tmp_path / "w", held_out=[text_file(tmp_path, ONE, name="e.txt")]
    )
    assert reasons(decisions) == {}
    assert kept[-1] == {"text": line}


def test_nfd_legacy_codecs_and_mixed_lines_are_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(ONE.encode() + b"\n" + TWO.encode("cp949") + b"\n" + THREE.encode() + b"\n")
    decisions, kept, report = run([GateSource(file=LocalFile(path=path, shown="a.txt"))], work=tmp_path / "w")
    assert [row["text"] for row in kept] == [ONE, TWO, THREE]
    assert report.inputs[0].codecs == {"utf-8": 2, "cp949": 1}
    assert decisions[1]["changed"] == ["read"]


@pytest.mark.parametrize("codec", ["cp949", "utf-16", "utf-16-le", "utf-8-sig"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_files_in_other_codecs(tmp_path, codec, suffix):
    texts = [ONE, TWO, THREE, HELD]
    lines = {
        "txt": texts,
        "csv": ["text", *(f'"{text}"' for text in texts)],
        "jsonl": [json.dumps({"text": text}, ensure_ascii=False) for text in texts],
    }[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes("".join(line + "\r\n" for line in lines).encode(codec))
    _, kept, report = run(
        [GateSource(file=LocalFile(path=path, shown="a"))], work=tmp_path / "w", shard_bytes=100
    )
    assert [row["text"] for row in kept] == texts
    (found,) = report.inputs[0].codecs
    assert found == ("utf-8" if codec == "utf-8-sig" else codec)
    assert not list((tmp_path / "w").glob(".part-*"))


def test_unusual_keys_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(DataRefused, match="question, answer"):
        run([json_file(tmp_path, {"question": "가", "answer": "나"})], work=tmp_path / "w")


def test_a_full_disk_is_named_and_leaves_nothing_half(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = text_file(tmp_path, ONE)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        run([source], work=tmp_path / "w")
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["lock"]
    monkeypatch.undo()
    assert run([source], work=tmp_path / "w")[2].kept == 1


def test_a_document_of_endless_length_is_dropped_before_it_fills_memory(tmp_path):
    decisions, _, _ = run([text_file(tmp_path, "가나" * 2_000_001, ONE)], work=tmp_path / "w")
    assert reasons(decisions) == {1: "too_long"}


def test_report_survives_json_and_names_the_row_kept(tmp_path):
    _, _, report = run(mixed(tmp_path), work=tmp_path / "w")
    assert from_json(DataGateReport, to_json(report)) == report
    near = next(step for step in report.steps if step.name == "duplicates").examples["near_duplicate"]
    assert near[0].where == "a.txt:5" and near[0].note.endswith("like a.txt:1")


def test_five_examples_per_reason_are_the_first(tmp_path):
    lines = [f"Row number {number} of this file is written in plain English and goes." for number in range(9)]
    for size in (8 << 20, 200):
        _, _, report = run([text_file(tmp_path, *lines, ONE)], work=tmp_path / f"w{size}", shard_bytes=size)
        examples = next(step for step in report.steps if step.name == "language").examples["wrong_language"]
        assert [example.where for example in examples] == [f"a.txt:{number}" for number in range(1, 6)]


@pytest.mark.parametrize("quality", [None, Percentiles(low=2, high=98)])
def test_the_report_says_what_the_rows_say(tmp_path, quality):
    """It is added up from the shards, and duplicates are looked up in them by place: more than one line of rows each."""
    words = " ".join([ONE, TWO, THREE, HELD]).split()
    chance = random.Random(3)
    texts = [f"{number}번. {' '.join(chance.choices(words, k=60))}" for number in range(300)]
    texts[150:] = [text if place % 3 else texts[place] for place, text in enumerate(texts[150:])]
    texts[70] += f" 문의는 {PHONE} 입니다."
    sources = [
        text_file(tmp_path, *texts[:170]),
        json_file(tmp_path, *({"text": text} for text in texts[170:])),
    ]
    gate = dataclasses.replace(KO, quality=quality) if quality else KO
    with curate(sources, gate, tmp_path / "w", workers=1, shard_bytes=9000) as curated:
        judged, report = list(curated.rows()), curated.report
    kept = [row for row in judged if row.document is not None]
    assert report.rows == 300 and report.kept == len(kept) < 260
    assert report.bytes_kept == sum(len(row.document.text.encode()) for row in kept)
    assert [entry.kept for entry in report.inputs] == [
        sum(row.file == source.file.shown for row in kept) for source in sources
    ]
    dropped = {step.name: step.rows - step.kept for step in report.steps}
    assert dropped == {name: sum(row.step == name for row in judged) for name in dropped}
    examples = [one for step in report.steps for entry in step.examples.values() for one in entry]
    for example in examples:
        file, number = example.where.split(":")
        text = texts[int(number) - 1 + (170 if file == "a.jsonl" else 0)]
        assert example.text[:20] == text[:20]
    assert len(examples) >= 5
