"""Jobs for Slurm and SkyPilot, what is refused before they are written, and what workers tell their parent."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from full_recipe import FULL as FULL_RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.errors import EnvironmentFault, RunFailed, TrainingDiverged, UsageError
from sovtune.launch import messages, processes, skypilot, slurm
from sovtune.launch.processes import Device, check_processes, threads_each
from sovtune.launch_command import check_launcher
from sovtune.recipe_file import load_recipe
from sovtune.recipe_launch import Launch
from sovtune.train.settings import check_packages
from sovtune.train.sharding import begin_deepspeed

OPTIONS = {
    "job-name": r"[\w.,@:+-]+",
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "output": r"/\S+",
    "open-mode": "append|truncate",
    "requeue": None,
    "partition": r"\S+",
    "account": r"\S+",
    "time": r"(\d+-)?\d{1,2}:\d{2}:\d{2}",
    "signal": r"B:USR1@\d+",
}
"""Options of sbatch 22.05 that a job may use, with the form of their values (None: no value), from its manual."""


def make_job(folder: Path, **changes: object) -> slurm.Job:
    values = {
        "name": "ko", "arguments": ["recipe.yaml", "--runs-dir", "runs"], "folder": folder, "job_dir": folder / "launch", "stop_file": folder / "st op",
        "python": "/opt/py thon", "home": folder / "home", "gpus": True, **changes,
    }  # fmt: skip
    return slurm.Job(**values)


def options_of(script: str) -> dict[str, str | None]:
    found = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[name] = value or None
    return found


def check_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


FULL = Launch(
    processes=4, nodes=2, time_limit="1-02:00:00", partition="gpu", account="lab", setup=("module load cuda",)
)


def test_a_job_has_options_that_sbatch_knows_before_its_first_command(tmp_path: Path) -> None:
    script = slurm.sbatch_script(make_job(tmp_path), FULL)
    found = options_of(script)
    for name, value in found.items():
        form = OPTIONS[name]
        assert (value is None) if form is None else re.fullmatch(form, str(value)), name
    assert found["gpus-per-node"] == "4"
    assert found["nodes"] == "2"
    assert found["time"] == "1-02:00:00"
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first_command:])
    check_bash(script)


def test_the_job_prepares_once_then_trains_on_all_nodes(tmp_path: Path) -> None:
    script = slurm.sbatch_script(make_job(tmp_path), FULL)
    assert script.index("module load cuda") < script.index("sovtune data") < script.index("srun ")
    assert "'/opt/py thon' -m torch.distributed.run --nnodes=2 --nproc-per-node=4" in script
    assert "-m sovtune train recipe.yaml --runs-dir runs --resume &" in script


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20), st.integers(1, 64))
def test_no_argument_breaks_out_of_its_place(word: str, nodes: int) -> None:
    job = make_job(Path("/srv/runs"), arguments=["recipe.yaml", "--set", f"card.title={word}"])
    script = slurm.sbatch_script(job, Launch(nodes=nodes))
    check_bash(script)
    line = next(line for line in script.splitlines() if "-m sovtune train" in line)
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line.removesuffix(' &')}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"card.title={word}\n" in shown


@pytest.mark.parametrize("stage", ["before", "during", "never"])
def test_the_warning_before_the_limit_saves_and_requeues(tmp_path: Path, stage: str) -> None:
    """The script runs with stand-ins for Slurm's commands that write down what was asked of them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "log"
    stand_ins = {
        "scontrol": f'echo "scontrol $*" >> {log}; [ "$1" = show ] && echo node1 || true',
        "srun": f"kill -USR1 $PPID\nuntil [ -e '{tmp_path}/st op' ]; do sleep 0.02; done\necho saved >> {log}; exit 130"
        if stage == "during"
        else "exit 0",
        "py": "kill -USR1 $PPID" if stage == "before" else ":",
    }
    for name, text in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(
        slurm.sbatch_script(make_job(tmp_path, python=str(tools / "py")), Launch(time_limit="1:00:00"))
    )
    done = subprocess.run(
        ["bash", str(script)],
        env={"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    told = log.read_text().splitlines() if log.exists() else []
    if stage == "never":
        assert done.returncode == 0, done.stderr
        assert "scontrol requeue 42" not in told
    else:
        assert told[-1] == "scontrol requeue 42", done.stderr
        assert ("saved" in told) == (stage == "during")


@pytest.mark.parametrize(
    ("launch", "job", "words"),
    [
        (Launch(time_limit="0:09:00"), {}, "leaves no time"),
        (Launch(partition="a b"), {}, "cannot stand"),
        (Launch(), {"job_dir": Path("/a b")}, "space"),
    ],
)
def test_a_job_that_cannot_be_written_is_refused(
    tmp_path: Path, launch: Launch, job: dict, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        slurm.sbatch_script(make_job(tmp_path, **job), launch)


@pytest.mark.parametrize("module", [slurm, skypilot])
def test_submitting_needs_the_program(tmp_path: Path, module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [tmp_path / "job"] + (["ko"] if module is skypilot else [])
    with pytest.raises(EnvironmentFault, match="this machine has no"):
        module.submit(*arguments)


def test_submitting_tells_what_slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sbatch"
    program.write_text(
        '#!/bin/bash\n[ -f "$1" ] && echo Submitted batch job 7 || { echo bad partition >&2; exit 1; }\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "job").write_text("")
    assert slurm.submit(tmp_path / "job") == "Submitted batch job 7"
    with pytest.raises(RunFailed, match="refused") as caught:
        slurm.submit(tmp_path / "missing")
    assert caught.value.why == "bad partition"


CLOUD = Launch(processes=2, nodes=2, accelerators="L4:2", storage="s3://models", setup=("pip install x",))


def test_a_task_says_what_sky_needs(tmp_path: Path) -> None:
    job = make_job(tmp_path, arguments=["recipe.yaml", "--runs-dir", f"{skypilot.home(CLOUD)}/runs"])
    values = yaml.safe_load(skypilot.task_text(skypilot.task(job, CLOUD)))
    assert values["resources"] == {"accelerators": "L4:2"}
    assert values["num_nodes"] == 2
    assert values["file_mounts"] == {"/sovtune": {"source": "s3://models", "mode": "MOUNT"}}
    assert "--runs-dir /sovtune/runs --resume" in values["run"]
    assert values["setup"].splitlines()[1:] == ["pip install x"]
    check_bash(values["run"])
    # the keys of get_task_schema() in SkyPilot 0.14.1; all others are refused by it
    assert set(values) <= {"name", "workdir", "num_nodes", "resources", "file_mounts", "envs", "setup", "run"}


def test_without_storage_runs_lie_at_home(tmp_path: Path) -> None:
    launch = Launch(accelerators="L4", setup=("true",))
    job = make_job(tmp_path, arguments=["r.yaml", "--runs-dir", f"{skypilot.home(launch)}/runs"])
    assert '--runs-dir "$HOME/sovtune"/runs --resume' in skypilot.task(job, launch)["run"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"accelerators": None}, "launch.accelerators"),
        ({"accelerators": "L4:2 ; rm"}, "launch.accelerators"),
        ({"accelerators": "L4:8"}, "launch.accelerators"),
        ({"storage": None}, "launch.storage"),
        ({"setup": ()}, "launch.setup"),
    ],
)
def test_a_task_that_could_not_run_is_refused(tmp_path: Path, change: dict, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        skypilot.task(make_job(tmp_path), CLOUD.model_copy(update=change))
    assert caught.value.where == where


def test_more_processes_than_room_are_refused() -> None:
    check_processes(Launch(processes=2), Device(kind="cpu", count=2))
    with pytest.raises(EnvironmentFault, match="2 GPUs"):
        check_processes(Launch(processes=3), Device(kind="cuda", count=2))
    with pytest.raises(UsageError, match="2 machines"):
        check_processes(Launch(nodes=2), Device(kind="cpu", count=64))


@given(st.integers(1, 512), st.integers(1, 64))
@settings(max_examples=50, derandomize=True)
def test_threads_use_the_cores_once(cores: int, number: int) -> None:
    threads = threads_each(cores, number)
    assert threads >= 1
    assert threads * number <= max(cores, number)


@pytest.mark.parametrize(
    ("launcher", "submit", "restart"),
    [("k8s", False, False), (None, True, False), ("ray", True, False), ("slurm", False, True)],
)
def test_options_that_contradict_are_refused(launcher: str | None, submit: bool, restart: bool) -> None:
    with pytest.raises(UsageError):
        check_launcher(launcher, submit=submit, restart=restart)


def test_a_workers_error_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        messages.ERROR_FILE: str(file),
        messages.STARTED_HERE: str(os.getppid()),
    }.items():
        monkeypatch.setenv(name, value)
    error = TrainingDiverged("the loss is nan", where="step 3", why="a", fix="b")
    assert messages.tell_starter(error)
    lost = {
        "message": {
            "extraInfo": {
                "sovtune": [
                    "RunFailed",
                    {
                        "what": "another process of this run has ended",
                        "where": None,
                        "why": None,
                        "fix": None,
                    },
                ]
            }
        }
    }
    back = messages.error_of([lost, json.loads(file.read_text())], 5)
    assert type(back) is TrainingDiverged
    assert str(back) == str(error)


@pytest.mark.parametrize(("code", "words"), [(-9, "signal 9"), (1, "code 1")])
def test_a_worker_that_said_nothing_is_told_by_its_end(code: int, words: str) -> None:
    assert words in str(messages.error_of([{}, {"message": "<NONE>"}], code))


def test_without_a_launcher_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not messages.tell_starter(RunFailed("x"))
    assert not messages.is_worker()


def test_sharding_needs_several_processes() -> None:
    rule = Launch.rules[1]
    assert rule(SimpleNamespace(strategy="fsdp2", world=1)) is not None
    assert rule(SimpleNamespace(strategy="fsdp2", world=2)) is None
    assert rule(SimpleNamespace(strategy="ddp", world=1)) is None


def test_the_grace_is_longer_than_torchruns() -> None:
    """Thirty seconds, which it gives by itself, are too short for a step and a checkpoint."""
    assert processes.GRACE_S > 30


def test_zero3_without_deepspeed_is_refused(full_recipe, monkeypatch) -> None:
    monkeypatch.setattr("sovtune.train.settings.find_spec", lambda name: None)
    shared = full_recipe.model_copy(update={"launch": Launch(processes=2, strategy="zero3")})
    with pytest.raises(EnvironmentFault, match="package deepspeed") as caught:
        check_packages(shared)
    assert 'pip install "sovtune[deepspeed]"' in str(caught.value)


def test_zero3_is_not_kept_from_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UsageError, match="GPU of a machine that has one"):
        begin_deepspeed("cpu")


@pytest.fixture
def full_recipe(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(FULL_RECIPE, encoding="utf-8")
    return load_recipe(path).recipe
