"""Progress for people, on stderr: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sovtune.figures import duration

PLAIN_INTERVAL_S = 10.0
"""Seconds between plain lines of the same stage; the first and the last are always printed."""


class _Detail(ProgressColumn):
    """Right end of the live line."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("detail", "")))


@dataclass
class Reporter:
    """What stages talk to. ``quiet`` prints nothing but still accepts everything.

    In a terminal the current stage is a live line; a finished stage leaves one line behind.
    """

    console: Console
    quiet: bool = False
    _live: Progress | None = None
    _task: int | None = None
    _stage: str = ""
    _last: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            self._live = Progress(
                TextColumn("[bold]{task.fields[stage]:<9}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                _Detail(),
                console=self.console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def stage(self, name: str) -> None:
        """A new stage begins."""
        self._stage, self._begun, self._last = name, time.monotonic(), 0.0
        if self._live is not None and self._task is not None:
            self._live.remove_task(self._task)  # type: ignore[arg-type]
            self._task = None

    def say(self, line: str) -> None:
        """One lasting line about the current stage."""
        if not self.quiet:
            self.console.print(f"[bold]{self._stage:<9}[/] {escape(line)}", soft_wrap=True, highlight=False)

    def update(self, done: int, of: int, detail: str) -> None:
        """How far the stage is; ``detail`` holds the figures."""
        if self.quiet:
            return
        if self._live is not None:
            if self._task is None:
                self._task = self._live.add_task("", total=of, stage=self._stage, detail=detail)
            self._live.update(self._task, completed=done, total=of, detail=detail)  # type: ignore[arg-type]
            return
        now = time.monotonic()
        if done >= of or now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            self.say(f"{done}/{of}  {detail}")

    def seconds_left(self, done: int, of: int, spent: float) -> str:
        """Time left at the pace so far."""
        return duration(round(spent / done * (of - done))) if done else "?"
