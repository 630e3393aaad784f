"""A recipe with a teacher, from the shell: what is asked once, said in the card, refused, and shared by processes."""

from __future__ import annotations

import json
import signal

import pytest
import yaml

from cli_runs import sovtune, start, step_losses, wait_for_step, write_project
from tiny_models import make_base


def write_taught_project(folder, **train):
    """The tiny project with a teacher twice as wide; returns the recipe."""
    recipe = write_project(folder, **train)
    make_base(folder / "teacher", dtype="bfloat16", seed=5, hidden=64)
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["distil"] = {
        "teacher": {
            "model": "test/large", "revision": "v2", "licence": "Apache-2.0", "mirrors": [{"folder": "teacher"}],
            "quantisation": {"kind": "none"},
        },
        "weight": 0.7, "temperature": 2.0, "top": 16,
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    recipe = write_taught_project(folder)
    done = sovtune("run", recipe, folder=folder)
    assert done.returncode == 0, done.stderr
    return recipe, done.stderr


def test_the_teacher_is_in_the_card_the_record_and_the_lock(finished):
    recipe, told = finished
    run_dir = recipe.parent / "runs" / "tiny-run"
    assert "teacher   test/large, 0 M parameters, from local folder" in told
    assert "8 of 8 rows read" in told
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    assert "70.0 % of the loss follows the probabilities of test/large (its 16 likeliest next tokens" in card
    assert "| Teacher | test/large at v2, 0 M parameters not quantised, Apache-2.0, content hash " in card
    assert "test/large at v2" in (run_dir / "report.html").read_text(encoding="utf-8")
    record = json.loads((run_dir / "train.json").read_text(encoding="utf-8"))["teacher"]
    assert (record["rows_asked"], record["weight"], record["quantisation"]) == (8, 0.7, "none")
    assert 0 < record["covered"] < 1
    lock = yaml.safe_load((run_dir / "recipe.lock.yaml").read_text(encoding="utf-8"))
    assert lock["facts"]["teacher"]["content_sha256"] == record["content_sha256"]
    assert "mirrors" not in lock["recipe"]["distil"]["teacher"]


def test_a_second_run_asks_only_about_new_rows(finished):
    recipe, _ = finished
    same = sovtune("train", recipe, "--set", "name=same", folder=recipe.parent)
    assert same.returncode == 0, same.stderr
    assert "all 8 rows were read before" in same.stderr
    assert "loading the teacher" not in same.stderr
    runs = recipe.parent / "runs"
    assert step_losses(runs / "same") == step_losses(runs / "tiny-run")
    plain = (
        "--set",
        "name=plain",
        "--set",
        "train.run.engine=plain",
    )  # what another machine's engine has read counts
    slower = sovtune("train", recipe, *plain, folder=recipe.parent)
    assert slower.returncode == 0, slower.stderr
    assert "all 8 rows were read before" in slower.stderr
    assert step_losses(runs / "plain") == pytest.approx(step_losses(runs / "same"), abs=2e-2)
    more = sovtune("train", recipe, "--set", "name=more", "--set", "train.steps=12", folder=recipe.parent)
    assert more.returncode == 0, more.stderr
    assert "4 of 12 rows read" in more.stderr
    other = sovtune(
        "train", recipe, "--set", "name=warm", "--set", "distil.temperature=3", folder=recipe.parent
    )
    assert other.returncode == 0, other.stderr
    assert "8 of 8 rows read" in other.stderr


def test_the_plan_counts_the_teacher(finished):
    recipe, _ = finished
    planned = sovtune("plan", recipe, "--json", folder=recipe.parent)
    assert planned.returncode == 0, planned.stderr
    values = json.loads(planned.stdout)
    assert values["phases"]["teacher"] > 480e6
    assert any("the teacher's reading is " in note for note in values["notes"])


def test_an_interrupted_run_goes_on_with_its_teacher(tmp_path):
    recipe = write_taught_project(tmp_path, steps=40)
    straight = sovtune("train", recipe, "--set", "name=straight", folder=tmp_path)
    assert straight.returncode == 0, straight.stderr
    process = start("train", recipe, folder=tmp_path)
    wait_for_step(tmp_path / "runs" / "tiny-run", 3, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    done = sovtune("train", recipe, "--resume", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert step_losses(tmp_path / "runs" / "tiny-run") == step_losses(tmp_path / "runs" / "straight")


@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_teacher_that_is_not_there_is_told_from_the_base(finished, command):
    recipe, _ = finished
    gone = ("--set", "distil.teacher.mirrors=[{folder: gone}]", "--set", "name=gone")
    refused = sovtune(command, recipe, *gone, folder=recipe.parent)
    assert refused.returncode == 3
    assert "distil.teacher.mirrors: test/large at v2 " in refused.stderr
    other = ("--set", f"distil.teacher.content_sha256={'a' * 64}", "--set", "name=other")
    refused = sovtune(command, recipe, *other, folder=recipe.parent)
    assert refused.returncode == 3
    assert "distil.teacher.content_sha256: test/large from folder " in refused.stderr


def test_a_teacher_with_other_tokens_is_refused(finished, tmp_path):
    recipe = write_taught_project(tmp_path)
    path = tmp_path / "teacher" / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    first, second = list(values["model"]["vocab"])[60:62]
    vocabulary = values["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    refused = sovtune("train", recipe, folder=tmp_path)
    assert refused.returncode == 2
    assert "the teacher has other tokens than the base" in refused.stderr
    assert "2 of 320 differ" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("licence", "card", "told"),
    [
        ("LicenseRef-Tencent-Hunyuan-Community", "apache-2.0", "LicenseRef-Hunyuan forbids training other models on its output"),
        ("LicenseRef-Nobody-Knows", "apache-2.0", "nobody reviewed the terms of LicenseRef-Nobody-Knows"),
        ("Gemma", "apache-2.0", None),
    ],
)  # fmt: skip
def test_terms_of_a_teacher_are_looked_at(finished, licence, card, told):
    recipe, _ = finished
    sets = ("--set", f"distil.teacher.licence={licence}", "--set", f"card.licence={card}")
    link = ("--set", "distil.teacher.licence_link=https://example.org/terms")
    checked = sovtune("check", recipe, *sets, *link, folder=recipe.parent)
    if told is None:
        assert checked.returncode == 0, checked.stderr
        return
    assert checked.returncode == 4
    assert told in checked.stderr
    trained = sovtune("train", recipe, *sets, *link, "--set", "name=refused", folder=recipe.parent)
    assert trained.returncode == 4
    assert not (recipe.parent / "runs" / "refused").exists()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("method", "dpo", "distil: a teacher stands beside text, method dpo compares answers"),
        ("train.finer.label_smoothing", "0.1", "train.finer.label_smoothing: a run with a teacher does not read this"),
        ("distil.weight", "0", "distil.weight"),
        ("distil.tempreature", "2", "temperature"),
    ],
)  # fmt: skip
def test_what_a_teacher_does_not_go_with(finished, key, value, told):
    recipe, _ = finished
    refused = sovtune("check", recipe, "--set", f"{key}={value}", folder=recipe.parent)
    assert refused.returncode == 2
    assert told in refused.stderr


def test_more_tokens_than_there_are_cannot_be_kept(finished):
    recipe, _ = finished
    sets = ("--set", "distil.top=400", "--set", "name=greedy")
    refused = sovtune("train", recipe, *sets, folder=recipe.parent)
    assert refused.returncode == 2
    assert "distil.top" in refused.stderr
    assert "400 tokens are to be kept of a vocabulary of 320" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_the_teacher_said_can_be_cleaned_away(finished):
    recipe, _ = finished
    taught = recipe.parent / "home" / "taught"
    assert list(taught.iterdir())
    cleaned = sovtune("data", "clean", "--older-than", "0", folder=recipe.parent)
    assert cleaned.returncode == 0, cleaned.stderr
    assert "teachers' words on rows" in cleaned.stdout
    assert not list(taught.iterdir())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    recipe = write_taught_project(tmp_path, batch_tokens=1024)
    alone = sovtune("train", recipe, "--set", "name=alone", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    shared = ("--set", "launch.processes=2", "--set", "name=shared")
    done = sovtune("train", recipe, *shared, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 processes on this machine" in done.stderr
    runs = tmp_path / "runs"
    assert step_losses(runs / "shared") == pytest.approx(step_losses(runs / "alone"), abs=2e-2)
    assert json.loads((runs / "shared" / "train.json").read_text())["teacher"]["top"] == 16
