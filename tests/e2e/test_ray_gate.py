"""The data gate on a real Ray cluster of two workers: the local result to the row, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cli_runs import environment, sovtune, write_project
from planted_texts import SENTENCES
from sovtune.data.dedup import CROWDED, as_matrix, band_matrix, sketch_all
from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_duplicates import Search
from sovtune.data.gate_ray import ray_engine
from sovtune.data.gate_ray_cluster import RayCluster
from sovtune.data.gate_read import GateSource, Slice
from sovtune.data.gate_refine import ShardContext
from sovtune.data.gate_settings import GateSettings, Percentiles
from sovtune.errors import EnvironmentFault
from sovtune.records import to_json

pytestmark = pytest.mark.slow
KO = SENTENCES["ko"]
GATE = GateSettings(language="ko", candidates=("ko", "en"), quality=Percentiles(low=0.5, high=99.5))
SHARD_BYTES = 40_000


def crowd(number: int) -> list[str]:
    """Texts of which three quarters are a template: about as alike as the threshold, hundreds to a bucket."""
    chance = random.Random(11)
    template = " ".join(KO[:3])
    letters = [chr(code) for code in range(0xAC00, 0xAC00 + 2000)]
    return [
        f"{template} {''.join(chance.choices(letters, k=len(template) // 4))}입니다." for _ in range(number)
    ]


def planted() -> list[str]:
    """Rows for every kind of verdict of pass 2, and some for pass 1, in no order."""
    chance = random.Random(7)
    words = [word for sentence in KO for word in sentence.split()]
    plain = [" ".join(chance.choices(words, k=70)) + f" {number}." for number in range(300)]
    rows = [
        *plain,
        *(f"{text} 그리고" for text in plain[:60]),  # near
        *plain[100:160],  # exact
        *["네, 알겠습니다."] * 300,  # exact, too short for a signature
        *(f"{KO[4]} {KO[5]} 번호 {number}." for number in range(CROWDED + 40)),  # a crowded cluster
        *crowd(900),
        *[KO[8] + " " + KO[9]] * 2,  # held out
        *["The library opens at nine in the morning and closes at six in the evening."] * 3,
        "문의는 010-2345-6789 로 하세요. 평일 아홉 시부터 여섯 시까지 받습니다.",
    ]
    chance.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files and a held-out one."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = planted()
    for name, part in (("a.jsonl", rows[:1200]), ("b.jsonl", rows[1200:])):
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    held_out = [f"{KO[8]} {KO[9]}", rows[0], KO[7]]
    (folder / "held.txt").write_text("".join(f"{text}\n" for text in held_out), encoding="utf-8")
    return folder


def run(
    corpus: Path,
    work: Path,
    cluster: RayCluster | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict], list[dict], dict]:
    """Decisions, kept rows, and the report without what may differ: time, workers and what was there already."""
    sources = [GateSource(file=LocalFile(path=corpus / name, shown=name)) for name in ("a.jsonl", "b.jsonl")]
    held_out = [GateSource(file=LocalFile(path=corpus / "held.txt", shown="held.txt"))]
    with curate(
        sources, GATE, work, held_out=held_out, workers=2, cluster=cluster, shard_bytes=SHARD_BYTES, progress=progress,
    ) as curated:  # fmt: skip
        decisions = [row.decision() for row in curated.rows()]
        kept = [document.as_row() for document in curated.documents()]
        report = json.loads(to_json(curated.report))
    for name in ("seconds", "workers", "shards_reused"):
        del report[name]
    for step in report["steps"]:
        del step["seconds"]
    return decisions, kept, report


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[dict], dict]:
    """What the local engine says."""
    return run(corpus, tmp_path_factory.mktemp("local"))


@dataclasses.dataclass
class Head:
    """A cluster of one machine and two workers that outlives its users, and its processes."""

    cluster: RayCluster
    process: psutil.Process

    def workers(self, doing: str) -> list[psutil.Process]:
        """Workers that run a function; Ray gives a process the name of its task."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                if doing in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """What `ray start` makes, on the loopback address."""
    log = tmp_path_factory.mktemp("ray") / "log"
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as sessions,
        socket.socket() as free,
        log.open("w") as stream,
    ):
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}",
            "--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=0", f"--object-store-memory={200 << 20}",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={sessions}",
        ]  # fmt: skip
        loopback = environment(log.parent, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=loopback)
        try:
            wait_for(lambda: "Ray runtime started" in log.read_text(), process)
            yield Head(RayCluster(address=f"127.0.0.1:{port}"), psutil.Process(process.pid))
        finally:
            started = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()
            psutil.wait_procs(started, 30)


def wait_for(done: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while not done():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def finished(work: Path) -> dict[Path, int]:
    """The parts under their final names; `.part-*` folders are still written, and go away at any moment."""
    return {path: path.stat().st_mtime_ns for path in work.glob("[!.]*/shard.json")}


def test_the_corpus_is_hard_enough(corpus, expected):
    """Crowded buckets whose rows are not all alike, so that it matters which pairs are compared; every verdict."""
    texts = [json.loads(line)["text"] for name in ("a.jsonl", "b.jsonl") for line in (corpus / name).open()]
    sketches = sketch_all([text for text in texts if KO[0] in text])
    matrix = as_matrix([sketch.signature for sketch in sketches if sketch.signature is not None])
    _, sizes = np.unique(band_matrix(matrix), return_counts=True)
    decisions, kept, report = expected
    assert sizes.max() > CROWDED
    assert 100 < sum(KO[0] in row["text"] for row in kept) < len(sketches) - 100
    assert {"exact_duplicate", "near_duplicate", "contamination", "wrong_language"} <= set(
        report_reasons(decisions)
    )
    assert any(step["name"] == "quality" and step["dropped"] for step in report["steps"])
    assert report["shards"] >= 8


def report_reasons(decisions: list[dict]) -> dict[str, int]:
    return Counter(row["reason"] for row in decisions if not row["kept"])


def test_rows_and_report_are_those_of_one_machine(corpus, expected, head, tmp_path):
    assert run(corpus, tmp_path, head.cluster) == expected


def test_killed_workers_lose_nothing(corpus, expected, head, tmp_path):
    """One is killed at its slice, one while it compares, one while it decides; what was finished stays as it is."""
    before: dict[Path, int] = {}
    killed: list[str] = []

    def kill_one(doing: str) -> None:
        if doing not in killed:
            for worker in head.workers(doing)[:1]:
                worker.kill()
                killed.append(doing)

    def progress(rows: int, _: int) -> None:
        if len(finished(tmp_path)) >= 3:
            before.update({} if before else finished(tmp_path))
            kill_one("refine_slice")

    def watch() -> None:
        while not over.wait(0.01):
            kill_one("join_buckets")
            kill_one("decide_clusters")

    over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert run(corpus, tmp_path, head.cluster, progress) == expected
    finally:
        over.set()
        watcher.join()
    assert sorted(killed) == ["decide_clusters", "join_buckets", "refine_slice"]
    assert len(before) >= 3 and {path: finished(tmp_path)[path] for path in before} == before
    assert not list(tmp_path.glob(".part-*"))


CURATE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_ray_gate import run
from sovtune.data.gate_ray_cluster import RayCluster
import json

if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path("work"), RayCluster(address=sys.argv[2]))))
"""


