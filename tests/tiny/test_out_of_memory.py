"""A run whose memory is limited ends with the losses of one that is not, and its record says what was changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sovtune import pipeline
from sovtune.errors import EnvironmentFault
from sovtune.progress import Reporter
from sovtune.score_command import score_texts
from sovtune.train import engine, out_of_memory
from sovtune.train.out_of_memory import RECORD, halves, is_out_of_memory, largest, pieces
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(12)
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """A run of six steps with memory enough."""
    return train(make_recipe(), base, tmp_path_factory.mktemp("straight") / "run", ROWS)


LIMITED = """
import json, os, resource, sys
from pathlib import Path
from datasets import Dataset
from sovtune.errors import EnvironmentFault
from sovtune.model import load_with_new_adapter
from sovtune.train.engine import TrainJob, peak_rss, run
from tiny_runs import losses, make_recipe
import deepspeed  # where it is installed accelerate imports it as a trainer is made, when memory is short already

base, home = Path(sys.argv[1]), Path(sys.argv[2])

def now(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def train(run_dir, limit, rows_at_once, documents, group=None, resume=False):
    recipe = make_recipe()
    section = recipe.train.run.model_copy(update={"micro_rows": rows_at_once})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"run": section})})
    model = load_with_new_adapter(recipe, base)
    length = 768 // documents
    row = [3 + i % 200 for i in range(length)] * documents
    rows = Dataset.from_list([{"input_ids": row, "labels": row, "lengths": [length] * documents}] * 8)
    before = now("VmRSS")
    if group:  # what was taken before is charged elsewhere
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    elif limit:
        most = now("VmData") + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    job = TrainJob(recipe=recipe, rows=rows, steps=2, rows_per_step=4, tokenizer_folder=base, run_dir=run_dir,
                   fingerprint="x", progress=lambda metrics, of: None)
    run_dir.mkdir(exist_ok=True)
    try:
        outcome = run(job, model, resume=resume)
    except EnvironmentFault as error:
        return {"error": str(error)}
    return {"losses": losses(outcome), "tokens": [m.tokens for m in outcome.history], "events": outcome.events,
            "grew": peak_rss() - before, "kept": json.loads((run_dir / "out-of-memory.json").read_text())}

