"""Runs of other kinds of adapters through all stages: what is measured, locked, told in the card, and refused."""

import io
import json

import pytest
import yaml
from rich.console import Console

from cli_runs import sovtune, write_project
from sovtune.card_header import read_header, split_card
from sovtune.errors import EnvironmentFault, RecipeError, RunConflict, UsageError
from sovtune.pipeline import RunOptions, run
from sovtune.progress import Reporter
from sovtune.recipe_file import load_recipe
from sovtune.records import EvalReport, TrainReport
from sovtune.release import select


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, run={"checkpoint_steps": 2, "device": "cpu"}, steps=4)
    return folder


def change(folder, name, **sections):
    """A recipe of its own beside the first: sections are laid over it, None takes one out."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": name} | sections
    path = folder / f"{name}.yaml"
    kept = {key: value for key, value in recipe.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def go(folder, path, upto="card"):
    """All stages in this process; returns the run folder and what was said."""
    said = io.StringIO()
    options = RunOptions(runs_dir=folder / "runs", upto=upto)
    finished = run(load_recipe(path), options, Reporter(Console(file=said)))
    return finished, said.getvalue()


def base_scores(folder):
    return [score.base for score in folder.need("evaluate", EvalReport).scores]


def unquantised(folder):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    return recipe["base"] | {"quantisation": {"kind": "none"}}


def test_a_pissa_run_and_one_that_goes_on_from_it(project):
    adapter = {"kind": "qlora", "rank": 4, "alpha": 8, "init": "pissa"}
    first, _ = go(project, change(project, "first", adapter=adapter))
    assert "plain LoRA of twice the rank" in (first.path / "README.md").read_text(encoding="utf-8")
    earlier = {"kind": "qlora", "rank": 8, "alpha": 16, "continue_from": "runs/first/adapter"}
    path = change(project, "second", adapter=earlier)
    second, _ = go(project, path)
    # the adapter switched off is the same base for both, whatever was moved into the first one
    assert base_scores(second) == base_scores(first)
    report = second.need("train", TrainReport)
    config, weights = report.continued_from
    assert weights.sha256 == next(
        file.sha256
        for file in first.need("train", TrainReport).adapter_files
        if file.path == "adapter_model.safetensors"
    )
    lock = (second.path / "recipe.lock.yaml").read_text(encoding="utf-8")
    card = (second.path / "README.md").read_text(encoding="utf-8")
    assert config.sha256 in lock and weights.sha256 in lock and weights.sha256 in card
    file = project / "runs/first/adapter/adapter_config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(RunConflict, match="differs"):
        go(project, path)


def test_full_training_gives_a_model_compared_with_the_true_base(project):
    whole = {"adapter": {"kind": "full"}, "base": unquantised(project), "publish": None}
    path = change(project, "whole", **whole)
    finished, said = go(project, path)
    assert "the output layer is trained" in said
    assert {file.name for file in (finished.path / "model").iterdir()} >= {"model.safetensors", "config.json"}
    assert not (finished.path / "adapter").exists()
    report = finished.need("train", TrainReport)
    assert report.trainable_parameters == report.total_parameters
    card = (finished.path / "README.md").read_text(encoding="utf-8")
    header = read_header(split_card(card)[0])
    assert (header.library_name, header.base_model_relation) == ("transformers", "finetune")
    assert "PeftModel" not in card and "Fully fine-tuned version of" in card
    lora = {"adapter": {"kind": "lora", "rank": 4, "alpha": 8}, "base": unquantised(project)}
    other, _ = go(project, change(project, "other", **lora), upto="evaluate")
    assert base_scores(finished) == base_scores(other)
    scores = finished.need("evaluate", EvalReport).scores
    assert all(score.adapter != score.base for score in scores)
    with pytest.raises(UsageError, match="only adapters are published"):
        select(finished.path)
    with pytest.raises(RecipeError, match="adapters are published; full gives"):
        load_recipe(change(project, "published", **whole | {"publish": {"to": "dir:out"}}))


def test_what_this_machine_cannot_do_is_refused_before_the_base_is_loaded(project):
    recipe = yaml.safe_load((project / "recipe.yaml").read_text(encoding="utf-8"))
    train = recipe["train"] | {"finer": {"optimizer": "adamw8bit"}}
    said = io.StringIO()
    options = RunOptions(runs_dir=project / "runs", upto="train")
    with pytest.raises(EnvironmentFault, match="adamw8bit needs a CUDA device"):
        run(load_recipe(change(project, "paged", train=train)), options, Reporter(Console(file=said)))
    assert "loading the base" not in said.getvalue()


@pytest.mark.slow
def test_full_training_as_a_user_runs_it(project):
    whole = {"adapter": {"kind": "full"}, "base": unquantised(project), "publish": None}
    path = change(project, "by-hand", **whole)
    done = sovtune("run", path, "--runs-dir", "runs", "--json", folder=project)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (project / result["adapter"] / "model.safetensors").is_file()
    again = sovtune("run", path, "--runs-dir", "runs", folder=project)
    assert again.returncode == 0 and "model" in again.stdout
    refused = sovtune("publish", "runs/by-hand", "--to", "dir:out", folder=project)
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
