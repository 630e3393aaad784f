"""What a recipe's licence policy makes of the problems found: refused, left open, or answered for by a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol

from sovtune.licence_promises import LicenceProblem

Policy = Literal["strict", "advisory"]
_WHO, _WHY = "WHO DECIDES", "WHY, FOR THE MODEL CARD"
_UNWRITTEN = ("TODO", _WHO, _WHY)
"""How the placeholders of ``override_lines`` begin; a decision that still holds one was not taken."""


class Override(Protocol):
    """A person's decision as the recipe writes it: which refusal, who answers for it, why."""

    @property
    def refusal(self) -> str: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def reason(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class BadOverride:
    """An override that overrules nothing: its place in the recipe's list, the wrong key, why, the nearest id."""

    index: int
    key: Literal["refusal", "name", "reason"]
    message: str
    suggestion: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Every problem once: refused, open (a warning under the policy advisory), or overruled by a named person."""

    refused: tuple[LicenceProblem, ...]
    open_questions: tuple[LicenceProblem, ...]
    overruled: tuple[tuple[LicenceProblem, Override], ...]
    mistakes: tuple[BadOverride, ...]


def judge(problems: Iterable[LicenceProblem], policy: Policy, overrides: Sequence[Override]) -> Verdicts:
    """Apply the policy, then the decisions of people.

    strict refuses every problem; advisory leaves open questions as warnings and still refuses prohibitions. An
    override takes away the refusal of its id, under either policy; one that matches nothing is a mistake.

    Args:
        problems: everything found, see ``licence_promises`` and ``data.permission``.
        policy: ``card.licence_policy``.
        overrides: ``card.overrides``.
    """
    problems = tuple(dict.fromkeys(problems))
    ids = {problem.id: problem for problem in problems}
    mistakes: list[BadOverride] = []
    decided: dict[str, Override] = {}
    for index, override in enumerate(overrides):
        mistake = _mistake(index, override, ids, decided)
        if mistake is not None:
            mistakes.append(mistake)
        else:
            decided[override.refusal] = override
    left = [problem for problem in problems if problem.id not in decided]
    is_open = {problem for problem in left if policy == "advisory" and not problem.settled}
    return Verdicts(
        refused=tuple(problem for problem in left if problem not in is_open),
        open_questions=tuple(problem for problem in left if problem in is_open),
        overruled=tuple((problem, decided[problem.id]) for problem in problems if problem.id in decided),
        mistakes=tuple(mistakes),
    )


def _mistake(
    index: int, override: Override, ids: dict[str, LicenceProblem], decided: dict[str, Override]
) -> BadOverride | None:
    if override.refusal in decided:
        return BadOverride(index=index, key="refusal", message=f"`{override.refusal}` is overruled twice")
    problem = ids.get(override.refusal)
    if problem is None:
        known = ", ".join(f"`{name}`" for name in ids) or "none"
        near = get_close_matches(override.refusal, ids, n=1)
        return BadOverride(
            index=index,
            key="refusal",
            message=f"no refusal has the id `{override.refusal}` (there is {known})",
            suggestion=near[0] if near else None,
        )
    if not problem.overridable:
        return BadOverride(
            index=index, key="refusal", message=f"nobody can overrule `{override.refusal}`: {problem.message}"
        )
    for key in ("name", "reason"):
        if getattr(override, key).startswith(_UNWRITTEN):
            message = "this is still the placeholder: write who decides, and why, in words for the model card"
            return BadOverride(index=index, key="name" if key == "name" else "reason", message=message)
    return None


def override_lines(problems: Iterable[LicenceProblem]) -> list[str]:
    """The lines of a recipe that overrule these problems once a person has filled in name and reason.

    Returns:
        YAML lines without an indent of their own; empty when nothing can be overruled.
    """
    ids = dict.fromkeys(problem.id for problem in problems if problem.overridable)
    if not ids:
        return []
    lines = ["card:", "  overrides:"]
    for name in ids:
        lines += [f"    - refusal: {name}", f'      name: "{_WHO}"', f'      reason: "{_WHY}"']
    return lines
