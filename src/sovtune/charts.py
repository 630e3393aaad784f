"""The charts of the report as inline SVG: loss over steps, bits per byte before and after, rows through the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sovtune import figures
from sovtune.evidence import Step
from sovtune.records import TextScore

WIDTH = 760
MOST_POINTS = 240
"""More steps than this are drawn as means of consecutive steps, which a line cannot show apart anyway."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
_LOSS_HEIGHT = 300
_BAR, _GROUP = 22, 104
_NAMES, _COUNTS, _ROW = 150, 170, 30
_THINNEST = 4.0
"""Width of a bar for rows that went, however few of millions they are: a step that drops rows is seen to."""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values that span ``low`` to ``high`` in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.floor(low / step)
    return [step * at for at in range(first, math.ceil(high / step) + 1)]


def _points(steps: Sequence[Step]) -> list[tuple[float, float, str]]:
    """(step, loss, words) per drawn point."""
    size = math.ceil(len(steps) / MOST_POINTS)
    drawn: list[tuple[float, float, str]] = []
    for at in range(0, len(steps), size):
        part = steps[at : at + size]
        loss = sum(step.loss for step in part) / len(part)
        first, last = part[0].step, part[-1].step
        which = f"step {first}" if first == last else f"mean of steps {first} to {last}"
        drawn.append((last, loss, f"{which}: loss {figures.number(loss)}, rate {part[-1].learning_rate:.2g}"))
    return drawn


def _text(x: float, y: float, words: str, *, anchor: str = "middle", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(height: float, name: str, words: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escape(words.split(": ", maxsplit=1)[0])}</title>'
        f'<desc id="{name}-words">{escape(words)}</desc>{"".join(parts)}</svg>'
    )


