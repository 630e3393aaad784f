"""The HTML report of one run: a single file that opens anywhere and loads nothing."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune import __version__, figures, findings, trained_words
from sovtune.charts import gate_chart, loss_chart, score_chart
from sovtune.evidence import Evidence, read_evidence
from sovtune.gate_words import STEP_NAMES, reason_in_words
from sovtune.licences import parse_expression
from sovtune.recipe import Recipe
from sovtune.runs import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from sovtune.data.gate_report import DataGateReport

REPORT = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")


def _printable(value: object) -> object:
    """Text without control characters; escaping alone would leave them in."""
    return figures.visible(value) if type(value) is str else value


def _drawn(svg: str) -> Markup:
    """An SVG of ``charts``, where every text was escaped."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


def _gate_drawn(gate: DataGateReport) -> Markup:
    """The rows through the gate as a chart."""
    return _drawn(
        gate_chart([(STEP_NAMES[step.name], step.rows, sum(step.dropped.values())) for step in gate.steps])
    )


@cache
def environment() -> Environment:
    """Templates of pages: text is escaped, control characters are shown, an unknown name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters.update(figures.FILTERS)
    pages.globals.update(
        spoken_in=figures.spoken_in,
        step_names=STEP_NAMES,
        reason_in_words=reason_in_words,
        gate_chart=_gate_drawn,
    )
    return pages


def render_report(evidence: Evidence) -> str:
    """The whole page; everything that is not drawn by ``charts`` is escaped on output.

    Raises:
        ValueError: a licence expression of recipe or data cannot be read.
    """
    recipe, evaluation = evidence.recipe, evidence.evaluation
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            recipe=recipe,
            base=evidence.base,
            data=evidence.data,
            train=evidence.train,
            evaluation=evaluation,
            plan=evidence.plan,
            evidence=evidence,
            trained_kind=trained_words.KINDS[recipe.adapter.kind],
            trained_settings=trained_words.settings(recipe),
            title=recipe.card.title or evidence.name,
            verdict=[findings.score_sentence(score) for score in evaluation.scores],
            gate_sentence=findings.gate_sentence(evidence),
            method=findings.METHODS[recipe.method],
            objective=findings.objective(recipe),
            teacher=findings.teacher_sentence(evidence.train.teacher),
            rewards=findings.reward_sentence(evidence.steps),
            loss_unit=findings.loss_unit(recipe),
            compared=[findings.pair_sentence(score) for score in evaluation.pairs],
            gates_hold=all(gate.passed for gate in evaluation.gates),
            limitations=[*recipe.card.limitations, *findings.limitations(evidence)],
            obligations=findings.result_obligations(evidence),
            licence=parse_expression(recipe.card.licence),
            origin=findings.origin(evidence.base),
            scores_svg=_drawn(score_chart(evaluation.scores)) if evaluation.scores else None,
            loss_svg=_drawn(loss_chart(evidence.steps, findings.loss_unit(recipe)))
            if evidence.steps
            else None,
            gate=evidence.gate,
            shows_text=evidence.text_may_go_out,
            tokens=_tokens_by_language(evidence),
            not_measured=figures.NOT_MEASURED,
            version=__version__,
        )
    )


def _tokens_by_language(evidence: Evidence) -> dict[str, float]:
    """Share of the training tokens by language, without script and region."""
    shares: dict[str, float] = defaultdict(float)
    for tag, share in evidence.language_shares():
        shares[figures.primary(tag)] += share
    return dict(shares)


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
