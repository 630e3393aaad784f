"""A run whose memory is limited ends with the losses of one that is not, and its record says what was changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sovtune.errors import EnvironmentFault
from sovtune.train import out_of_memory
from sovtune.train.out_of_memory import RECORD, halves, is_out_of_memory, largest, pieces
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

ROWS = make_rows(12)

LIMITED = """
import json, resource, sys
from pathlib import Path
from datasets import Dataset
from sovtune.model import load_with_new_adapter
from sovtune.train.engine import TrainJob, run, peak_rss
from tiny_runs import losses, make_recipe
base, run_dir, share, rows_at_once, documents = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
recipe = make_recipe()
run_section = recipe.train.run.model_copy(update={"micro_rows": rows_at_once})
recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"run": run_section})})
model = load_with_new_adapter(recipe, base)
length = 768 // documents
one = [3 + i % 200 for i in range(length)] * documents
rows = Dataset.from_list([{"input_ids": one, "labels": one, "lengths": [length] * documents}] * 8)
def now(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
before = now("VmRSS")
if share:
    limit = now("VmData") + int(share)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
job = TrainJob(recipe=recipe, rows=rows, steps=2, rows_per_step=4, tokenizer_folder=base, run_dir=run_dir,
               fingerprint="x", progress=lambda metrics, of: None)
run_dir.mkdir()
outcome = run(job, model, resume=False)
print(json.dumps({"losses": losses(outcome), "tokens": [m.tokens for m in outcome.history],
                  "events": outcome.events, "grew": peak_rss() - before}))
"""


def limited(
    base: Path, run_dir: Path, extra_bytes: float, *, rows_at_once: int = 4, documents: int = 1
) -> subprocess.CompletedProcess[str]:
    """Two steps of four rows of 768 tokens in a process that may take ``extra_bytes`` more; 0 means no limit."""
    numbers = [str(extra_bytes), str(rows_at_once), str(documents)]
    command = [sys.executable, "-c", LIMITED, str(base), str(run_dir), *numbers]
    paths = f"{Path(__file__).parent.parent}"
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**__import__("os").environ, "PYTHONPATH": paths}
    )


def result(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Wide enough that a micro-batch takes far more memory than Python's own comings and goings."""
    return make_base(tmp_path_factory.mktemp("wide") / "base", hidden=256)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_run_under_a_memory_limit_has_the_losses_of_one_without(wide, tmp_path):
    free = result(limited(wide, tmp_path / "free", 0))
    assert free["events"] == []
    tight = result(limited(wide, tmp_path / "tight", 0.5 * free["grew"]))
    assert "out of memory with 3,072 tokens at once; went on with 1,536 at once" in tight["events"][0]
    assert tight["events"][0].startswith("step 1: ")
    assert tight["losses"] == pytest.approx(free["losses"], abs=1e-5)
    assert tight["tokens"] == free["tokens"]
    kept = json.loads((tmp_path / "tight" / RECORD).read_text())
    assert kept["level"] == len(tight["events"]) >= 1
    assert kept["under_way"] is None
