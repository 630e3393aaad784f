"""The HTML report of one run: a single file that opens anywhere and loads nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune import __version__, figures, findings
from sovtune.charts import loss_chart, score_chart
from sovtune.evidence import Evidence, read_evidence
from sovtune.licences import obligations, parse_expression
from sovtune.recipe import Recipe
from sovtune.runs import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

REPORT = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")


def _printable(value: object) -> object:
    """Text without control characters; escaping alone would leave them in."""
    return figures.visible(value) if type(value) is str else value


def _drawn(svg: str) -> Markup:
    """An SVG of ``charts``, where every text was escaped."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(figures.FILTERS)
    return environment


def render_report(evidence: Evidence) -> str:
    """The whole page; everything that is not drawn by ``charts`` is escaped on output.

    Raises:
        ValueError: a licence expression of recipe or data cannot be read.
    """
    recipe, evaluation = evidence.recipe, evidence.evaluation
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            recipe=recipe,
            base=evidence.base,
            data=evidence.data,
            train=evidence.train,
            evaluation=evaluation,
            plan=evidence.plan,
            evidence=evidence,
            title=recipe.card.title or evidence.name,
            verdict=[findings.score_sentence(score) for score in evaluation.scores],
            gate_sentence=findings.gate_sentence(evidence),
            gates_hold=all(gate.passed for gate in evaluation.gates),
            limitations=[*recipe.card.limitations, *findings.limitations(evidence)],
            obligations=obligations(recipe.base.licence, evidence.data_licences).items,
            open_questions=findings.licence_problems(evidence),
            licence=parse_expression(recipe.card.licence),
            origin=findings.origin(evidence.base),
            scores_svg=_drawn(score_chart(evaluation.scores)) if evaluation.scores else None,
            loss_svg=_drawn(loss_chart(evidence.steps)) if evidence.steps else None,
            spoken_in=figures.spoken_in,
            not_measured=figures.NOT_MEASURED,
            version=__version__,
        )
    )


def write_report(run_dir: Path, recipe: Recipe) -> Path:
    """Write ``report.html`` into the run folder, atomically.

    Args:
        run_dir: run folder with the records of all stages.
        recipe: the effective recipe of the run.

    Returns:
        The path of the report.

    Raises:
        UsageError: a stage was not done, or a record cannot be read.
    """
    path = run_dir / REPORT
    write_atomic(path, render_report(read_evidence(run_dir, recipe)))
    return path
