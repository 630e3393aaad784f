"""Shared test set-up: environment before heavy imports, no network but loopback, one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # noqa: F401 - it reads the environment once: now, before a test closes the network
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test does to the environment (closing the network does much) ends with it."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection that leaves the machine fails the test; loopback and UNIX sockets are allowed."""
    real_connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to connect to {address!r}")
        return real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _sovtune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of a test live and die with it unless it asks for the shared one."""
    monkeypatch.setenv("SOVTUNE_HOME", str(tmp_path / "sovtune-home"))