def in_a_process(name, *values):
    # forked, so that the libraries are imported once and every run has a peak of its own
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        with os.fdopen(write, "w") as stream:
            stream.write(json.dumps(train(home / name, *values)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    _, status = os.wait()
    result = json.loads(text) if text else {"signal": os.WTERMSIG(status)}
    print(json.dumps([name, result]), flush=True)
    return result

if len(sys.argv) > 3:
    group = Path(sys.argv[3])
    limit, peak = next(names for names in (("memory.max", "memory.peak"),
                                           ("memory.limit_in_bytes", "memory.max_usage_in_bytes"))
                       if (group / names[0]).exists())
    free = in_a_process("free", 0, 4, 1, str(group))
    (group / limit).write_text(str(int((group / peak).read_text()) - int(0.4 * free["grew"])))
    for attempt in range(4):
        if "signal" not in in_a_process("killed", 0, 4, 1, str(group), True):
            break
    sys.exit(0)

for name, share, rows_at_once, documents in (("rows", 0.5, 4, 1), ("documents", 0.6, 1, 4)):
    free = in_a_process(f"free {name}", 0, rows_at_once, documents)
    in_a_process(f"tight {name}", int(share * free["grew"]), rows_at_once, documents)
in_a_process("hopeless", 4_000_000, 1, 1)
"""


def run_limited(folder: Path, *more: str) -> list[list[Any]]:
    """What the script above prints: name and result of every run."""
    # wide enough that a micro-batch takes far more memory than Python's own comings and goings
    base = make_base(folder / "base", hidden=256)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(base), str(folder), *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Two steps of four rows of 768 tokens, with and without a limit of memory, in processes of their own."""
    if sys.platform != "linux":
        pytest.skip("limits of memory are Linux's")
    return dict(run_limited(tmp_path_factory.mktemp("limited")))


@pytest.fixture
def group():
    """A control group of our own, where the machine lets us make one."""
    for top in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        place = top / f"sovtune-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        if (place / "memory.limit_in_bytes").exists() or (place / "memory.max").exists():
            yield place
            place.rmdir()
            return
        place.rmdir()
    pytest.skip("control groups of memory cannot be made here")


@pytest.mark.slow
def test_a_run_that_its_control_group_kills_goes_on_smaller_when_resumed(group, tmp_path):
    """SIGKILL leaves no time for a word: the mark in the run folder and the system's counter tell what happened."""
    (_, free), *attempts, (_, last) = run_limited(tmp_path, str(group))
    assert [result["signal"] for _, result in attempts] == [9] * len(attempts)
    assert attempts
    assert last["losses"] == pytest.approx(free["losses"], abs=1e-5)
    assert len(last["events"]) == len(attempts)
    assert "killed for lack of memory with 3,072 tokens at once; went on with 1,536" in last["events"][0]


@pytest.mark.parametrize("name", ["rows", "documents"])
def test_a_run_under_a_memory_limit_has_the_losses_of_one_without(limited, name):
    free, tight = limited[f"free {name}"], limited[f"tight {name}"]
    assert free["events"] == []
    assert tight["losses"] == pytest.approx(free["losses"], abs=1e-5)
    assert tight["tokens"] == free["tokens"]
    assert re.match(r"step [12]: out of memory with ", tight["events"][0])


def test_what_was_changed_is_in_the_record(limited):
    rows, documents = limited["tight rows"], limited["tight documents"]
    assert "3,072 tokens at once; went on with 1,536 at once" in rows["events"][0]
    assert rows["kept"]["level"] >= 1
    assert rows["kept"]["under_way"] is None
    assert "768 tokens at once; went on with 384 at once" in documents["events"][0]


def test_a_run_that_cannot_shrink_says_what_to_do(limited):
    error = limited["hopeless"]["error"]
    assert "a document of 768 tokens alone does not fit" in error
    assert "--apply NEW.yaml" in error


def test_a_lack_of_memory_in_the_middle_of_a_step_changes_no_loss(base, straight, tmp_path, monkeypatch):
    """The step is done again from its first micro-batch: the gradients of a failed one are not kept."""
    calls = []
    real = engine.Trainer.compute_loss

    def fails_in_step_3(self, model, inputs, *args, **kwargs):
        calls.append(inputs["input_ids"].numel())
        loss = real(self, model, inputs, *args, **kwargs)
        if self.state.global_step == 2 and len(calls) == 6:  # the second micro-batch of the third step
            loss.register_hook(lambda grad: (_ for _ in ()).throw(RuntimeError(ALLOCATOR)))
        return loss

    monkeypatch.setattr(engine.Trainer, "compute_loss", fails_in_step_3)
    outcome = train(make_recipe(), base, tmp_path / "run", ROWS)
    assert losses(outcome) == pytest.approx(losses(straight), abs=1e-5)
    assert [m.tokens for m in outcome.history] == [m.tokens for m in straight.history]
    assert [m.supervised_tokens for m in outcome.history] == [m.supervised_tokens for m in straight.history]
    assert outcome.events[0].startswith("step 3: out of memory")
    assert len(outcome.events) == 1


def test_a_document_that_cannot_be_cut_is_checkpointed(base, tmp_path, monkeypatch):
    """Every row is one document: its layers are repeated in the backward pass instead."""
    rows = Dataset.from_list(
        [{"input_ids": ids, "labels": ids, "lengths": [30]} for ids in [list(range(5, 35))] * 12]
    )
    free = train(make_recipe(), base, tmp_path / "free", rows)
    real = engine.Trainer.compute_loss

    def needs_checkpointing(self, model, inputs, *args, **kwargs):
        if not model.is_gradient_checkpointing and self.state.global_step == 1:
            raise RuntimeError(ALLOCATOR)
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(engine.Trainer, "compute_loss", needs_checkpointing)
    outcome = train(make_recipe(), base, tmp_path / "run", rows)
    assert outcome.events == (
        "step 2: out of memory with 30 tokens at once; went on with gradient checkpointing",
    )
    assert losses(outcome) == pytest.approx(losses(free), abs=1e-6)
    assert json.loads((tmp_path / "run" / RECORD).read_text())["checkpointing"] is True


def test_another_error_is_not_taken_for_a_lack_of_memory(base, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine.Trainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(make_recipe(), base, tmp_path / "run", ROWS)


def test_stop_means_stop(base, tmp_path, monkeypatch):
    def no_memory(*args, **kwargs):
        raise RuntimeError(ALLOCATOR)

    monkeypatch.setattr(engine.Trainer, "compute_loss", no_memory)
    with pytest.raises(EnvironmentFault, match="last complete checkpoint is intact"):
        train(make_recipe(out_of_memory="stop"), base, tmp_path / "run", ROWS)
    assert json.loads((tmp_path / "run" / RECORD).read_text())["level"] == 0


def test_a_lack_of_memory_before_the_first_step_is_told_as_one(base, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Trainer", no_memory)
    with pytest.raises(EnvironmentFault, match="last complete checkpoint is intact") as caught:
        train(make_recipe(), base, tmp_path / "run", ROWS)
    assert caught.value.why == ALLOCATOR


def no_memory(*args, **kwargs):
    raise RuntimeError(ALLOCATOR)


def test_a_lack_of_memory_in_the_evaluation_keeps_what_was_trained(monkeypatch):
    monkeypatch.setattr(pipeline, "_measure", no_memory)
    with pytest.raises(EnvironmentFault, match="what was trained is kept") as caught:
        pipeline._evaluate(None)
    assert caught.value.why == ALLOCATOR


def test_a_lack_of_memory_while_texts_are_measured_says_what_needs_less(base, tmp_path, monkeypatch):
    text = tmp_path / "held-out.txt"
    text.write_text("The library opens at nine.\n", encoding="utf-8")
    monkeypatch.setattr("sovtune.evaluate.bits.text_costs", no_memory)
    with pytest.raises(EnvironmentFault, match="--quantisation nf4"):
        score_texts(str(base), None, [text], "none", Reporter(Console(stderr=True), quiet=True))


@pytest.mark.parametrize(
    ("kills_before", "boot", "level"), [(-1, None, 1), (None, None, 0), (-1, "another boot", 0)]
)
def test_a_run_that_was_killed_for_memory_goes_on_smaller(
    base, straight, tmp_path, kills_before, boot, level
):
    """The mark of a run under way stays when it is killed; the system's counter tells whether memory was the reason."""

    def crash(metrics, of):
        if metrics.step == 3:
            raise MemoryError  # outside a step: nothing is cut there

    with pytest.raises(EnvironmentFault):
        train(make_recipe(), base, tmp_path / "run", ROWS, progress=crash)
    path = tmp_path / "run" / RECORD
    kept = json.loads(path.read_text())
    assert kept["under_way"] is None
    marks = out_of_memory._marks()
    kills = marks["kills"] if kills_before is None else marks["kills"] + kills_before
    path.write_text(json.dumps({**kept, "under_way": {"boot": boot or marks["boot"], "kills": kills}}))
    outcome = train(make_recipe(), base, tmp_path / "run", ROWS, resume=True)
    assert losses(outcome) == pytest.approx(losses(straight), abs=1e-5)
    assert json.loads(path.read_text())["level"] == level
    assert len(outcome.events) == level
    if level:
        assert outcome.events[0].startswith("step 3: an earlier process was killed for lack of memory")


def test_a_resumed_run_keeps_its_smaller_pieces_and_a_new_one_does_not(base, tmp_path, monkeypatch):
    real = engine.Trainer.compute_loss
    failed = []

    def fails_once(self, model, inputs, *args, **kwargs):
        if not failed:
            failed.append(True)
            raise RuntimeError(ALLOCATOR)
        return real(self, model, inputs, *args, **kwargs)

    def crash(metrics, of):
        if metrics.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine.Trainer, "compute_loss", fails_once)
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(), base, tmp_path / "run", ROWS, progress=crash)
    outcome = train(make_recipe(), base, tmp_path / "run", ROWS, resume=True)
    assert len(outcome.events) == 1
    assert train(make_recipe(), base, tmp_path / "run", ROWS).events == ()


@pytest.mark.parametrize("kind", ["pairs", "verdicts"])
@settings(derandomize=True, max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), level=st.integers(0, 4))
def test_pieces_lose_nothing_and_keep_comparisons_together(kind, lengths, level):
    units = len(lengths) if kind == "verdicts" else 2 * len(lengths)
    sizes = (lengths * 2)[:units]
    ids = list(range(sum(sizes)))
    row = {
        "input_ids": ids,
        "labels": [-i for i in ids],
        "lengths": sizes,
        "reference": [float(i) for i in range(units)],
    }
    row["mismatched"] = None
    if kind == "verdicts":
        row["good"] = [i % 2 == 0 for i in range(units)]
    found = [piece for part in pieces([row], level) for piece in part]
    for name in ("input_ids", "labels", "lengths", "reference", *(["good"] if kind == "verdicts" else [])):
        assert [value for piece in found for value in piece[name]] == row[name]
    for piece in found:
        assert sum(piece["lengths"]) == len(piece["input_ids"])
        assert len(piece["reference"]) == len(piece["lengths"])
        assert kind == "verdicts" or len(piece["lengths"]) % 2 == 0
    assert largest([row], level + 1) <= largest([row], level)


def test_halves_of_rows_and_of_one_row():
    one = {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "lengths": [4, 1]}
    assert halves([one, one, one]) == ([one], [one, one])
    first, second = halves([one])
    assert (first[0]["lengths"], second[0]["input_ids"]) == ([4], [5])
    assert halves(first) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError(
                f"[enforce fail at alloc_cpu.cpp:124] . {'DefaultCPUAllocator'}: can't allocate memory"
            ),
            True,
        ),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for the matmul primitive"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
