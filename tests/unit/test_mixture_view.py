"""What people are told of the mixture, in the terminal, the card and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from run_records import make_data, make_evaluation, make_evidence, make_recipe

from sovtune.card import render_card
from sovtune.card_lint import lint
from sovtune.mixture_view import data_lines, replay_note
from sovtune.recipe import Recipe
from sovtune.records import DataReport, LanguageRecord, from_json, to_json
from sovtune.report import render_report

KOREAN = LanguageRecord(
    tag="ko", share_asked=0.9, share_before=0.78, tokens_available=81_264, share_available=0.772, tokens=81_200,
    share_reached=0.901,
)  # fmt: skip
ENGLISH = LanguageRecord(
    tag="en", share_asked=0.1, share_before=0.2, tokens_available=24_000, share_available=0.226, tokens=8_973,
    share_reached=0.099,
)  # fmt: skip
OTHER = LanguageRecord(
    tag="ja", share_asked=None, share_before=0.02, tokens_available=210, share_available=0.002, tokens=0,
    share_reached=0.0,
)  # fmt: skip


def report(**changes: object) -> DataReport:
    return make_data(languages=(KOREAN, ENGLISH, OTHER), **changes)


def test_shares_are_told_before_the_gate_after_it_and_in_the_rows() -> None:
    lines = data_lines(report())
    assert "languages that came to the data gate, by letters: ko 78.0 %, en 20.0 %, ja 2.0 %" in lines
    assert "languages that could be taken, by tokens: ko 77.2 %, en 22.6 %, others 0.2 %" in lines
    assert "languages in the rows, by tokens: ko 90.1 % (asked 90.0 %), en 9.9 % (asked 10.0 %)" in lines


def test_one_language_is_told_in_one_line() -> None:
    only = replace(KOREAN, share_asked=None, share_before=1.0, share_available=1.0, share_reached=1.0)
    lines = data_lines(make_data(languages=(only,)))
    assert [line for line in lines if "languages" in line] == ["languages in the rows, by tokens: ko 100.0 %"]


def test_a_source_says_how_often_it_was_seen_or_how_much_of_it_was_taken() -> None:
    data = report()
    korean, english = data.datasets
    seen = replace(korean, tokens_available=korean.tokens // 3)
    part = replace(english, tokens_available=2 * english.tokens)
    first, second, *_ = data_lines(replace(data, datasets=(seen, part)))
    assert first == (
        "sovtune-sample-ko-instruct: 331 of 336 rows, 81,264 tokens, seen 3.0 times; 90.1 % of the mixture (asked 90.0 %)"
    )
    assert "8,909 tokens, 50.0 % of what it has;" in second
    assert "seen" not in data_lines(data)[0]


def test_what_was_left_out_is_told_in_words() -> None:
    data = report(overlong={"split": 3, "dropped": 2}, tokens_cut=5000, masked={"phone": 4})
    korean = replace(data.datasets[0], dropped={"wrong_language": 5, "not_in_mix": 2, "never": 0})
    text = "\n".join(data_lines(replace(data, datasets=(korean,))))
    assert "7 rows left out: another language 5, in none of the languages of the mixture 2" in text
    assert "3 texts longer than a row were split at paragraphs, sentences or words" in text
    assert "2 documents longer than a row were left out: 5,000 tokens" in text
    assert "personal data and secrets found: phone 4" in text


def test_the_record_survives_being_written() -> None:
    assert from_json(DataReport, to_json(report())) == report()


def test_card_and_report_show_languages_asked_and_reached() -> None:
    evidence = make_evidence(data=report())
    card = render_card(evidence)
    assert "| `ko` | 78.0 % | 81,264 | 81,200 | 90.1 % | 90.0 % |" in card
    assert "| `ja` | 2.0 % | 210 | 0 | 0.0 % | any |" in card
    assert lint(card, forbidden=(), evaluation=make_evaluation()) == []
    page = render_report(evidence)
    assert "Languages as measured" in page
    assert "<small>asked 10.0 %</small>" in page
    without = make_evidence()
    assert "Languages as measured" not in render_card(without)


# Replay


def card(folder: Path, name: str, **languages: float) -> str:
    values = {
        "schema_version": 1, "id": name, "version": "1", "title": name,
        "files": [{"path": "a.jsonl", "sha256": "0" * 64, "rows": 1}],
        "languages": [{"tag": tag, "share": share} for tag, share in languages.items()],
        "licence": {"expression": "CC0-1.0"}, "rights": {"basis": "own-work", "training": "yes"},
        "sources": [{"kind": "own", "name": "tests"}], "personal_data": {"contains": "none"},
        "annotation": {"by": "tests"}, "contact": "tests",
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def note(*cards: str, replay: tuple[str, ...] = (), **changes: object) -> str | None:
    texts = [{"card": path, "role": "replay"} for path in replay]
    plain = {"data": [{"card": path} for path in cards], "evaluate": {"texts": texts, "prompts": []}}
    recipe: Recipe = make_recipe(**{**plain, **changes})
    return replay_note(recipe, recipe)


def test_english_is_advised_with_the_lines_to_add(tmp_path: Path) -> None:
    korean = card(tmp_path, "korean", ko=0.97, en=0.03)
    text = note(korean)
    assert text is not None
    assert text.startswith(
        "the mixture has no English. About 10 % of it beside Korean keeps the base from losing it."
    )
    lines = text.split("\n", 1)[1]
    assert yaml.safe_load(lines) == {
        "data": [{"card": korean, "share": 0.9}, {"card": "PATH/OF/A/CARD-en.yaml", "share": 0.1}]
    }


def test_shares_that_are_there_make_room(tmp_path: Path) -> None:
    sources = [
        {"card": card(tmp_path, name, ko=1.0), "share": part} for name, part in (("a", 0.7), ("b", 0.3))
    ]
    text = note(data=sources, mix={"languages": {"ko": 1.0}})
    assert text is not None
    proposed = yaml.safe_load(text.split("\n", 1)[1])
    assert [source["share"] for source in proposed["data"]] == pytest.approx([0.63, 0.27, 0.1])
    assert proposed["mix"] == {"languages": {"ko": 0.9, "en": 0.1}}
    Recipe.model_validate({**make_recipe().model_dump(), **proposed})


def test_nothing_is_advised_where_english_is_there_or_is_the_language_itself(tmp_path: Path) -> None:
    korean, english = card(tmp_path, "korean", ko=1.0), card(tmp_path, "english", en=1.0)
    half = card(tmp_path, "half", ko=0.5, en=0.5)
    assert note(korean, english) is None
    assert note(half) is None
    assert note(english, language="en") is None
    assert note(korean, mix={"languages": {"ko": 0.9, "en": 0.1}}) is None


def test_the_language_of_a_replay_set_is_advised_too(tmp_path: Path) -> None:
    korean, english = card(tmp_path, "korean", ko=1.0), card(tmp_path, "english", en=1.0)
    japanese = card(tmp_path, "japanese", ja=1.0)
    text = note(korean, english, replay=(japanese,))
    assert text is not None
    assert text.startswith("the mixture has no Japanese.")
    both = note(korean, replay=(japanese,))
    assert both is not None
    assert both.startswith("the mixture has no English and Japanese.")
    assert "share: 0.8" in both
