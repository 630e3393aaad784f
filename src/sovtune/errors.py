"""Every error class of sovtune, and the one table that says what to do next.

An error names what happened, where (``file:line`` or a path into the recipe), why it matters, and the next
command. Classes say *when* they are raised; wording that is the same for a whole class lives in ``NEXT_STEP``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class SovtuneError(Exception):
    """Base of every error a user may see; never raised itself.

    Args:
        what: one sentence, what happened.
        where: ``file:line:column``, a path, or a path into the recipe.
        why: why sovtune cannot go on.
        fix: what to do; when absent the class's sentence from ``NEXT_STEP`` is used.
    """

    exit_code: ClassVar[int] = 5

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None
    ):
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix if fix is not None else NEXT_STEP.get(type(self))

    def __str__(self) -> str:
        """All parts, one per line, for a terminal or a log."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.fix:
            lines.append(f"  next: {self.fix}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a file a person wrote (line and column start at 1; 0 = unknown)."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """``file:line:column: path: message (did you mean ...?)``."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        tail = f" (did you mean `{self.suggestion}`?)" if self.suggestion else ""
        return f"{place}: {path}{self.message}{tail}"


class FileProblems(SovtuneError):
    """A recipe or data card has mistakes; carries all of them at once."""

    exit_code = 2

    def __init__(self, problems: list[Problem], *, fix: str | None = None):
        count = len(problems)
        noun = "mistake" if count == 1 else "mistakes"
        super().__init__(f"{count} {noun} found", fix=fix)
        self.problems = problems

    def __str__(self) -> str:
        """Every problem on a line of its own, then the next command."""
        lines = [str(problem) for problem in self.problems]
        if self.fix:
            lines.append(f"  next: {self.fix}")
        return "\n".join(lines)


class RecipeError(FileProblems):
    """The recipe is wrong: unknown key, wrong type, impossible combination, broken YAML."""


class CardError(FileProblems):
    """A data card is wrong as a file: unknown key, missing field, broken YAML."""


class UsageError(SovtuneError):
    """The command line asks for something that cannot be done as it stands."""

    exit_code = 2


class RunConflict(UsageError):
    """The run folder belongs to another recipe, other data or another base, or to a command that is at work."""


class EnvironmentFault(SovtuneError):
    """The machine lacks something: a package, memory, disk, a device, a reachable mirror."""

    exit_code = 3


class BaseUnavailable(EnvironmentFault):
    """The base model cannot be had from any mirror, or what came is not what was named."""


class DataRefused(SovtuneError):
    """Data may not be trained on: no card, wrong hash or row count, rights, bad rows, nothing supervised."""

    exit_code = 4


class LicenceRefused(DataRefused):
    """A licence forbids what the recipe asks for."""


class RunFailed(SovtuneError):
    """Training, evaluation or publishing failed after it had started; nothing is lost."""


class TrainingDiverged(RunFailed):
    """The loss became NaN or rose far above where it started."""


class RunInterrupted(RunFailed):
    """The user stopped the run; a checkpoint was saved."""

    exit_code = 130


class PublishFailed(RunFailed):
    """The remote could not be brought to the new version; it is as it was."""


class GateFailed(SovtuneError):
    """A quality gate of the recipe failed; artefacts exist but are not fit to publish."""

    exit_code = 6


NEXT_STEP: dict[type[SovtuneError], str] = {
    RecipeError: "correct the lines above, then `sovtune check RECIPE`; docs/reference/recipe.md lists every key",
    CardError: "correct the data card, then `sovtune check RECIPE`; docs/data-cards.md explains every field",
    UsageError: "`sovtune COMMAND --help` shows an example",
    RunConflict: "give the recipe another `name:`, or pass --restart to move the old run folder aside",
    EnvironmentFault: "`sovtune doctor` shows what this machine lacks and how to get it",
    BaseUnavailable: "add a mirror under `base.mirrors` that this machine can reach, then `sovtune fetch RECIPE`",
    DataRefused: "correct the data or its card, then `sovtune data RECIPE`",
    LicenceRefused: "choose data or a base whose licence allows this use",
    RunFailed: "`sovtune train RECIPE --resume` goes on from the last checkpoint",
    TrainingDiverged: "lower train.learning_rate (half is a good first try), then `sovtune run RECIPE --restart`",
    RunInterrupted: "`sovtune train RECIPE --resume` goes on from the saved checkpoint",
    PublishFailed: "run the same publish command again; it starts from a clean state",
    GateFailed: "see report.html for the figures; add replay data or lower train.learning_rate",
}
"""Class -> the next command, used when the raiser does not know a better one."""
