"""The data gate on a Ray cluster: slices as tasks, duplicates by a shuffle; every step is the local one.

This machine cuts the slices, workers put them through ``refine`` and write the shards into the work folder, which
all machines share. A task that is lost with its worker runs again; a shard that is there is not made again. How
duplicates are found is in ``gate_ray_shuffle``; the last pass is the local one.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sovtune.data.dedup import Duplicate
from sovtune.data.gate_duplicates import Search
from sovtune.data.gate_pool import Engine, Pool
from sovtune.data.gate_ray_cluster import Box, RayCluster, connected, named_ray_faults
from sovtune.data.gate_ray_shuffle import shuffled_duplicates
from sovtune.data.gate_read import Slice
from sovtune.data.gate_refine import ShardContext, refine
from sovtune.data.gate_shard import is_finished
from sovtune.errors import EnvironmentFault

RETRIES = 3
"""How often a slice is tried again when its worker was lost; then its text is taken for what ends them (memory)."""
SEEN_WITHIN_S = 90.0
"""How long a shard that a worker has finished may take to be seen here: an NFS client asks again after 60 s."""


@contextmanager
def ray_engine(cluster: RayCluster, workers: int | None, folder: Path) -> Iterator[Engine]:
    """The gate's work on a Ray cluster; one of this machine's own is started, and stopped afterwards.

    Args:
        cluster: which.
        workers: slices that are worked on at a time; None is one per core of the cluster.
        folder: the work folder; machines of the cluster must see it under the same path.

    Raises:
        EnvironmentFault: Ray is not installed, the cluster cannot be used, or workers were lost again and again.
    """
    with connected(cluster, workers, folder) as (number, mark):
        yield _RayEngine(number, mark)


class _RayEngine:
    """See ``gate_pool.Engine``."""

    def __init__(self, workers: int, mark: Path):
        self.workers, self.mark = workers, mark

    def pool(self, context: ShardContext) -> AbstractContextManager[Pool]:
        return _RayPool(context, self.workers, self.mark)

    def duplicates(self, search: Search) -> Iterator[Duplicate]:
        with named_ray_faults():
            yield from shuffled_duplicates(search, self.workers, self.mark)


class _RayPool:
    """Slices as tasks, ``workers`` of them at a time."""

    def __init__(self, context: ShardContext, workers: int, mark: Path):
        import ray

        self.workers = workers
        self._ray, self._folder = ray, context.folder
        self._box = Box(context, mark)
        self._task = ray.remote(max_retries=RETRIES)(refine_slice)
        self._running: list[Any] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # nobody writes any more: what is left is from workers that were killed
            for leftover in self._folder.glob(".part-[0-9]*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def begin(self, part: Slice, key: str) -> Callable[[], None]:
        with named_ray_faults():
            sent = self._ray.put(part)
            while len(self._running) >= self.workers:
                _, self._running = self._ray.wait(self._running)
            done = self._task.remote(sent, key, self._box)
        self._running.append(done)
        return partial(self._finish, done, self._folder / key)

    def _finish(self, done: Any, folder: Path) -> None:
        with named_ray_faults():
            host = self._ray.get(done)
        wait_until_seen(folder, host, SEEN_WITHIN_S)


def refine_slice(part: Slice, key: str, box: Box[ShardContext]) -> str:
    """Put one slice through ``refine``, in a worker; returns the name of its machine."""
    context = box.open()
    if not is_finished(context.folder / key):  # else a worker was lost after this work was done
        refine(part, key, context)
    return socket.gethostname()


def wait_until_seen(folder: Path, host: str, seconds: float) -> None:
    """Return as soon as a shard that was written on another machine is seen on this one.

    Raises:
        EnvironmentFault: it does not appear.
    """
    end = time.monotonic() + seconds
    while not is_finished(folder):
        if time.monotonic() > end:
            raise EnvironmentFault(
                f"a part that the Ray worker on {host} has written does not appear on this machine",
                where=str(folder),
                why="the file system is not the same one there, or shows new files late",
                fix="let SOVTUNE_HOME (or --work) name a folder on a file system that all machines share",
            )
        time.sleep(min(0.5, seconds))
        os.listdir(folder.parent)  # opening the folder makes an NFS client ask the server again
