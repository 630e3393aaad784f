"""The mixture through `sovtune data`: shares by source and language in the rows, refusals, notes, the preview."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from cli_runs import sovtune, start, write_card, write_project

KOREAN = (
    "마을 도서관은 아침 아홉 시에 문을 엽니다. 책은 두 주 동안 빌릴 수 있어요. 늦으면 하루에 백 원을 냅니다."
)
ENGLISH = "The village library opens at nine in the morning. Books may be kept for two weeks. Late ones cost a coin a day."
ARABIC = "تفتح مكتبة القرية أبوابها في التاسعة صباحا. يمكن استعارة الكتب لمدة أسبوعين."


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cpt recipe over a Korean card with some English in it, and an English card; returns the recipe."""
    folder = tmp_path_factory.mktemp("mixture")
    recipe = write_project(folder)
    mixed = [{"text": f"{number}. {ENGLISH if number % 5 == 0 else KOREAN}"} for number in range(100)]
    mixed += [{"text": ARABIC}, {"text": KOREAN * 12}]
    write_card(folder, "mixed", mixed, kind="text", language="ko")
    english = [{"text": f"{ENGLISH} Shelf {number}."} for number in range(80)]
    write_card(folder, "english", english, kind="text", language="en")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["method"] = "cpt"
    values["data"] = [{"card": "mixed.yaml", "share": 0.8}, {"card": "english.yaml", "share": 0.2}]
    values["mix"] = {"languages": {"ko": 0.7, "en": 0.3}}
    values["train"]["rows"] = {"max_length": 256, "overlong": "split"}
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return recipe


def data(recipe: Path, runs: str, *more: object) -> subprocess.CompletedProcess[str]:
    return sovtune("data", recipe, "--runs-dir", runs, *more, folder=recipe.parent)


def test_rows_have_the_shares_asked_for_by_source_and_by_language(project: Path) -> None:
    from datasets import Dataset

    done = data(project, "shares", "--json", "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "mixed: " in done.stderr
    assert "80.0 %" in done.stderr or "(asked 80.0 %)" in done.stderr
    assert "(asked 70.0 %)" in done.stderr
    assert "1 texts longer than a row were split at paragraphs, sentences or words" in done.stderr
    assert "mixed: 1 rows left out: in none of the languages of the mixture 1" in done.stderr
    assert "note:" not in done.stderr, "the mixture has English"
    record = json.loads(done.stdout.splitlines()[-1])
    reached = {one["tag"]: one for one in record["languages"]}
    assert reached["ko"]["share_reached"] == pytest.approx(0.7, abs=0.02)
    assert reached["en"]["share_reached"] == pytest.approx(0.3, abs=0.02)
    assert (reached["ar"]["tokens"], reached["ar"]["share_asked"]) == (0, None)
    # Counted again in the rows themselves.
    (rows,) = (project.parent / "home" / "data").glob("*/rows.arrow")
    tokens = {"mixed": 0, "english": 0}
    for row in Dataset.from_file(str(rows)):
        assert len(row["input_ids"]) == sum(row["lengths"]) <= 256
        for where, length in zip(row["where"], row["lengths"], strict=True):
            tokens[where.split("/")[0]] += length
    assert {name: entry["tokens"] for name, entry in zip(tokens, record["datasets"], strict=True)} == tokens
    assert tokens["mixed"] / sum(tokens.values()) == pytest.approx(0.8, abs=0.02)
    assert not list(rows.parent.glob("*.bin")), "what was rendered is not kept twice"


def test_the_preview_shows_rows_as_they_were_written(project: Path) -> None:
    done = data(project, "shares", "--show", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Row 1 of ")
    assert done.stdout.count("Row ") == 2
    assert "⟦" in done.stdout
    assert "mixed/mixed.jsonl:" in done.stdout
    assert "مكتبة" not in done.stdout, "what is not in the mixture is not shown"


def test_a_run_too_long_for_its_sources_is_refused_until_they_may_repeat(project: Path) -> None:
    long = ("--set", "train.steps=null", "--set", "train.tokens=60000", "--set", "mix=null")
    refused = data(project, "long", *long)
    assert refused.returncode == 4
    assert "data.0: mixed has " in refused.stderr
    assert "`repeat: 4` beside mixed" in refused.stderr
    assert "Traceback" not in refused.stderr
    allowed = data(project, "long", *long, "--set", "data.0.repeat=4", "--set", "data.1.repeat=4", "--json")
    assert allowed.returncode == 0, allowed.stderr
    record = json.loads(allowed.stdout)
    assert record["tokens"] == pytest.approx(60_000, rel=0.01)
    (mixed, english) = record["datasets"]
    assert mixed["tokens"] <= 4 * mixed["tokens_available"]
    assert english["share_reached"] == pytest.approx(0.2, abs=0.02)
    assert ", seen 3." in allowed.stderr


def test_shares_that_whole_documents_cannot_meet_are_refused_with_the_tolerance_that_would(
    project: Path,
) -> None:
    values = yaml.safe_load(project.read_text(encoding="utf-8"))
    for source, rows, share in zip(values["data"], (3, 1), (0.6, 0.4), strict=True):
        source |= {"max_rows": rows, "share": share}
    del values["mix"]
    values["train"]["steps"] = 1
    few = project.with_name("few.yaml")
    few.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    refused = data(few, "few")
    assert refused.returncode == 4
    assert "of the packed tokens, asked were " in refused.stderr
    assert "documents are taken whole" in refused.stderr
    tolerance = refused.stderr.split("{tolerance: ")[1].split("}")[0]
    accepted = data(few, "few", "--set", f"mix.tolerance={tolerance}")
    assert accepted.returncode == 0, accepted.stderr


def test_english_is_advised_where_there_is_none(project: Path) -> None:
    alone = ("--set", "data=[{card: mixed.yaml, share: 1.0}]", "--set", "mix=null")
    checked = sovtune("check", project, *alone, "--json", folder=project.parent)
    (note,) = json.loads(checked.stdout)["notes"]
    assert "the mixture has no English" in note
    assert "share: 0.9\n    - card: PATH/OF/A/CARD-en.yaml\n      share: 0.1" in note
    done = data(project, "alone", *alone)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: the mixture has no English") == 1


def test_runs_that_need_the_same_rows_at_once_all_get_them(tmp_path: Path) -> None:
    """The first makes them; the others wait. Each finds the cache empty as it starts."""
    recipe = write_project(tmp_path)
    rows = [{"text": f"{number}. {KOREAN}"} for number in range(6000)]
    write_card(tmp_path, "many", rows, kind="text", language="ko")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values |= {"method": "cpt", "data": [{"card": "many.yaml"}]}
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    runs = [start("data", recipe, "--runs-dir", name, "-q", folder=tmp_path) for name in ("a", "b", "c")]
    told = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], told
    made = [json.loads((tmp_path / name / "tiny-run" / "data.json").read_text()) for name in ("a", "b", "c")]
    assert made[0] == made[1] == made[2]
    assert made[0]["documents"] == 6000
    assert len([path for path in (tmp_path / "home" / "data").iterdir() if path.is_dir()]) == 1
