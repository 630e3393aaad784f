"""The command with several processes: as the recipe says, and on Ray, where a killed worker costs nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli_runs import sovtune, start, step_losses, wait_for_step, write_project

ROWS = ("--set", "train.batch_tokens=768")
EVEN_ROWS = ("--set", "train.batch_tokens=1024")
SHARED = ("--set", "launch.processes=2", *ROWS)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CORES < 2, reason="two processes need two cores"),
]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, list[float]]:
    """A project and the losses of one process."""
    folder = tmp_path_factory.mktemp("alone")
    recipe = _project(folder)
    done = sovtune("train", recipe, *ROWS, "-q", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, step_losses(folder / "runs" / "tiny-run")


def _project(folder: Path) -> Path:
    """In fp32: in bf16 another order of a sum shows in the fourth digit of a loss."""
    recipe = write_project(folder, steps=16)
    text = recipe.read_text(encoding="utf-8")
    for old, new in (("kind: nf4", "kind: none\n    compute: float32"), ("kind: qlora", "kind: lora")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    recipe.write_text(text, encoding="utf-8")
    return recipe


def test_processes_of_the_recipe(straight, tmp_path) -> None:
    done = sovtune("train", _project(tmp_path), *SHARED, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 16
    assert step_losses(tmp_path / "runs" / "tiny-run") == pytest.approx(straight[1], abs=1e-5)
    assert "2 processes on this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_processes_that_each_hold_a_part(tmp_path) -> None:
    """Their steps have an even number of rows; the result is all that stdout gets, though DeepSpeed prints."""
    losses = {}
    for strategy in ("ddp", "fsdp2", "zero3"):
        folder = tmp_path / strategy
        folder.mkdir()
        shared = ("--set", f"launch.strategy={strategy}", "--set", "launch.processes=2", *EVEN_ROWS)
        how = EVEN_ROWS if strategy == "ddp" else shared  # ddp stands for the run of one process
        done = sovtune("train", _project(folder), *how, "--json", folder=folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["steps"] == 16
        assert "Traceback" not in done.stderr
        assert (f"2 processes on this machine, {strategy}" in done.stderr) is (strategy != "ddp")
        losses[strategy] = step_losses(folder / "runs" / "tiny-run")
    assert losses["fsdp2"] == pytest.approx(losses["ddp"], abs=1e-5)
    assert losses["zero3"] == pytest.approx(losses["ddp"], abs=1e-5)


def test_ctrl_c_reaches_all_and_one_process_goes_on(straight, tmp_path) -> None:
    recipe = _project(tmp_path)
    run_dir = tmp_path / "runs" / "tiny-run"
    process = start("train", recipe, *SHARED, folder=tmp_path)
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    done = sovtune("train", recipe, "--resume", *ROWS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert step_losses(run_dir) == pytest.approx(straight[1], abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is told that its parent has ended")
def test_kill_9_leaves_no_worker_behind_and_costs_nothing(straight, tmp_path) -> None:
    recipe = _project(tmp_path)
    run_dir = tmp_path / "runs" / "tiny-run"
    process = start("train", recipe, *SHARED, folder=tmp_path)
    wait_for_step(run_dir, 3, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len([worker for worker in workers if "--resume" in worker.cmdline()]) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    done = sovtune("train", recipe, "--resume", *SHARED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert step_losses(run_dir) == pytest.approx(straight[1], abs=1e-5)


def test_an_error_in_the_workers_is_told_once(tmp_path) -> None:
    one_row = ("--set", "train.batch_tokens=256")
    done = sovtune("train", _project(tmp_path), *SHARED, *one_row, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("a step has 1 rows for 2 processes") == 1
    assert "multiple of 2 times train.rows.max_length" in done.stderr
    assert "Traceback" not in done.stderr


def _ray_workers(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers that train, among the processes below the command."""
    return [
        child
        for child in psutil.Process(command.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]


def test_a_killed_ray_worker_costs_nothing(straight, tmp_path) -> None:
    if importlib.util.find_spec("ray") is None:  # importing it here would fix its settings for later tests
        pytest.skip("sovtune[ray] is not installed")
    recipe = _project(tmp_path)
    run_dir = tmp_path / "runs" / "tiny-run"
    process = start("train", recipe, *SHARED, "--launch", "ray", folder=tmp_path)
    wait_for_step(run_dir, 4, process, timeout_s=240)
    workers = _ray_workers(process)
    assert len(workers) == 2, [
        child.cmdline() for child in psutil.Process(process.pid).children(recursive=True)
    ]
    workers[1].kill()
    killed_at = len(step_losses(run_dir))
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert killed_at < 16, "it was killed while it trained"
    assert step_losses(run_dir) == pytest.approx(straight[1], abs=1e-5)
    assert json.loads((run_dir / "train.json").read_text())["resumed_from"], "it went on from a checkpoint"
