"""Trouble in a real run gets advice, not a stack trace; what was saved before it stays whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sovtune.errors import EnvironmentFault, RunFailed, TrainingDiverged
from sovtune.model import load_with_new_adapter, pick_device
from sovtune.recipe_adapter import Adapter
from sovtune.train import checkpoints
from sovtune.train.disk import is_disk_full
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(12)

FULL_DISK = """
import json, subprocess, sys
from pathlib import Path
from sovtune.errors import EnvironmentFault
from tiny_runs import losses, make_recipe, make_rows, train

base, disk = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[3], "tmpfs", disk], check=True)
rows, found = make_rows(12), {}
try:
    train(make_recipe(), base, Path(disk) / "run", rows)
except EnvironmentFault as error:
    found["error"] = str(error)
subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
outcome = train(make_recipe(), base, Path(disk) / "run", rows, resume=True)
print(json.dumps({**found, "losses": losses(outcome), "resumed_from": outcome.resumed_from}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    return train(make_recipe(), base, tmp_path_factory.mktemp("straight") / "run", ROWS)


def with_train(**values):
    recipe = make_recipe()
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=values)})


def test_a_disk_that_fills_up_at_a_save_leaves_the_last_checkpoint_whole(base, straight, tmp_path):
    """On a small file system of its own: the second checkpoint does not fit; with more room the run goes on."""
    size = sum(path.stat().st_size for path in straight.adapter.parent.rglob("*") if path.is_file())
    disk = tmp_path / "disk"
    disk.mkdir()
    room = checkpoint_bytes(straight) * 3 // 2
    assert room < size
    prefix = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no file system of our own can be made here")
    done = subprocess.run(
        [*prefix, sys.executable, "-c", FULL_DISK, str(base), str(disk), str(room)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    if "mount" in done.stderr and "permission denied" in done.stderr:
        pytest.skip("no file system of our own can be made here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "the disk is full; the last complete checkpoint is intact" in found["error"]
    assert "--resume" in found["error"]
    assert found["resumed_from"] == 2
    assert found["losses"] == losses(straight)


def checkpoint_bytes(outcome):
    newest = checkpoints.newest(outcome.adapter.parent / "checkpoints", fingerprint="test")
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file"
            ),
            True,
        ),
        (OSError(13, "Permission denied"), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_what_counts_as_a_full_disk(error, expected):
    assert is_disk_full(error) is expected


def test_a_base_with_damaged_weights_is_named_at_the_first_step(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingDiverged, match="the first loss is nan") as caught:
        train(make_recipe(), folder, tmp_path / "run", ROWS)
    assert "weights are damaged" in str(caught.value)


def test_a_rate_that_is_too_high_is_stopped_when_the_loss_has_risen_threefold(base, tmp_path):
    """With all weights trained the output layer grows without bound; the run ends with the last good weights."""
    wild = with_train(learning_rate=5.0, schedule="constant", warmup=0.0).model_copy(
        update={"adapter": Adapter(kind="full")}
    )
    with pytest.raises(TrainingDiverged, match=r"the loss rose to .* it had been 5") as caught:
        train(wild, base, tmp_path / "run", make_rows(12))
    assert "lower train.learning_rate" in str(caught.value)
    assert "--restart" in str(caught.value)


def test_a_missing_gpu_is_said_before_anything_is_loaded(base):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentFault, match="torch sees no CUDA device") as caught:
        pick_device("cuda")
    assert "train.run.device: auto" in str(caught.value)
    with pytest.raises(EnvironmentFault, match="torch sees no CUDA device"):
        load_with_new_adapter(make_recipe(device="cuda"), base)


def test_nothing_to_train_is_refused(base):
    recipe = make_recipe()
    nothing = recipe.model_copy(
        update={"adapter": recipe.adapter.model_copy(update={"targets": ("lm_heat",)})}
    )
    with pytest.raises(RunFailed, match="the adapter cannot be attached") as caught:
        load_with_new_adapter(nothing, base)
    assert "q_proj" in str(caught.value.fix)
