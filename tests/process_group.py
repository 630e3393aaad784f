"""Functions called in several processes that form one group of torch.distributed, as a launcher would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _call(
    rank: int, world: int, port: int, answer: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
):
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # What the parent's own training left behind says that there is one process.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    try:
        answer.send(("result", function(*arguments)))
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        answer.send(("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def in_group(world: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120) -> list[Any]:
    """What the function returns in each of ``world`` forked processes, by rank; an error in one fails the test."""
    fork = multiprocessing.get_context("fork")  # imports are there already
    port = _free_port()
    pipes = [fork.Pipe(duplex=False) for _ in range(world)]
    workers = [
        fork.Process(target=_call, args=(rank, world, port, pipes[rank][1], function, arguments), daemon=True)
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    results = []
    try:
        for rank, (end, _) in enumerate(pipes):
            assert end.poll(timeout_s), f"process {rank} did not answer in {timeout_s} s"
            kind, value = end.recv()
            assert kind == "result", f"process {rank}: {value}"
            results.append(value)
    finally:
        for worker in workers:
            worker.join(5 if len(results) == world else 0)
            if worker.is_alive():
                worker.kill()
    return results
