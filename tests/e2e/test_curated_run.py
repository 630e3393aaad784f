"""The data gate inside a run: planted defects do not reach training, and the card says what was done."""

import json
import os

import pytest
import yaml

from cli_runs import ANSWERS, sovtune, write_card, write_project
from sovtune.release import FROM_RUN

# Made-up numbers that pass the check rules; they belong to nobody.
PHONE = "010-2345-6789"
PAIR = (
    "이사를 했는데 무엇부터 해야 하는지 순서대로 알려 주실 수 있나요?",
    "먼저 열네 날 안에 전입신고를 하고, 우편물 주소를 바꾸고, 가스와 전기 명의를 확인하세요.",
)


def row(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    recipe = write_project(folder)
    held = "겨울이 오면 마을 사람들은 장독대 곁에 모여 배추를 씻고 양념을 버무리며 한 해 동안 먹을 김치를 함께 담갔다."
    write_card(
        folder,
        "held-ko",
        [{"text": held}, *({"text": answer} for answer in ANSWERS)],
        kind="text",
        language="ko",
        training="no",
    )
    rows = [
        row("감기에 걸렸을 때 집에서 할 수 있는 일이 있을까요?", "따뜻한 물을 자주 마시고 푹 쉬세요. 열이 사흘 넘게 나면 병원에 가시는 것이 좋습니다."),
        row("도서관에서 빌린 책을 잃어버렸어요. 어떻게 하나요?", "먼저 도서관에 알리세요. 보통 같은 책을 사서 내거나 책값을 물어냅니다."),
        row(*PAIR),
        row(PAIR[0], PAIR[1].replace("가스와", "수도와")),
        row("연락처를 남겨 주세요.", f"담당자 전화번호는 {PHONE} 입니다. 평일 아홉 시부터 여섯 시까지 받습니다."),
        row("김장 이야기를 들려주세요.", held),
        row("What is the weather like in the north of the country today?", "It is cold and dry, with some snow on the hills and a strong wind along the coast."),
    ]  # fmt: skip
    write_card(folder, "train-ko", rows, kind="chat", language="ko")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["curate"] = {}
    values["evaluate"]["texts"] = [{"card": "held-ko.yaml", "role": "target"}]
    values["train"]["steps"] = 2
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    done = sovtune("run", recipe, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, folder / "runs" / "tiny-run", done


def test_defects_are_dropped_masked_and_counted(project):
    _, run_dir, _ = project
    data = json.loads((run_dir / "data.json").read_text(encoding="utf-8"))
    (source,) = data["datasets"]
    assert source["rows_read"] == 7
    assert source["dropped"] == {"near_duplicate": 1, "contamination": 1, "wrong_language": 1}
    assert source["rows_used"] == 4
    assert data["overlap_dropped"] == 1
    assert data["masked"] == {"phone": 1}


def test_masked_values_reach_neither_tokens_nor_records(project):
    from datasets import Dataset
    from tokenizers import Tokenizer

    folder, run_dir, done = project
    (rows_file,) = (folder / "home" / "data").glob("*/rows.arrow")
    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    text = "".join(tokenizer.decode(row["input_ids"]) for row in Dataset.from_file(str(rows_file)))
    assert "<전화번호>" in text
    assert PHONE not in text
    assert PHONE not in done.stdout + done.stderr
    for path in [
        *run_dir.glob("*.json"),
        run_dir / "README.md",
        run_dir / "report.html",
        run_dir / "gate.html",
        *folder.glob("home/gate/**/*"),
    ]:
        if path.is_file():
            assert PHONE.encode() not in path.read_bytes(), path


def test_the_model_card_says_what_the_gate_did(project):
    _, run_dir, _ = project
    text = (run_dir / "README.md").read_text(encoding="utf-8")
    assert (
        "went through the data gate: language, quality, duplicates, personal data (mask), secrets (mask), overlap"
        in text
    )
    assert "1 training documents with a hit were left out" in text
    assert "phone 1" in text


def test_the_gates_page_shows_examples_and_the_published_report_does_not(project):
    """The test cards do not say that their data is public, and report.html goes along when an adapter is published."""
    _, run_dir, done = project
    page = (run_dir / "gate.html").read_text(encoding="utf-8")
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    for text in (page, report):
        assert "7 rows came in" in text and "4 stayed" in text and "another language" in text
    assert "What is the weather like in the north" in page
    assert "What is the weather like in the north" not in report
    assert "gate.html" in done.stderr
    assert "gate.html" not in FROM_RUN


def test_an_edited_held_out_set_makes_the_data_anew(project):
    folder, _, _ = project
    caches = set((folder / "home" / "data").iterdir())
    write_card(
        folder, "held-ko", [{"text": answer} for answer in ANSWERS], kind="text", language="ko", training="no"
    )
    forgotten = folder / "home" / "gate" / ("0" * 64)
    forgotten.mkdir()
    os.utime(forgotten, (0, 0))
    done = sovtune("data", folder / "recipe.yaml", "--runs-dir", "other", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["overlap_dropped"] == 0
    assert not forgotten.exists(), "parts that no run has used for a month go after a run of the gate"
    assert set((folder / "home" / "data").iterdir()) > caches
