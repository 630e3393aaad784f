"""The whole product as a user runs it, in processes of its own, on a tiny real model."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from cli_runs import sovtune, start, step_losses, wait_for_step, write_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose run went through: (folder, recipe, run folder, completed process)."""
    folder = tmp_path_factory.mktemp("project")
    recipe = write_project(folder)
    done = sovtune("run", recipe, "--runs-dir", "runs", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, recipe, folder / "runs" / "tiny-run", done


def test_run_ends_with_one_line_of_json_and_all_artefacts(finished):
    folder, _, run_dir, done = finished
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[-1])
    assert set(result) == {"run_dir", "adapter", "card", "report", "results"}
    for key in ("adapter", "card", "report"):
        assert (folder / result[key]).exists()
    assert {score["language"] for score in result["results"]} == {"ko", "en"}
    for name in (
        "recipe.lock.yaml",
        "plan.json",
        "data.json",
        "model.json",
        "train.json",
        "eval.json",
        "card.json",
        "receipt.json",
    ):
        assert (run_dir / name).is_file(), name
    train = json.loads((run_dir / "train.json").read_text())
    assert 0 < train["saving_seconds"] < train["seconds"] + 60  # checkpoints every two steps
    for stage in ("base", "data", "plan", "train", "evaluate", "card", "publish"):
        assert any(line.startswith(stage) for line in done.stderr.splitlines()), stage
    assert "Traceback" not in done.stderr


def test_nothing_unsafe_or_local_is_published(finished):
    folder, _, _, _ = finished
    published = folder / "published" / "tiny-run" / "v1.0.0"
    names = {path.name for path in published.iterdir()}
    assert {
        "README.md",
        "adapter_model.safetensors",
        "adapter_config.json",
        "SHA256SUMS",
        "recipe.lock.yaml",
    } <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".jsonl"))]
    for path in published.iterdir():
        if path.suffix in (".md", ".json", ".yaml", ".html") and path.name != "tokenizer.json":
            text = path.read_text(encoding="utf-8")
            assert str(folder) not in text, path.name
            assert "More Information Needed" not in text
    check = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=published, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout


def test_the_published_adapter_loads_in_plain_peft(finished):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, _, _, _ = finished
    base = AutoModelForCausalLM.from_pretrained(str(folder / "base"), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(input_ids=ids).logits.clone()
    model = PeftModel.from_pretrained(base, str(folder / "published" / "tiny-run" / "v1.0.0"))
    assert not torch.equal(model(input_ids=ids).logits, before)


def test_a_second_run_has_nothing_to_do_and_changes_nothing(finished):
    folder, recipe, run_dir, _ = finished
    before = {
        path.name: path.stat().st_mtime_ns
        for path in run_dir.iterdir()
        if path.name not in ("model.json", "data.json", "recipe.lock.yaml")
    }
    again = sovtune("run", recipe, "--runs-dir", "runs", folder=folder)
    assert again.returncode == 0
    assert again.stderr.count("done before") == 5
    assert "Bits per byte" in again.stdout
    assert {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir() if path.name in before} == before


def test_the_base_is_measured_once_for_all_runs_on_it(finished):
    """Another run with other settings of training: its base figures are those of the first, and the card says so."""
    folder, recipe, first, _ = finished
    settings = ("--set", "name=second", "--set", "train.learning_rate=1e-3")
    done = sovtune("card", recipe, "--runs-dir", "runs", *settings, folder=folder)
    assert done.returncode == 0, done.stderr
    second = first.with_name("second")
    before, after = (json.loads((run_dir / "eval.json").read_text()) for run_dir in (first, second))
    assert before["base_measured_on"] == []
    (day,) = after["base_measured_on"]
    assert f"the base was measured on {day}" in done.stderr
    assert f"The base was measured on {day} for an earlier run" in (second / "README.md").read_text()
    assert day in (second / "report.html").read_text() and day not in (first / "README.md").read_text()
    for old, new in zip(before["scores"], after["scores"], strict=True):
        assert (old["base"], old["base_interval"]) == (new["base"], new["base_interval"])
        assert old["adapter"] != new["adapter"]
    assert [one["base"] for one in before["samples"]] == [one["base"] for one in after["samples"]]


def test_a_changed_recipe_does_not_overwrite_the_old_run(finished):
    folder, recipe, run_dir, _ = finished
    clash = sovtune("run", recipe, "--runs-dir", "runs", "--set", "train.learning_rate=1e-3", folder=folder)
    assert clash.returncode == 2
    assert "learning_rate: 0.005 -> learning_rate: 0.001" in clash.stderr
    assert "--restart" in clash.stderr
    assert (run_dir / "train.json").is_file()


def test_changed_data_is_refused_with_exit_4(finished, tmp_path):
    folder, _, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("runs", "published"))
    rows = copy / "train-ko.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("아홉", "열"), encoding="utf-8")
    refused = sovtune("train", copy / "recipe.yaml", folder=copy)
    assert refused.returncode == 4
    assert "train-ko.yaml" in refused.stderr
    assert "sha256" in refused.stderr


