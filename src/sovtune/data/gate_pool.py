"""Shards through worker processes, in the order of the input, with few slices in memory at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

from sovtune.data.gate_read import Slice
from sovtune.data.gate_refine import ShardContext, refine
from sovtune.data.gate_shard import is_finished, shard_key
from sovtune.errors import EnvironmentFault

_shared: list[ShardContext] = []
"""In a worker: the one context of the run, sent when the worker starts and not again with every shard."""


@dataclass(slots=True)
class _Job:
    """One slice to be worked on; without a future it is done where it is waited for."""

    part: Slice
    key: str
    future: Future[None] | None = None


def finished_shards(
    parts: Iterable[Slice], context: ShardContext, workers: int
) -> Iterator[tuple[Slice, Path, bool]]:
    """Every slice, in order, with the folder of its finished shard and whether that was there already.

    The slices come back without their bytes. Processes are started when a second slice has to be worked on.

    Args:
        parts: read lazily, ``workers`` + 1 ahead at most.
        context: what the shards share.
        workers: processes; with 1 everything is done in this one.

    Raises:
        EnvironmentFault: a worker was killed, or the folder of shards cannot be written.
    """
    waiting: deque[tuple[Slice, Path, _Job | None]] = deque()
    begun: set[Path] = set()
    with _Pool(context, workers) as pool:
        for part in parts:
            key = shard_key(part, context.sources[part.source], context.fingerprint)
            folder = context.folder / key
            job = None if folder in begun or is_finished(folder) else pool.begin(part, key)
            if job is not None:
                begun.add(folder)
            waiting.append((replace(part, data=b""), folder, job))
            while len(waiting) > workers + 1:
                yield _finish(pool, *waiting.popleft())
        while waiting:
            yield _finish(pool, *waiting.popleft())


def _finish(pool: _Pool, part: Slice, folder: Path, job: _Job | None) -> tuple[Slice, Path, bool]:
    if job is not None:
        pool.finish(job)
    return part, folder, job is None


class _Pool:
    """Worker processes, started late: a small input is done before a process has imported what it needs."""

    def __init__(self, context: ShardContext, workers: int):
        self.context, self.workers = context, workers
        self.executor: ProcessPoolExecutor | None = None
        self.first: _Job | None = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=kind is None, cancel_futures=True)

    def begin(self, part: Slice, key: str) -> _Job:
        """Give a slice to the workers; the first one waits for a second."""
        job = _Job(part, key)
        if self.workers == 1:
            return job
        if self.executor is None:
            if self.first is None:
                self.first = job
                return job
            self.executor = ProcessPoolExecutor(
                self.workers, get_context("spawn"), initializer=_start_worker, initargs=(self.context,)
            )
            self._submit(self.first)
        self._submit(job)
        return job

    def _submit(self, job: _Job) -> None:
        if self.executor is not None and job.part.data:
            job.future = self.executor.submit(_in_worker, job.part, job.key)

    def finish(self, job: _Job) -> None:
        """Wait until the slice's shard is there."""
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
