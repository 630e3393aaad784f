"""Going on when memory runs out: the step is done again in smaller pieces, with the same batch and the same loss.

A loss is a sum over tokens (or pairs) divided by those of the whole optimizer step, so that a step may be cut
anywhere between rows, and between documents of a row, without changing more than the order of float sums. What was
changed is kept in the run folder: a resumed run goes on with it, and a run that the system killed for memory leaves
a mark there by which the next one knows.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer

from sovtune.errors import EnvironmentFault
from sovtune.train.rows import Row
from sovtune.train.watch import StepCounts

RECORD = "out-of-memory.json"
ROWS = "rows"
_MESSAGES = re.compile(
    "can't allocate memory|not enough memory|out of memory|bad_alloc|bad allocation"
    "|could not (?:create|execute) a primitive(?! descriptor)|could not create a memory",
    re.IGNORECASE,
)
"""What allocators say in a plain RuntimeError: torch's on Linux, Windows and other devices, C++ itself, and oneDNN,
which makes code and buffers for each new product and gives no reason (a shape it cannot do fails at the descriptor)."""
_PER_TOKEN = ("input_ids", "labels", "taught")
_PER_DOCUMENT = ("lengths", "reference", "good")
"""Keys of a row with a value for each token, and for each document."""
BOOT, KILLS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/vmstat")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None


def release_freed_memory() -> None:
    """Give memory that is free inside this process back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def halves(rows: Sequence[Row]) -> tuple[list[Row], list[Row]] | None:
    """Rows in two parts: between rows, or between documents of a single row; None when that cannot be done.

    Documents that are compared (chosen and rejected answers of dpo, orpo and simpo) stay together.
    """
    if len(rows) > 1:
        middle = len(rows) // 2
        return list(rows[:middle]), list(rows[middle:])
    row: dict[str, Any] = dict(rows[0])
    lengths = row["lengths"]
    together = 2 if "reference" in row and "good" not in row else 1
    cuts = range(together, len(lengths), together)
    if not cuts:
        return None
    total = sum(lengths)
    cut = min(cuts, key=lambda at: abs(2 * sum(lengths[:at]) - total))
    tokens = sum(lengths[:cut])
    first, second = {"mismatched": None}, {"mismatched": None}  # read before the step began
    for names, at in ((_PER_TOKEN, tokens), (_PER_DOCUMENT, cut)):
        for name in row.keys() & names:
            first[name], second[name] = row[name][:at], row[name][at:]
    if "mismatched" not in row:
        del first["mismatched"], second["mismatched"]
    return [first], [second]  # type: ignore[list-item]  # rows of judged answers have more keys


def pieces(rows: Sequence[Row], level: int) -> list[list[Row]]:
    """Rows halved ``level`` times, as far as they can be; in order, nothing lost."""
    if level == 0:
        return [list(rows)]
    parts = halves(rows)
    return [list(rows)] if parts is None else [piece for part in parts for piece in pieces(part, level - 1)]


def largest(rows: Sequence[Row], level: int) -> int:
    """Tokens of the largest piece."""
    return max(sum(len(row["input_ids"]) for row in piece) for piece in pieces(rows, level))


@dataclass(slots=True)
class Kept:
    """What the run folder keeps: how small the pieces are, what happened, and the mark of a run under way."""

    level: int = 0
    checkpointing: bool = False
    events: list[str] = field(default_factory=list)
    under_way: dict[str, Any] | None = None


class Recovery:
    """How one run goes on when memory runs out.

    Args:
        path: file in the run folder; read when it is there.
        allowed: false for ``train.run.out_of_memory: stop``.
        checkpointing: whether the recipe asks for gradient checkpointing already.
        say: told what was changed.
    """

    def __init__(self, path: Path, *, allowed: bool, checkpointing: bool, say: Callable[[str], None]):
        self.path, self.allowed, self.say = path, allowed, say
        self.kept = _read(path)
        self.kept.checkpointing |= checkpointing
        self.killed = allowed and _was_killed(self.kept.under_way)

    def begin(self) -> None:
        """Leave the mark of a run under way; ``end`` takes it away, a kill does not."""
        self.kept.under_way = _marks()
        self._write()

    def end(self) -> None:
        """The process lives to say how the run ended. A mark that a full disk keeps in place does no harm."""
        self.kept.under_way = None
        with suppress(OSError):
            self._write()

    def shrink(self, rows: Sequence[Row], step: int, reason: str) -> bool:
        """Choose the next smaller way to do a step; returns whether checkpointing must be switched on for it.

        Raises:
            EnvironmentFault: recovery is not wanted, or nothing smaller is left.
        """
        kept = self.kept
        before, after = largest(rows, kept.level), largest(rows, kept.level + 1)
        cut = after < before
        if not self.allowed:
            raise out_of_memory(reason)
        if not cut and kept.checkpointing:
            raise out_of_memory(f"{reason}; a document of {before:,} tokens alone does not fit")
        if cut:
            kept.level += 1
            change = f"{after:,} at once, more often, in the same batch"
        else:
            kept.checkpointing = True
            change = "gradient checkpointing"
        kept.events.append(f"step {step}: {reason} with {before:,} tokens at once; went on with {change}")
        self._write()
        self.say(kept.events[-1])
        return not cut

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self.kept), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(part, self.path)