def test_without_a_network_everything_still_works(finished, tmp_path):
    """The proof: a network namespace in which there is no network at all."""
    prefix = ("unshare", "-rn")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no user and network namespaces (unshare -rn)")
    recipe = write_project(tmp_path / "project")
    done = sovtune("run", recipe, "--json", folder=tmp_path / "project", prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["results"]


# One kill in the default suite; the others, and three on the real model, with `scripts/test.sh --all`.
@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow)]
)
def test_kill_9_then_resume_gives_the_losses_of_a_straight_run(finished, tmp_path, step):
    _folder, _, run_dir, _ = finished
    recipe = write_project(tmp_path / "project")
    here = tmp_path / "project"
    process = start("train", recipe, folder=here)
    wait_for_step(here / "runs" / "tiny-run", step, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused = sovtune("train", recipe, folder=here)
    if step >= 2:  # a checkpoint exists: it is not thrown away unasked
        assert refused.returncode == 2
        assert "--resume" in refused.stderr
    resumed = sovtune("train", recipe, "--resume", "--json", folder=here)
    assert resumed.returncode == 0, resumed.stderr
    assert step_losses(here / "runs" / "tiny-run") == step_losses(run_dir)
    result = json.loads(resumed.stdout)
    assert set(result) == {"run_dir", "steps", "tokens", "tokens_per_second", "peak_rss_bytes", "loss"}
    assert result["loss"] == step_losses(run_dir)[-1]


def saved_steps(run_dir, *, whole):
    """Steps of the checkpoints on disk: those with their seal, or those still being written."""
    folders = (run_dir / "checkpoints").glob("checkpoint-*")
    return [
        int(folder.name.split("-")[1])
        for folder in folders
        if (folder / "sovtune-seal.json").exists() is whole
    ]


@pytest.mark.slow
def test_ten_kills_at_random_moments_cost_nothing(tmp_path):
    """Each start is killed: eight at a moment of their own, two at least while a checkpoint is being written."""
    train = {"steps": 160, "run": {"checkpoint_steps": 1}}
    (tmp_path / "straight").mkdir()
    straight = write_project(tmp_path / "straight", **train)
    assert sovtune("train", straight, folder=straight.parent).returncode == 0
    recipe = write_project(tmp_path / "killed", **train)
    run_dir = recipe.parent / "runs" / "tiny-run"
    moments = random.Random(20261122)
    kills = in_a_save = 0
    while kills < 10 or in_a_save < 2:
        begun_at = max(saved_steps(run_dir, whole=True), default=0)
        process = start("train", recipe, *(("--resume",) if begun_at else ()), folder=recipe.parent)
        wait_for_step(run_dir, begun_at + 2, process)  # a line more than the attempt before can have left
        if kills in (3, 7) or kills >= 10:  # again where the checkpoint was finished before the signal came
            while process.poll() is None and not saved_steps(run_dir, whole=False):
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, "the run ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        in_a_save += bool(saved_steps(run_dir, whole=False))
    done = sovtune("train", recipe, "--resume", folder=recipe.parent)
    assert done.returncode == 0, done.stderr
    whole = straight.parent / "runs" / "tiny-run"
    assert step_losses(run_dir) == step_losses(whole)
    name = "adapter/adapter_model.safetensors"
    assert (run_dir / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    recipe = write_project(tmp_path / "project", steps=200)
    here = tmp_path / "project"
    process = start("run", recipe, folder=here)
    wait_for_step(here / "runs" / "tiny-run", 2, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in stderr
    assert "Traceback" not in stderr


def test_a_run_belongs_to_one_command_at_a_time(tmp_path):
    recipe = write_project(tmp_path)
    first = start("train", recipe, "--set", "train.steps=5000", folder=tmp_path)
    wait_for_step(tmp_path / "runs" / "tiny-run", 2, first)
    for arguments in (("train", "--resume"), ("run", "--restart")):
        command, *more = arguments
        second = sovtune(command, recipe, *more, "--set", "train.steps=5000", folder=tmp_path)
        assert second.returncode == 2, second.stderr
        assert "another command is at work on this run" in second.stderr
        assert f"process {first.pid} on " in second.stderr
    looked = sovtune("data", recipe, "--set", "train.steps=5000", folder=tmp_path)
    assert looked.returncode == 0, looked.stderr
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 130, told
    anew = sovtune("train", recipe, "--restart", "--set", "train.steps=3", folder=tmp_path)
    assert anew.returncode == 0, anew.stderr


def test_eval_of_any_model_on_any_text(finished, tmp_path):
    folder, _, run_dir, _ = finished
    text = tmp_path / "text.txt"
    text.write_text("하늘은 파랗습니다.\n\n도서관은 아홉 시에 엽니다.\n", encoding="utf-8")
    scores = {}
    for name, more in (("base", ()), ("adapter", ("--adapter", run_dir / "adapter"))):
        done = sovtune("eval", "--base", folder / "base", *more, "--text", text, "--json", folder=folder)
        assert done.returncode == 0, done.stderr
        scores[name] = json.loads(done.stdout)
        assert set(scores[name]) == {"bits_per_byte", "bytes", "documents", "tokens"}
    size = len("하늘은 파랗습니다.도서관은 아홉 시에 엽니다.".encode())
    assert (scores["base"]["bytes"], scores["base"]["documents"]) == (size, 2)
    assert scores["adapter"]["bits_per_byte"] < scores["base"]["bits_per_byte"]


@pytest.mark.slow
def test_eval_agrees_with_the_run(finished):
    """The command for loose files and the stage of the run measure the same number."""
    folder, _, run_dir, _ = finished
    done = sovtune(
        "eval", "--base", folder / "base", "--adapter", run_dir / "adapter", "--quantisation", "nf4",
        "--text", folder / "held-ko.jsonl", "--json", folder=folder,
    )  # fmt: skip
    target = next(
        score
        for score in json.loads((run_dir / "eval.json").read_text())["scores"]
        if score["role"] == "target"
    )
    assert json.loads(done.stdout)["bits_per_byte"] == pytest.approx(target["adapter"], rel=2e-3)


def test_publish_dry_run_shows_files_and_sends_nothing(finished):
    folder, _, run_dir, _ = finished
    done = sovtune(
        "publish",
        run_dir,
        "--to",
        "hub:org/name",
        "--endpoint",
        "http://127.0.0.1:9",
        "--dry-run",
        "--json",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert receipt["dry_run"] is True
    assert {"README.md", "adapter_model.safetensors"} <= {file["path"] for file in receipt["files"]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nothing.yaml"), 2, "nothing.yaml"),
        (("chekc", "x"), 2, "chekc"),
        (("eval",), 2, "--base"),
        (("eval", "--base", "no/such", "--text", "recipe.yaml"), 3, "neither a folder"),
        (("train", "recipe.yaml", "--set", "train.learing_rate=1"), 2, "learning_rate"),
        (
            ("train", "recipe.yaml", "--runs-dir", "recipe.yaml/runs"),
            3,
            "cannot write into the folder of runs",
        ),
        (("publish", "nowhere", "--to", "dir:x"), 2, "nowhere"),
    ],
)
def test_mistakes_get_a_sentence_and_the_right_exit_code(finished, arguments, code, said):
    folder, _, _, _ = finished
    done = sovtune(*arguments, folder=folder)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["fetch", "data", "train"])
def test_a_cache_that_cannot_be_written_is_named(finished, tmp_path, command):
    folder, recipe, _, _ = finished
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"  # a place that nobody can make, root neither
    done = sovtune(command, recipe, folder=folder, SOVTUNE_HOME=str(home))
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path / 'file'}" in done.stderr
    assert "Not a directory" in done.stderr
    assert "SOVTUNE_HOME names the folder of caches" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (("train.run.device=cuda",), 3, "torch sees no CUDA device"),
        (("train.finer.optimizer=adamw8bit",), 3, "adamw8bit needs a CUDA device"),
        (("launch.processes=64",), 3, "this machine has"),
        (("launch.processes=2", "launch.nodes=2"), 2, "the recipe asks for 2 machines"),
        (("launch.processes=2", "launch.strategy=fsdp2", "base.quantisation.kind=int8"), 2, "base in int8"),
    ],
)
def test_what_cannot_be_trained_here_is_said_before_data_is_prepared(tmp_path, settings, code, said):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = [word for value in settings for word in ("--set", value)]
    done = sovtune("train", write_project(tmp_path), *words, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def test_continued_pretraining_splits_long_texts_and_loses_no_token(tmp_path):
    import yaml

    from cli_runs import write_card

    here = tmp_path / "project"
    recipe = write_project(here)
    write_card(
        here,
        "text-ko",
        [{"text": "하늘은 파랗습니다. " * 60}, {"text": "짧은 글."}],
        kind="text",
        language="ko",
    )
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["method"] = "cpt"
    values["data"] = [{"card": "text-ko.yaml"}]
    values["train"]["steps"] = 2
    values["train"]["rows"]["overlong"] = "split"
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    done = sovtune("train", recipe, folder=here)
    assert done.returncode == 0, done.stderr
    data = json.loads((here / "runs" / "tiny-run" / "data.json").read_text(encoding="utf-8"))
    assert data["overlong"] == {"split": 1}
    assert data["tokens_cut"] == 0
    assert 128 < data["longest_document"] <= 256, "pieces end with a sentence"
    values["method"] = "sft"
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    refused = sovtune("check", recipe, "--json", folder=here)
    assert refused.returncode == 2
    assert "overlong" in json.loads(refused.stdout)["problems"][0]["path"]
