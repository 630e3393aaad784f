"""Which hosts a command may ask follows from what the user named: mirrors, HF_ENDPOINT, an endpoint; nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

PROBE = """
import sys

def tell(event, arguments):
    if event == "socket.getaddrinfo":
        sys.stderr.write(f"asked: {arguments[0]}\\n")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        sys.stderr.write(f"asked: {arguments[1][0]}\\n")

sys.addaudithook(tell)
from sovtune.cli import main
main()
"""


class Empty(BaseHTTPRequestHandler):
    """A Hub that has nothing."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Empty) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def recipe(tmp_path: Path, root: Path) -> Path:
    """The quickstart with a data set of a Hub as its only data."""
    card = yaml.safe_load((root / "data_cards/sample-ko-instruct.yaml").read_text(encoding="utf-8"))
    card["files"] = [{"path": "hub:owner/name", "revision": "a" * 40, "sha256": "b" * 64, "rows": 1}]
    card["licence"] = {"expression": "CC0-1.0"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"extends: {root}/recipes/quickstart-ko.yaml\ndata:\n  - card: card.yaml\n", encoding="utf-8"
    )
    return path


def call(*arguments: str, **environment: str) -> tuple[int, set[str], str]:
    """Exit code, hosts that were asked, and what stderr says."""
    values = {
        name: value for name, value in os.environ.items() if name not in ("HF_ENDPOINT", "HF_HUB_OFFLINE")
    }
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(
        command, env={**values, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    asked = {line.removeprefix("asked: ") for line in done.stderr.splitlines() if line.startswith("asked: ")}
    return done.returncode, asked, done.stderr


def test_check_asks_no_hub_that_nobody_named(recipe: Path) -> None:
    code, asked, told = call("check", str(recipe))
    assert (code, asked) == (3, set())
    assert "set HF_ENDPOINT" in told


def test_check_asks_the_hub_that_the_environment_names(recipe: Path, hub: str) -> None:
    code, asked, told = call("check", str(recipe), HF_ENDPOINT=hub)
    assert (code, asked) == (3, {"127.0.0.1"}), told


def test_a_base_without_mirrors_is_asked_for_at_the_hub_of_the_environment(root: Path, hub: str) -> None:
    quickstart = str(root / "recipes/quickstart-ko.yaml")
    code, asked, told = call("fetch", quickstart, "--set", "base.mirrors=[]", HF_ENDPOINT=hub)
    assert (code, asked) == (3, {"127.0.0.1"}), told
    assert "offline mode" not in told


def test_offline_asks_nobody(root: Path, hub: str) -> None:
    quickstart = str(root / "recipes/quickstart-ko.yaml")
    code, asked, _ = call("run", quickstart, "--offline", "--set", "base.mirrors=[]", HF_ENDPOINT=hub)
    assert (code, asked) == (3, set())


def test_a_base_without_mirrors_may_come_from_the_public_hub(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sovtune import cli_shared

    named: list[list[str]] = []
    monkeypatch.setattr(
        cli_shared, "close_network", lambda endpoints, *_, **__: named.append(list(endpoints))
    )
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    quickstart = root / "recipes/quickstart-ko.yaml"
    cli_shared.open_recipe(quickstart, ["base.mirrors=[]"])
    cli_shared.open_recipe(quickstart, [])
    cli_shared.open_recipe(quickstart, ["base.mirrors=[]"], offline=True)
    assert named == [["https://huggingface.co"], [], []]
