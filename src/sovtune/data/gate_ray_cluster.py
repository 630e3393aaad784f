"""A Ray cluster for the data gate: started or joined quietly, checked from inside, its errors told as ours."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import site
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Generic, TypeVar, cast

from sovtune.data.gate_settings import code_version
from sovtune.data.gate_shard import named_disk_faults
from sovtune.errors import EnvironmentFault, SovtuneError, UsageError
from sovtune.recipe_launch import RAY_ADDRESS, ray_host

T = TypeVar("T")
STORE_BYTES, STORE_BYTES_PER_WORKER = 192 << 20, 32 << 20
"""Object store of a cluster on this machine: slices in flight and one shuffle; what does not fit goes to disk."""
_MARK = ".part-ray-"  # the gate clears away what begins with `.part-` before a run
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    # Some of Ray reports that reporting is switched off: to nobody.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    # Under `uv run` Ray would pack the current folder and send it to every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Tries of a minute each to join a cluster; 20 unless told otherwise.
    "RAY_NUM_REDIS_GET_RETRIES": "2",
}
# The name is Ray's: "0" keeps Ray on the loopback address, on Linux too; else 127.0.0.1 is taken for the address that
# this machine has in its network, and Ray listens there.
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
KNOCK_S = 10.0
"""How long an address may take to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """Which cluster: the one at ``address`` (``host:port``), or None for one of this run's own, on this machine."""

    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is not None and not re.fullmatch(RAY_ADDRESS, self.address):
            raise UsageError(
                f"`{self.address}` is no address of a Ray cluster",
                why="Ray Data runs on a machine of the cluster, not through a `ray://` client",
                fix="join this machine with `ray start --address=HOST:PORT`, then name the same HOST:PORT",
            )


@contextmanager
def connected(cluster: RayCluster, workers: int | None, folder: Path) -> Iterator[tuple[int, Path]]:
    """A connection to the cluster: how many workers to use, and a folder in ``folder`` that shows whether it is shared.

    A process that has a connection already keeps it, whatever ``cluster`` says.

    Args:
        cluster: see there.
        workers: None is one per core of the cluster.
        folder: the work folder.

    Raises:
        EnvironmentFault: Ray is not installed, cannot be started or reached, or has no core to work on.
    """
    host = ray_host(cluster.address) if cluster.address else "localhost"
    ray = import_ray(loopback_only=host in _LOOPBACK)
    mark = folder / f"{_MARK}{uuid.uuid4().hex}"
    with named_disk_faults(folder):
        mark.mkdir(mode=0o700)
    try:
        with _quiet(), _session(ray, cluster, workers, mark):
            cores = int(ray.cluster_resources().get("CPU", 0))
            if cores < 1:
                raise EnvironmentFault(
                    "the Ray cluster has no core to work on",
                    where=cluster.address,
                    fix="start a worker: `ray start --address=HOST:PORT`",
                )
            yield workers or cores, mark
    finally:
        shutil.rmtree(mark, ignore_errors=True)


@cache
def _loopback_at_import(wanted: bool) -> bool:
    """Whether Ray was, or is going to be, imported with leave to use the loopback address; asked before it is."""
    told = all(os.environ.get(name) == value for name, value in _LOOPBACK_ONLY.items())
    return told or (wanted and sys.modules.get("ray") is None)


def import_ray(*, loopback_only: bool = False) -> Any:
    """The library, imported with its telemetry switched off.

    Raises:
        EnvironmentFault: it is not installed, or was imported before it could be told to stay on the loopback address.
    """
    if not _loopback_at_import(loopback_only) and loopback_only and not sys.modules["ray"].is_initialized():
        raise EnvironmentFault(
            "`ray` was imported before sovtune could set it up",
            why="it reads once, while it is imported, whether it may use the loopback address, and would wait for "
            "minutes at another one",
            fix="set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `import ray`, or connect with `ray.init` yourself",
        )
    os.environ.update(_ENVIRONMENT | (_LOOPBACK_ONLY if loopback_only else {}))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EnvironmentFault(
            "`engine: ray` needs the package `ray`",
            why=f"it cannot be imported: {error}",
            fix='pip install "sovtune[ray]"',
        ) from error
    return ray


@contextmanager
def _session(ray: Any, cluster: RayCluster, workers: int | None, mark: Path) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in the place of it
    private = Path(mkdtemp(prefix="ray-")) if cluster.address is None else None
    try:
        with named_ray_faults(cluster.address):
            if private is not None:
                _start(ray, workers or os.cpu_count() or 1, mark, private)
            elif cluster.address is not None:
                _join(ray, cluster.address)
        yield
    finally:
        ray.shutdown()
        if on_main:
            signal.signal(signal.SIGTERM, before)
        if private is not None:
            shutil.rmtree(private, ignore_errors=True)


