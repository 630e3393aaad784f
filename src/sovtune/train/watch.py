"""What is watched while training: metrics to JSONL, progress to the caller, divergence, interruption, sealed saves."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sovtune.adapter_setup import untrained_adapters
from sovtune.errors import RunFailed, TrainingDiverged
from sovtune.fastpath.heap import Slack
from sovtune.train import checkpoints
from sovtune.train.group import ALONE, Group
from sovtune.train.rewards import RewardSums

DIVERGED_FACTOR = 3.0
"""A smoothed loss this many times the lowest smoothed loss so far has left the valley."""
DIVERGED_FLOOR = 0.5
"""Rises that end below the first loss plus this (nats) are noise of short answers, not divergence."""
SMOOTHING = 0.7
_KEPT = "the adapter of the last checkpoint is kept as adapter-last-good"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimizer step; loss in nats per supervised token, memory in bytes, seconds since training began.

    Preference methods have a loss per pair or judged answer, and rewards: means over chosen (good) and rejected (bad)
    answers, the difference of the two, and the share of verdicts that the rewards agree with.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    supervised_tokens: int
    seconds: float
    rss_bytes: int
    reward_chosen: float | None = None
    reward_rejected: float | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None


Progress = Callable[[StepMetrics, int], None]


@dataclass(slots=True)
class StepCounts:
    """Tokens and rewards of the step under way; filled by the trainer, emptied by the watch."""

    tokens: int = 0
    supervised: int = 0
    rewards: RewardSums = field(default_factory=RewardSums)

    def clear(self) -> None:
        """Begin a step anew."""
        self.tokens = self.supervised = 0
        self.rewards = RewardSums()

    def add_others(self, group: Group) -> None:
        """Make the counts those of all processes together."""
        whole = group.sums([self.tokens, self.supervised, *astuple(self.rewards)])
        self.tokens, self.supervised = int(whole[0]), int(whole[1])
        chosen, num_chosen, rejected, num_rejected, right, judged = whole[2:]
        self.rewards = RewardSums(
            chosen, int(num_chosen), rejected, int(num_rejected), int(right), int(judged)
        )


@dataclass(slots=True)
class LossGuard:
    """Decides when a loss curve is lost."""

    first: float | None = None
    smooth: float | None = None
    lowest: float = math.inf

    def check(self, step: int, loss: float) -> None:
        """Take one loss.

        Raises:
            TrainingDiverged: it is not finite, or the smoothed loss rose far above its lowest point.
        """
        if not math.isfinite(loss):
            if self.first is None:
                raise TrainingDiverged(
                    f"the first loss is {loss}",
                    why="nothing was learnt yet: the base gives no number for this data in this dtype",
                    fix="try base.quantisation.compute: float32; if that fails too, the base's weights are damaged",
                )
            raise TrainingDiverged(f"the loss at step {step} is {loss}", why=_KEPT)
        self.first = loss if self.first is None else self.first
        self.smooth = loss if self.smooth is None else SMOOTHING * self.smooth + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.smooth)
        if self.smooth > DIVERGED_FACTOR * self.lowest and self.smooth > self.first + DIVERGED_FLOOR:
            raise TrainingDiverged(
                f"the loss rose to {self.smooth:.2f} by step {step}; it had been {self.lowest:.2f}",
                why=_KEPT,
            )


@dataclass
class Watch(TrainerCallback):  # type: ignore[misc]
    """The callback that does all of it; of several processes the first one writes.

    ``interrupted`` becomes true when the user pressed Ctrl-C; the step under way is finished and saved first.
    ``saving_seconds`` is what checkpoints took: the trainer writes one between its log and ``on_save``.
    """

    metrics_path: Path
    counts: StepCounts
    progress: Progress
    fingerprint: str
    layout: str
    keep_checkpoints: int
    group: Group = ALONE
    stop_file: Path | None = None
    history: list[StepMetrics] = field(default_factory=list)
    guard: LossGuard = field(default_factory=LossGuard)
    interrupted: bool = False
    started: float = 0.0
    logged: float = 0.0
    saving_seconds: float = 0.0
    checked: bool = False
    process: psutil.Process = field(default_factory=psutil.Process)
    slack: Slack | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Read back the metrics of the steps that a resumed run keeps, drop those that will be repeated."""
        self.started = time.monotonic()
        if args.device.type == "cpu":
            self.slack = Slack(self._resident)
        if not self.metrics_path.exists():
            return
        lines = self.metrics_path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in map(_parse, lines) if line is not None and line.step <= state.global_step]
        for line in kept:
            self.guard.check(line.step, line.loss)
        self.history = kept
        self.started -= kept[-1].seconds if kept else 0.0
        self.group.wait()  # all have read the file
        if not self.group.leads:
            return
        part = self.metrics_path.with_suffix(".part")
        part.write_text("".join(_line(metrics) for metrics in kept), encoding="utf-8")
        os.replace(part, self.metrics_path)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the first backward pass every adapter must have a gradient.

        Raises:
            RunFailed: some modules cannot learn.
        """
        if self.checked:
            return
        self.checked = True
        dead = untrained_adapters(kwargs["model"])
        if dead:
            raise RunFailed(
                f"{len(dead)} adapter modules get no gradient, for example {dead[0]}",
                where="adapter.targets",
                why="these modules are not part of the computation, or nothing in the data reaches them",
                fix="leave them out of adapter.targets, or use targets: auto",
            )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write one line per step, at full precision, and tell the caller.

        Raises:
            TrainingDiverged: see ``LossGuard``.
        """
        logs: dict[str, float] = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        before = self.history[-1] if self.history else None
        self.counts.add_others(self.group)
        metrics = StepMetrics(
            step=state.global_step,
            loss=float(logs["loss"]),
            grad_norm=float(logs.get("grad_norm", math.nan)),
            learning_rate=float(logs["learning_rate"]),
            tokens=(before.tokens if before else 0) + self.counts.tokens,
            supervised_tokens=(before.supervised_tokens if before else 0) + self.counts.supervised,
            seconds=time.monotonic() - self.started,
            rss_bytes=self._resident(),
            **self.counts.rewards.means(),
        )
        self.counts.clear()
        self.guard.check(metrics.step, metrics.loss)
        if not math.isfinite(metrics.grad_norm):
            raise TrainingDiverged(f"the gradient norm at step {metrics.step} is {metrics.grad_norm}")
        self.history.append(metrics)
        if self.slack is not None:
            self.slack.after_step()
        if not self.group.leads:
            return
        with self.metrics_path.open("a", encoding="utf-8") as stream:
            stream.write(_line(metrics))
        self.progress(metrics, state.max_steps)
        self.logged = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """On Ctrl-C in any process, or when the file is there that asks for it: save this step and stop."""
        asked = self.group.leads and self.stop_file is not None and self.stop_file.exists()
        if self.group.any(self.interrupted or asked):
            self.interrupted = True
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Seal the checkpoint that was just written and drop old ones."""
        self.group.wait()  # each process has written its part
        if not self.group.leads:
            return
        home = Path(str(args.output_dir))
        checkpoints.seal(
            home / f"{checkpoints.PREFIX}{state.global_step}",
            fingerprint=self.fingerprint,
            layout=self.layout,
        )
        checkpoints.prune(home, self.keep_checkpoints)
        self.saving_seconds += time.monotonic() - self.logged

    def _resident(self) -> int:
        return int(self.process.memory_info().rss)

    def catch_interrupts(self) -> Callable[[], None]:
        """Turn the first Ctrl-C into a clean stop; a second one stops at once. Returns what undoes it.

        Outside the main thread (Ray Train) nothing can be caught, and the launcher decides when a process ends.
        """
        if threading.current_thread() is not threading.main_thread():
            return lambda: None

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

        def undo() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return undo


def _line(metrics: StepMetrics) -> str:
    values = {name: getattr(metrics, name) for name in StepMetrics.__slots__}
    return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"


def _parse(line: str) -> StepMetrics | None:
    """A line of metrics; None for a last line that a kill cut in half."""
    try:
        return StepMetrics(**json.loads(line))
    except (json.JSONDecodeError, TypeError):
        return None


def read_metrics(path: Path) -> list[StepMetrics]:
    """All complete lines of a metrics file; empty when there is none."""
    if not path.exists():
        return []
    return [
        metrics
        for metrics in map(_parse, path.read_text(encoding="utf-8").splitlines())
        if metrics is not None
    ]
