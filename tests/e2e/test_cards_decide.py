"""Cards decide: contradictions, licence policy and overrides, as check, data and the finished card tell them."""

import json

import yaml

from cli_runs import ANSWERS, QUESTIONS, sovtune, write_card, write_project


def rows(*, english: int = 0, phones: int = 0) -> list[dict]:
    def row(question: str, answer: str) -> dict:
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    found = [
        row(f"{number}. {question}", f"{answer} 자세한 내용은 관청 누리집에서 볼 수 있습니다.")
        for number in range(10)
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    found += [
        row(f"When does library {number} open in winter?", f"Library {number} opens at nine on weekdays.")
        for number in range(english)
    ]
    return found + [
        row(f"{number}번 창구 연락처는요?", f"담당자 전화번호는 010-2345-67{number} 입니다.")
        for number in range(10, 10 + phones)
    ]


def change(path, **changes):
    """Lay mappings over those of a YAML file."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")


def line_of(path, text: str) -> int:
    return next(
        at for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if text in line
    )


def test_data_that_is_not_what_its_card_says_is_refused(tmp_path):
    recipe = write_project(tmp_path, steps=2)
    change(recipe, curate={"duplicates": False, "quality": "off"})
    card = write_card(tmp_path, "train-ko", rows(english=30, phones=10), kind="chat", language="ko")
    done = sovtune("data", recipe, folder=tmp_path)
    assert done.returncode == 4, done.stderr
    assert (
        f"train-ko.yaml:{line_of(card, 'share: 1.0')}:10: the card says ko 1.00, measured: ko 0."
        in done.stderr
    )
    assert (
        f"train-ko.yaml:{line_of(card, 'contains: none')}:13: the card says none, found: phone 10 in 80 rows"
        in done.stderr
    )
    assert "next: correct `languages`" in done.stderr and "010-2345" not in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "home" / "data").glob("*/rows.arrow"))  # nothing half-made to be found again

    write_card(tmp_path, "train-ko", rows(phones=2), kind="chat", language="ko")
    done = sovtune("data", recipe, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (source,) = json.loads(done.stdout)["datasets"]
    assert "declared ko 1.00; measured ko 1.00" in source["compared"]["languages"]
    assert source["compared"]["personal_data"] == "declared none; found phone 2 in 42 rows"


def test_a_refusal_is_the_same_in_check_and_data_and_a_person_can_answer(tmp_path):
    recipe = write_project(tmp_path, steps=2)
    card = tmp_path / "train-ko.yaml"
    asks = {"attribution": "City of Example", "territory": ["KR"]}
    change(card, licence={"expression": "CC-BY-NC-4.0"}, rights=asks, sensitivity="restricted")
    checked = sovtune("check", recipe, folder=tmp_path)
    refused = sovtune("data", recipe, folder=tmp_path)
    assert checked.returncode == refused.returncode == 4
    (message,) = [line for line in checked.stderr.splitlines() if "[train-ko.non-commercial]" in line]
    assert f"train-ko.yaml:{line_of(card, 'CC-BY-NC')}:15: licence.expression: " in message
    assert message in refused.stderr
    block = "    card:\n      overrides:\n        - refusal: train-ko.non-commercial\n"
    assert block in checked.stderr and block in refused.stderr
    assert not (tmp_path / "home").exists()  # nothing was fetched or prepared

    reason = "The city agreed <by mail>."
    decision = {"refusal": "train-ko.non-commercial", "name": "Legal office", "reason": reason}
    change(recipe, card={"overrides": [decision]})
    done = sovtune("run", recipe, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "tiny-run"
    (made,) = json.loads((run_dir / "data.json").read_text(encoding="utf-8"))["decisions"]
    assert (made["refusal"], made["name"]) == ("train-ko.non-commercial", "Legal office")
    text = (run_dir / "README.md").read_text(encoding="utf-8")
    decided = text.split("### Decisions by people")[1]
    assert "`train-ko.non-commercial`" in decided and "Legal office" in decided
    assert "The city agreed &#60;by mail&#62;." in decided
    assert "name the source: City of Example" in text and "use only in: KR" in text
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "Decisions by people" in page and "The city agreed &lt;by mail&gt;." in page

    target = ("--to", "hub:demo/tiny", "--endpoint", "https://huggingface.co", "--dry-run")
    done = sovtune("publish", run_dir, *target, folder=tmp_path)
    assert done.returncode == 4 and "[train-ko.sensitivity]" in done.stderr