def test_a_killed_driver_goes_on_where_it_was(corpus, expected, head, tmp_path):
    (tmp_path / "curate.py").write_text(CURATE)
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "curate.py", str(corpus), str(head.cluster.address), *places]
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path))
    work = tmp_path / "work"
    wait_for(lambda: len(finished(work)) >= 3, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = finished(work)
    assert list(work.glob(".part-ray-*"))
    again = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert tuple(json.loads(again.stdout)) == expected
    assert again.stderr == ""
    assert 3 <= len(before) < expected[2]["shards"]
    assert {path: finished(work)[path] for path in before} == before
    assert not list(work.glob(".part-*"))


def test_nothing_to_find_is_no_fault(head, tmp_path):
    """No rows at all, and a cluster of which nothing goes: held-out texts are never dropped."""
    nothing = Search(shards=(), held_out=(), limits=None, threshold=0.7)
    twins = dataclasses.replace(nothing, held_out=tuple(sketch_all([KO[0], KO[0], KO[1]])))
    with ray_engine(head.cluster, 2, tmp_path) as engine:
        assert [*engine.duplicates(nothing), *engine.duplicates(twins)] == []


def test_a_recipe_names_the_cluster(head, tmp_path):
    """What the gate did in a run is the same with Ray, but for seconds; a wrong address is told at once."""
    recipe = write_project(tmp_path)
    records = []
    for home, launch in (("local", ()), ("ray", ("data_engine=ray", f"ray_address={head.cluster.address}"))):
        named = [word for key in launch for word in ("--set", f"launch.{key}")]
        done = sovtune(
            "data", recipe, "--json", "-q", "--restart", "--set", "curate.quality=off", *named,
            folder=tmp_path, SOVTUNE_HOME=str(tmp_path / home),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        run_dir = tmp_path / json.loads(done.stdout)["run_dir"]
        records.append(without_times(json.loads((run_dir / "gate.json").read_text(encoding="utf-8"))))
    assert records[0] == records[1]
    assert records[0]["rows"] == 40 and records[0]["shards_reused"] == 0
    wrong = sovtune(
        "data", recipe, "--restart", "--set", "curate.quality=off", "--set", "launch.data_engine=ray",
        "--set", "launch.ray_address=127.0.0.1:1", folder=tmp_path, SOVTUNE_HOME=str(tmp_path / "wrong"),
    )  # fmt: skip
    assert wrong.returncode == 3 and "127.0.0.1:1: cannot join the Ray cluster" in wrong.stderr


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if "seconds" not in key and key != "workers"
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_a_worker_that_does_not_see_the_folder_says_so(head, tmp_path):
    """In tasks and inside Ray Data; the error is ours, not a traceback of the worker."""
    search = Search(shards=(), held_out=tuple(sketch_all(KO)), limits=None, threshold=0.7)
    context = ShardContext(settings=GATE, sources=(), held_out=None, fingerprint="", folder=tmp_path)
    part = Slice(source=0, form="lines", first=1, codec="utf-8", data=b"")
    with ray_engine(head.cluster, None, tmp_path) as engine:
        assert engine.workers == 2
        for mark in tmp_path.glob(".part-ray-*"):
            mark.rmdir()
        with pytest.raises(EnvironmentFault, match="does not see the work folder") as shuffled:
            list(engine.duplicates(search))
        with (
            pytest.raises(EnvironmentFault, match="does not see the work folder") as task,
            engine.pool(context) as pool,
        ):
            pool.begin(part, "key")()
    for caught in (shuffled, task):
        assert type(caught.value) is EnvironmentFault
        assert "Traceback" not in str(caught.value) and str(tmp_path) in str(caught.value)


ASKED = """
import socket, subprocess, sys, threading

def note(what):
    with open("asked.txt", "a") as stream:
        stream.write(f"{what}\\n")

def listen(kind, port):
    with socket.socket(socket.AF_INET, kind) as here:
        here.bind(("0.0.0.0", port))
        if kind == socket.SOCK_DGRAM:
            while True:
                note(here.recv(512))
        here.listen()
        while True:
            with here.accept()[0] as caller:
                note(caller.getsockname())

for command in ("link set lo up", "route add local default dev lo"):  # every address in the world is this machine
    subprocess.run(["ip", *command.split()], check=True)
for kind, port in ((socket.SOCK_STREAM, 80), (socket.SOCK_STREAM, 443), (socket.SOCK_DGRAM, 53)):
    threading.Thread(target=listen, args=(kind, port), daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:]))
"""


def test_a_scan_has_a_cluster_of_its_own_that_asks_nobody(corpus, tmp_path):
    """Nobody is asked for a name or a page, not even which cloud this is; Ray says nothing and leaves nothing."""
    (tmp_path / "asked.py").write_text(ASKED)
    alone = ("unshare", "-rn", sys.executable, str(tmp_path / "asked.py"))
    if subprocess.run([*alone, "true"], cwd=tmp_path, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no user and network namespaces (unshare -rn), or has no `ip`")
    results = []
    with tempfile.TemporaryDirectory(prefix="t-") as temporary:  # Ray's sockets want a short path
        for more, prefix in ((("--engine", "ray"), alone), ((), ())):
            done = sovtune(
                "data", "scan", corpus / "a.jsonl", "--language", "ko", "--against", corpus / "held.txt",
                "--workers", "2", "--decisions", "rows.jsonl", "--json", "-q", *more,
                folder=tmp_path, prefix=prefix, TMPDIR=temporary,
            )  # fmt: skip
            assert done.returncode == 0 and done.stderr == "", done.stderr
            results.append((done.stdout, (tmp_path / "rows.jsonl").read_bytes()))
        assert not list(Path(temporary).iterdir())
    assert results[0] == results[1]
    assert not (tmp_path / "asked.txt").exists(), (tmp_path / "asked.txt").read_text()
