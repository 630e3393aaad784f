"""Shards through worker processes, in the order of the input, with few slices in memory at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

from sovtune.data.dedup import Duplicate
from sovtune.data.gate_duplicates import Search, local_duplicates
from sovtune.data.gate_read import Slice
from sovtune.data.gate_refine import ShardContext, refine
from sovtune.data.gate_shard import is_finished, shard_key
from sovtune.errors import EnvironmentFault

_shared: list[ShardContext] = []
"""In a worker: the one context of the run, sent when the worker starts and not again with every shard."""


class Pool(Protocol):
    """Those who work on the slices of a run, so many at a time."""

    workers: int

    def begin(self, part: Slice, key: str) -> Callable[[], None]:
        """Give a slice to a worker; the function that comes back waits until its shard is there."""


class Engine(Protocol):
    """Who does the work of a run: the processes of this machine, or a cluster."""

    workers: int

    def pool(self, context: ShardContext) -> AbstractContextManager[Pool]:
        """Workers for slices."""

    def duplicates(self, search: Search) -> Iterator[Duplicate]:
        """Rows to drop, in the order of the input; the same whoever looks for them."""


class LocalEngine:
    """Processes of this machine; with one worker everything is done in the caller's own."""

    def __init__(self, workers: int, folder: Path):
        self.workers, self.folder = workers, folder

    def pool(self, context: ShardContext) -> AbstractContextManager[Pool]:
        """Processes, started when a second slice has to be worked on."""
        return _ProcessPool(context, self.workers)

    def duplicates(self, search: Search) -> Iterator[Duplicate]:
        """The index on disk, in this process."""
        return local_duplicates(search, self.folder)


def finished_shards(
    parts: Iterable[Slice], context: ShardContext, pool: Pool
) -> Iterator[tuple[Slice, Path, bool]]:
    """Every slice, in order, with the folder of its finished shard and whether that was there already.

    The slices come back without their bytes.

    Args:
        parts: read lazily, a few more ahead than there are workers.
        context: what the shards share.
        pool: the workers.

    Raises:
        EnvironmentFault: a worker was killed, or the folder of shards cannot be written.
    """
    waiting: deque[tuple[Slice, Path, Callable[[], None] | None]] = deque()
    begun: set[Path] = set()
    for part in parts:
        key = shard_key(part, context.sources[part.source], context.fingerprint)
        folder = context.folder / key
        finish = None if folder in begun or is_finished(folder) else pool.begin(part, key)
        if finish is not None:
            begun.add(folder)
        waiting.append((replace(part, data=b""), folder, finish))
        while len(waiting) > pool.workers + 1:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(part: Slice, folder: Path, finish: Callable[[], None] | None) -> tuple[Slice, Path, bool]:
    if finish is not None:
        finish()
    return part, folder, finish is None


@dataclass(slots=True)
class _Job:
    """One slice to be worked on; without a future it is done where it is waited for."""

    part: Slice
    key: str
    future: Future[None] | None = None


class _ProcessPool:
    """Worker processes, started late: a small input is done before a process has imported what it needs."""

    def __init__(self, context: ShardContext, workers: int):
        self.context, self.workers = context, workers
        self.executor: ProcessPoolExecutor | None = None
        self.first: _Job | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=kind is None, cancel_futures=True)

    def begin(self, part: Slice, key: str) -> Callable[[], None]:
        """Give a slice to the workers; the first one waits for a second."""
        job = _Job(part, key)
        if self.workers > 1 and self.first is None:
            self.first = job
        elif self.workers > 1:
            if self.executor is None:
                self._start()
            self._submit(job)
        return partial(self._finish, job)

    def _start(self) -> None:
        self.executor = ProcessPoolExecutor(
            self.workers, get_context("spawn"), initializer=_start_worker, initargs=(self.context,)
        )
        if self.first is not None:
            self._submit(self.first)

    def _submit(self, job: _Job) -> None:
        if self.executor is not None and job.part.data:
            job.future = self.executor.submit(_in_worker, job.part, job.key)

    def _finish(self, job: _Job) -> None:
        try:
            if job.future is None:
                refine(job.part, job.key, self.context)
            else:
                job.future.result()
        except BrokenProcessPool as error:
            raise EnvironmentFault(
                "a worker process ended before its work was done",
                why="the system ends a process that needs more memory than there is",
                fix="repeat the command with --workers 1; finished parts are kept",
            ) from error
        job.part = replace(job.part, data=b"")


def _start_worker(context: ShardContext) -> None:
    """Prepare a worker: Ctrl-C is the parent's business, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared.append(context)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _in_worker(part: Slice, key: str) -> None:
    refine(part, key, _shared[0])