def out_of_memory(reason: str) -> EnvironmentFault:
    """The error of a run that cannot go on."""
    return EnvironmentFault(
        "out of memory; the last complete checkpoint is intact",
        where="train",
        why=reason,
        fix="`sovtune plan RECIPE` lists what would fit and `--apply NEW.yaml` writes it; or free memory and "
        "`sovtune train RECIPE --resume`",
    )


@contextmanager
def named_memory_faults(missing: Callable[[str], EnvironmentFault] = out_of_memory) -> Iterator[None]:
    """Say what a lack of memory means where nothing can be done in smaller pieces.

    Args:
        missing: what the allocator said -> the error of this place.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise missing(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, without the stack of C++ frames that allocators add."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read(path: Path) -> Kept:
    return Kept(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Kept()


def _marks() -> dict[str, Any]:
    """This boot of the machine, and how many processes it has killed for memory since then (Linux)."""
    if not (BOOT.is_file() and KILLS.is_file()):
        return {"boot": None, "kills": 0}
    counts = dict(line.split() for line in KILLS.read_text(encoding="ascii").splitlines())
    return {"boot": BOOT.read_text(encoding="ascii").strip(), "kills": int(counts.get("oom_kill", 0))}


def _was_killed(under_way: dict[str, Any] | None) -> bool:
    """Whether the last process of this run ended without a word while the system was killing for memory."""
    now = _marks()
    return under_way is not None and now["boot"] == under_way["boot"] and now["kills"] > under_way["kills"]


class _Held:
    """Rows of a micro-batch beside its tensors: an object that data loaders hand on as it is."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows


class _KeepRows:
    """A collator whose batches know the rows they are made of."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {**self.inner(rows), ROWS: _Held(rows)}


class RecoveringTrainer(SFTTrainer):  # type: ignore[misc]
    """A trainer that does a step again in smaller pieces when memory runs out in it.

    Processes that hold parts of one model (``sharded``) meet in every layer: one of them cannot do a step again alone.
    """

    sharded = False

    def __init__(self, *, recovery: Recovery, counts: StepCounts, **kwargs: Any):
        self.recovery = recovery
        self.counts = counts
        self.collate = kwargs["data_collator"]
        self._step_rows: list[Sequence[Row]] = []
        super().__init__(**{**kwargs, "data_collator": _KeepRows(self.collate)})

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of the step that begins."""
        self._step_rows = []
        batches: list[dict[str, Any]]
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, items

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | float | None = None
    ) -> Tensor:
        """Forward and backward pass of a micro-batch, whole or in pieces; the loss of all of it.

        Raises:
            EnvironmentFault: memory ran out and nothing smaller is left.
        """
        rows: Sequence[Row] = inputs.pop(ROWS).rows
        self._step_rows.append(rows)
        if self.recovery.killed:
            self.recovery.killed = False
            self._make_room("an earlier process was killed for lack of memory")
        again = [rows]
        batch: dict[str, Any] | None = inputs
        while True:
            try:
                for micro_batch in again:
                    loss = self._in_pieces(model, micro_batch, batch, num_items_in_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.sharded:
                    raise out_of_memory(first_line(error)) from error
            else:
                return loss
            # The error is gone here, and with it the activations that its traceback held.
            self._make_room("out of memory")
            again, batch = self._step_rows, None

    def _in_pieces(
        self, model: Any, rows: Sequence[Row], batch: dict[str, Any] | None, items: Tensor | float | None
    ) -> Tensor:
        if self.recovery.kept.level == 0 and batch is not None:
            whole: Tensor = super().training_step(model, batch, items)
            return whole
        losses = [
            super(RecoveringTrainer, self).training_step(model, self.collate(piece), items)
            for piece in pieces(rows, self.recovery.kept.level)
        ]
        return torch.stack(losses).sum()

    def _make_room(self, reason: str) -> None:
        """Forget what the step has done so far and choose a smaller way to do it."""
        self.model.zero_grad(set_to_none=True)
        self.counts.clear()
        release_freed_memory()
        worst = max(self._step_rows, key=lambda rows: largest(rows, self.recovery.kept.level))
        if self.recovery.shrink(worst, self.state.global_step + 1, reason):
            self.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