def loss_chart(steps: Sequence[Step], unit: str = "nats per token") -> str:
    """Training loss over optimizer steps, with a hover title on each point; ``unit`` is what it counts in."""
    points = _points(steps)
    x_low, x_high = points[0][0], points[-1][0]
    marks = ticks(min(loss for _, loss, _ in points), max(loss for _, loss, _ in points))
    y_low, y_high = marks[0], max(marks[-1], marks[0] + 1e-9)
    right, bottom = WIDTH - _RIGHT, _LOSS_HEIGHT - _BOTTOM

    def x_of(step: float) -> float:
        return _LEFT + (right - _LEFT) * ((step - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def y_of(loss: float) -> float:
        return bottom - (bottom - _TOP) * (loss - y_low) / (y_high - y_low)

    parts = []
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 4
    for mark in marks:
        parts.append(_line(_LEFT, y_of(mark), right, y_of(mark), "grid"))
        parts.append(_text(_LEFT - 8, y_of(mark) + 4, figures.number(mark, digits), anchor="end"))
    for mark in ticks(x_low, x_high, 8):
        if x_low <= mark <= x_high and mark == round(mark):
            parts.append(_text(x_of(mark), bottom + 18, f"{mark:,.0f}"))
    parts.append(_line(_LEFT, bottom, right, bottom, "axis"))
    parts.append(_text((_LEFT + right) / 2, _LOSS_HEIGHT - 8, "optimizer step"))
    path = " ".join(f"{x_of(step):.1f},{y_of(loss):.1f}" for step, loss, _ in points)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    parts += [
        f'<circle class="point" cx="{x_of(step):.1f}" cy="{y_of(loss):.1f}" r="5">'
        f"<title>{escape(words)}</title></circle>"
        for step, loss, words in points
    ]
    words = (
        f"Training loss, {unit}: from {figures.number(points[0][1])} at step {points[0][0]:g} "
        f"to {figures.number(points[-1][1])} at step {points[-1][0]:g}"
    )
    return _svg(_LOSS_HEIGHT, "loss", words, parts)


def _bar(y: float, kind: str, value: float, ends: tuple[float, float], scale: float) -> list[str]:
    """One bar from zero with its interval as a whisker and its value behind."""
    middle, left = y + _BAR / 2, 84
    label = {"base": "Base", "adapter": "Adapter"}[kind]
    low, high = left + ends[0] * scale, left + ends[1] * scale
    words = f"{label}: {figures.number(value)} bits per byte, 95 % interval {figures.interval(ends)}"
    return [
        _text(left - 8, middle + 5, label, anchor="end"),
        f'<rect class="bar {kind}" x="{left}" y="{y:.1f}" width="{value * scale:.1f}" height="{_BAR}" rx="3">'
        f"<title>{escape(words)}</title></rect>",
        _line(low, middle, high, middle, "whisker"),
        _line(low, middle - 5, low, middle + 5, "whisker"),
        _line(high, middle - 5, high, middle + 5, "whisker"),
        _text(high + 8, middle + 5, figures.number(value), anchor="start", kind="value"),
    ]


def score_chart(scores: Sequence[TextScore]) -> str:
    """Bits per byte of base and adapter for each held-out set with 95 % intervals; bars begin at zero."""
    longest = max(max(score.base_interval[1], score.adapter_interval[1]) for score in scores)
    scale = (WIDTH - 84 - 84) / longest if longest > 0 else 0.0
    parts = []
    for at, score in enumerate(scores):
        top = at * _GROUP
        parts.append(
            f'<text class="group" x="0" y="{top + 18}"><tspan class="strong">'
            f"{escape(figures.language_name(score.language))}</tspan>"
            f"<tspan> ({escape(score.role)}), {escape(figures.visible(score.name))}</tspan></text>"
        )
        kind = "better" if score.change_percent < 0 else "worse"
        parts.append(
            _text(WIDTH, top + 18, figures.change(score.change_percent), anchor="end", kind=f"change {kind}")
        )
        parts += _bar(top + 28, "base", score.base, score.base_interval, scale)
        parts += _bar(top + 28 + _BAR + 6, "adapter", score.adapter, score.adapter_interval, scale)
    told = "; ".join(
        f"{figures.language_name(score.language)} "
        f"{figures.number(score.base)} to {figures.number(score.adapter)}"
        for score in scores
    )
    return _svg(len(scores) * _GROUP, "scores", f"Bits per byte before and after: {told}", parts)


def gate_chart(steps: Sequence[tuple[str, int, int]]) -> str:
    """Rows that came to each step of the data gate, those that went there set apart; bars begin at zero.

    Args:
        steps: name of the step, rows that came, rows dropped.
    """
    scale = (WIDTH - _NAMES - _COUNTS) / max(1, *(rows for _, rows, _ in steps))
    parts = []
    for at, (name, rows, dropped) in enumerate(steps):
        y, whole = at * _ROW + 4, rows * scale
        gone = min(whole, max(_THINNEST, dropped * scale)) if dropped else 0.0
        words = f"{name}: {rows:,} rows came, {dropped:,} went"
        parts.append(_text(_NAMES - 10, y + _BAR / 2 + 5, name, anchor="end"))
        parts.append(
            f'<g><title>{escape(words)}</title><rect class="bar adapter" x="{_NAMES}" y="{y}" '
            f'width="{whole - gone:.1f}" height="{_BAR}"/><rect class="bar gone" x="{_NAMES + whole - gone:.1f}" '
            f'y="{y}" width="{gone:.1f}" height="{_BAR}"/></g>'
        )
        count = f"{rows:,}" + (f", {figures.MINUS}{dropped:,}" if dropped else "")
        parts.append(_text(_NAMES + whole + 8, y + _BAR / 2 + 5, count, anchor="start", kind="value"))
    told = "; ".join(f"{name} {rows:,}, {dropped:,} went" for name, rows, dropped in steps)
    return _svg(len(steps) * _ROW, "gate", f"Rows that came to each step: {told}", parts)
