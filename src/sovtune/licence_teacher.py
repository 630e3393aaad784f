"""What the licence of a teacher says about a model that learns from what it finds likely; pure functions."""

from __future__ import annotations

from sovtune.licence_promises import LicenceProblem, allows_commerce, begins_with
from sovtune.licence_table import Terms
from sovtune.licences import Constraint, licence_keys, terms_of

TEACHER = "teacher"
"""What the teacher is called where data sets are called by the id of their card."""
AT = ("distil", TEACHER, "licence")


def teacher_problems(result_licence: str, teacher_licence: str, name: str) -> tuple[LicenceProblem, ...]:
    """Where a teacher's terms forbid such learning or bind its result, and where nobody knows them.

    Its probabilities count as its output: more of it than text that it wrote.

    Args:
        result_licence: SPDX expression of the adapter (``card.licence``).
        teacher_licence: SPDX expression of the teacher (``distil.teacher.licence``).
        name: name the adapter is passed on under.

    Raises:
        ValueError: an expression cannot be read.
    """
    result = licence_keys(result_licence)
    found: list[LicenceProblem] = []
    for key in licence_keys(teacher_licence):
        terms = terms_of(key)
        if terms is None:
            message = f"nobody reviewed the terms of {key}: may other models be trained on its output?"
            fix = "read them, and let a person answer for it"
            found.append(_problem("unknown-terms", "training", message, fix, settled=False))
        elif terms.outputs == "forbidden":
            message = f"{key} forbids training other models on its output"
            found.append(_problem("terms", "training", message, "take another teacher"))
        elif terms.outputs == "bound":
            found += _bound(key, terms, result, name)
    return tuple(found)


def _bound(key: str, terms: Terms, result: tuple[str, ...], name: str) -> list[LicenceProblem]:
    """Duties that go along with what the teacher says."""
    found = []
    promised = allows_commerce(result)
    if not terms.commercial and promised is not False:
        commerce = "allows it" if promised else "is not known to forbid it"
        message = f"outputs under {key} are for non-commercial use, the result's licence {commerce}"
        fix = "choose a non-commercial licence such as CC-BY-NC-4.0 under card.licence, or another teacher"
        found.append(_problem("non-commercial", "commercial", message, fix, settled=promised is not None))
    if terms.name_prefix is not None and not begins_with(name, terms.name_prefix):
        message = f"models trained on outputs under {key} are named `{terms.name_prefix}...`, not `{name}`"
        fix = f"call it `{terms.name_prefix.replace(' ', '-')}-{name}`"
        found.append(_problem("name", "naming", message, fix))
    return found


def bound_keys(teacher_licence: str) -> tuple[str, ...]:
    """Licences of a teacher whose duties go along with its output."""
    known = ((key, terms_of(key)) for key in licence_keys(teacher_licence))
    return tuple(key for key, terms in known if terms is not None and terms.outputs == "bound")


def _problem(
    word: str, constraint: Constraint, message: str, fix: str, *, settled: bool = True
) -> LicenceProblem:
    return LicenceProblem(
        source=TEACHER,
        word=word,
        constraint=constraint,
        message=f"the teacher: {message}",
        fix=fix,
        at=AT,
        settled=settled,
    )
