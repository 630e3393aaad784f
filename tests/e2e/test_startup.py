"""Light commands answer at once: they load no heavy library and take less than half a second of CPU."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "pyarrow", "bitsandbytes", "huggingface_hub")
LIMIT_S = 0.5
LIGHT = {
    "help": ["--help"],
    "version": ["--version"],
    "check": ["check", "recipes/quickstart-ko.yaml"],
    "explain": ["check", "recipes/quickstart-ko.yaml", "--explain"],
    "mistakes": ["check", "recipes/quickstart-ko.yaml", "--set", "train.learing_rate=1", "--json"],
}
EXIT_CODES = {"mistakes": 2}
PROBE = """
import json, sys
sys.argv[0] = "sovtune"
from sovtune.cli import main
try:
    main()
finally:
    print("loaded:" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As a user has it after an install: bytecode is kept, in a folder of this test's own."""
    kept = str(tmp_path_factory.mktemp("bytecode"))
    values = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**values, "PYTHONPYCACHEPREFIX": kept}


def call(
    arguments: list[str], root: Path, environment: dict[str, str], program: list[str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", LIGHT)
def test_light_commands_load_nothing_heavy(name: str, root: Path, environment: dict[str, str]) -> None:
    done = call(LIGHT[name], root, environment, ["-c", PROBE])
    assert done.returncode == EXIT_CODES.get(name, 0), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("loaded:"), done.stderr
    loaded = set(json.loads(last.removeprefix("loaded:")))
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_the_probe_sees_a_heavy_library(root: Path, environment: dict[str, str]) -> None:
    done = call(
        ["--version"], root, environment, ["-c", PROBE.replace("import json", "import pyarrow, json")]
    )
    assert "pyarrow" in json.loads(done.stderr.splitlines()[-1].removeprefix("loaded:"))


@pytest.mark.parametrize("name", LIGHT)
def test_light_commands_take_little_cpu_time(name: str, root: Path, environment: dict[str, str]) -> None:
    """User and system time of the child, the best of three: other work on the machine hardly moves it."""
    call(LIGHT[name], root, environment, ["-m", "sovtune"])  # writes the bytecode
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call(LIGHT[name], root, environment, ["-m", "sovtune"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < LIMIT_S, taken


STACK = """
import gc, json, os, sys
from sovtune.stack import import_stack
import_stack()
import_stack()
import torch
def same(x): return x
print(json.dumps({
    "compiler": "torch._inductor.compile_fx" in sys.modules,
    "loaded": sorted({"torch", "transformers", "peft", "trl", "bitsandbytes"} & sys.modules.keys()),
    "collecting": gc.isenabled(), "frozen": gc.get_freeze_count(),
    "switch": os.environ.get("TORCHDYNAMO_DISABLE"), "compiles": torch.compile(same) is not same,
}))
"""


@pytest.mark.parametrize("switch", [None, "0"], ids=["unset", "set by the user"])
def test_the_training_stack_comes_without_compiler_and_leaves_no_trace(
    switch: str | None, root: Path, environment: dict[str, str]
) -> None:
    """What is switched while the libraries are imported is as before afterwards; a user's own word stands."""
    given = environment | ({} if switch is None else {"TORCHDYNAMO_DISABLE": switch})
    done = call([], root, given, ["-c", STACK])
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["loaded"] == ["bitsandbytes", "peft", "torch", "transformers", "trl"]
    assert seen["compiler"] is (switch is not None)
    assert seen["collecting"] is True and seen["frozen"] > 100_000
    assert seen["switch"] == switch and seen["compiles"] is True