def _start(ray: Any, cores: int, mark: Path, private: Path) -> None:
    # Ray guards its ports with this token; without one it would write one into the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", _token())
    try:
        with _home_without_cloud(private / "home"):
            ray.init(
                address="local",
                num_cpus=cores,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=STORE_BYTES + cores * STORE_BYTES_PER_WORKER,
                object_spilling_directory=str(mark),
                _temp_dir=str(private),
                **_SILENT,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            "cannot start Ray on this machine",
            where=str(private),
            why=first_line(error),
            fix="make room in the folder for temporary files, or name another one, with a short path, in TMPDIR",
        ) from error


@contextmanager
def _home_without_cloud(home: Path) -> Iterator[None]:
    """Start processes with a home folder that answers what Ray would ask the metadata services of the clouds.

    Ray does so even with its statistics switched off, at 169.254.169.254 and metadata.google.internal, unless it
    finds a cluster configuration at home.
    """
    home.mkdir(mode=0o700)
    (home / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    theirs = {"HOME": str(home), "PYTHONUSERBASE": site.getuserbase()}  # packages stay where they are
    before = {name: os.environ.get(name) for name in theirs}
    os.environ.update(theirs)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _join(ray: Any, address: str) -> None:
    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
        ray.init(address=address, **_SILENT)
    except (OSError, RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            "cannot join the Ray cluster",
            where=address,
            why=first_line(error),
            fix=f"`ray start --address={address}` joins this machine; it needs the cluster's token (RAY_AUTH_MODE, "
            "RAY_AUTH_TOKEN_PATH) and its versions of Ray and Python",
        ) from error


@cache
def _token() -> str:
    """One for all clusters this process starts: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own talk stays in its log files; what goes wrong is told as an error."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def named_ray_faults(address: str | None = None) -> Iterator[None]:
    """Turn Ray's errors into the error that a worker raised, or into ``EnvironmentFault``.

    A fault in the code of a worker passes as Ray tells it, with the worker's traceback.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayError as error:
        wrapped: BaseException | None = error
        while (
            wrapped is not None
        ):  # Ray wraps more than once, and gives its wrapping the class of what is inside
            if isinstance(wrapped, SovtuneError) and not isinstance(wrapped, RayError):
                raise wrapped from None
            wrapped = getattr(wrapped, "cause", None) or wrapped.__cause__
        if isinstance(error, RayTaskError):
            raise
        raise EnvironmentFault(
            f"Ray could not finish the work ({type(error).__name__})",
            where=address,
            why=f"{first_line(error)}; a worker that ends is replaced a few times, then this is told",
            fix="repeat the command, finished parts are kept; with fewer workers when memory is short",
        ) from error


def first_line(error: BaseException) -> str:
    """An error in a line; Ray's own go on for a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, slots=True)
class _Content:
    """What lies in a box; ``mark`` and ``code`` tell a worker whether it can do the work."""

    value: object
    mark: Path
    code: str


class Box(Generic[T]):
    """A value that every task of a run needs, sent to each worker process once."""

    def __init__(self, value: T, mark: Path):
        import ray

        self._ref = ray.put(_Content(value, mark, code_version()))

    def open(self) -> T:
        """The value; in a worker.

        Raises:
            EnvironmentFault: the worker's machine does not see the work folder, or has other code.
        """
        import ray

        name = self._ref.hex()
        if name not in _opened:
            content: _Content = ray.get(self._ref)
            check_worker(content.mark, content.code)
            _opened.clear()
            _opened[name] = content.value
        return cast(T, _opened[name])


_opened: dict[str, object] = {}
"""In a worker: what was in the box that was opened last."""


def check_worker(mark: Path, code: str) -> None:
    """Refuse to work where the result would be lost or another one.

    Raises:
        EnvironmentFault: the machine does not see the work folder, or has another version of the code or of a
            library that judges text.
    """
    if not mark.is_dir():
        raise EnvironmentFault(
            f"the Ray worker on {socket.gethostname()} does not see the work folder",
            where=str(mark.parent),
            why="workers write finished parts there, and this machine reads them",
            fix="let SOVTUNE_HOME (or --work) name a folder on a file system that all machines of the cluster share",
        )
    if code_version() != code:
        raise EnvironmentFault(
            f"the Ray worker on {socket.gethostname()} has another version of sovtune or of a library it judges with",
            why="rows would be judged by two sets of rules",
            fix="install the same versions on every machine, then start Ray there again",
        )
