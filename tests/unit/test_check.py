"""`sovtune check` in one process: the verdicts of the data stage with file and line, without reading data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_permission import card, override

from sovtune.check import CheckResult, check_all

ROW = '{"text": "도서관은 아침 아홉 시에 엽니다."}\n'
LETTER = "You may train models on these rows."
FILES = [{"path": "a.jsonl", "sha256": hashlib.sha256(ROW.encode()).hexdigest(), "rows": 1}]


def check(
    folder: Path, *, states: dict[str, Any] | None = None, sets: tuple[str, ...] = (), **asks: Any
) -> CheckResult:
    """A recipe with one card in a folder, checked; ``asks`` are laid over the recipe's ``card`` section."""
    (folder / "a.jsonl").write_text(ROW, encoding="utf-8")
    if states is not None:
        card(folder, **{"files": FILES, "format": {"kind": "text"}, **states})
    recipe = {
        "name": "letters-ko", "language": "ko", "seed": 1, "method": "cpt",
        "base": {"model": "org/base", "revision": "main", "licence": "Apache-2.0"},
        "data": [{"card": "letters.yaml"}],
        "train": {"steps": 2, "batch_tokens": 64, "learning_rate": 1e-3, "rows": {"max_length": 64}},
        "card": {"licence": "Apache-2.0", **asks},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return check_all(path, list(sets))


def told(result: CheckResult) -> str:
    return "\n".join(str(problem) for problem in result.problems)


SHARE_ALIKE = {"licence": {"expression": "CC-BY-SA-4.0"}}


def test_a_sound_recipe(tmp_path: Path) -> None:
    result = check(tmp_path, states={})
    assert (told(result), result.exit_code, result.ways_out) == ("", 0, None)


def test_an_open_question_is_refused_or_printed(tmp_path: Path) -> None:
    strict = check(tmp_path, states=SHARE_ALIKE)
    assert strict.exit_code == 4
    assert "letters.yaml:13:15: licence.expression: data letters (CC-BY-SA-4.0)" in told(strict)
    assert strict.as_json()["refusals"] == ["letters.share-alike"]
    assert "- refusal: letters.share-alike" in str(strict.ways_out)
    advisory = check(tmp_path, states=SHARE_ALIKE, licence_policy="advisory")
    assert (advisory.exit_code, advisory.problems) == (0, ())
    assert f"warning: {advisory.warnings[0]}" in advisory.remarks()
    assert advisory.warnings[0].endswith("[letters.share-alike]")


def test_who_answers_for_what_is_printed(tmp_path: Path) -> None:
    result = check(tmp_path, states=SHARE_ALIKE, overrides=[override("letters.share-alike")])
    assert result.exit_code == 0
    assert "overruled: letters.share-alike by office: they agreed" in result.remarks()


def test_a_mistaken_override_is_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    result = check(tmp_path, states=SHARE_ALIKE, overrides=[override("letters.share-alke")])
    assert result.exit_code == 2
    (problem,) = result.problems
    assert (Path(problem.file).name, problem.path) == ("recipe.yaml", "card.overrides.0.refusal")
    assert problem.line == 20
    assert problem.suggestion == "letters.share-alike"


@pytest.mark.parametrize("policy", ["strict", "advisory"])
def test_a_clear_no_cannot_be_overruled(tmp_path: Path, policy: str) -> None:
    no = {"rights": {"training": "no"}}
    refused = check(tmp_path, states=no, licence_policy=policy)
    assert refused.exit_code == 4
    assert "- refusal" not in str(refused.ways_out)
    answered = check(tmp_path, states=no, licence_policy=policy, overrides=[override("letters.training")])
    assert answered.exit_code == 2
    assert "nobody can overrule `letters.training`" in told(answered)


def test_an_answer_does_not_stand_in_for_the_files(tmp_path: Path) -> None:
    unknown = {"rights": {"training": "unknown"}, "files": [{**FILES[0], "sha256": "0" * 64}]}
    result = check(tmp_path, states=unknown, overrides=[override("letters.training")])
    assert result.exit_code == 4
    assert "is not what the card describes" in told(result)


def test_a_permission_is_a_letter_that_lies_beside_the_card(tmp_path: Path) -> None:
    rights = {"basis": "permission", "agreement": "letter.txt", "commercial": "yes"}
    states = {"licence": {"expression": "permission letter"}, "rights": rights}
    assert "rights.agreement: there is no file letter.txt" in told(check(tmp_path, states=states))
    (tmp_path / "letter.txt").write_text(LETTER, encoding="utf-8")
    assert check(tmp_path, states=states).exit_code == 0
    states["rights"] = {**rights, "agreement_sha256": hashlib.sha256(LETTER.encode()).hexdigest()}
    assert check(tmp_path, states=states).exit_code == 0
    (tmp_path / "letter.txt").write_text("You may not.", encoding="utf-8")
    changed = check(tmp_path, states=states)
    assert changed.exit_code == 4
    assert "the agreement has changed" in told(changed)


def test_the_number_of_a_contract_is_no_file(tmp_path: Path) -> None:
    assert check(tmp_path, states={"rights": {"agreement": "contract 2026/117"}}).exit_code == 0


def test_what_a_card_keeps_inside_is_told_at_its_line(tmp_path: Path) -> None:
    sets = ("publish.to=hub:org/letters", "publish.endpoint=https://huggingface.co")
    result = check(tmp_path, states={"sensitivity": "restricted"}, sets=sets)
    assert result.exit_code == 4
    assert "letters.yaml:22:14: sensitivity: data letters is restricted" in told(result)
    assert check(tmp_path, states={"sensitivity": "restricted"}, sets=("publish.to=dir:out",)).exit_code == 0


def test_a_drafted_question_is_told_once(tmp_path: Path) -> None:
    card(tmp_path, files=FILES, format={"kind": "text"})
    path = tmp_path / "letters.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("contact: team", 'contact: "TODO: which team?"'), encoding="utf-8")
    result = check(tmp_path)
    assert result.exit_code == 2
    assert [problem.message for problem in result.problems] == ["to be answered by a person: which team?"]
