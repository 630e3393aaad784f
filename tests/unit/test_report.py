"""The HTML report: well-formed, self-contained, escaped, readable from right to left."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_records import (
    make_data,
    make_evaluation,
    make_evidence,
    make_gate,
    make_recipe,
    make_score,
    make_steps,
    make_train,
    write_run,
)

from sovtune.charts import MOST_POINTS, gate_chart, loss_chart, score_chart, ticks
from sovtune.data_view import gate_page
from sovtune.errors import UsageError
from sovtune.evidence import read_evidence
from sovtune.figures import change, duration, known_languages, language_name, number, size, spoken_in
from sovtune.records import GateResult, SampleAnswer
from sovtune.report import render_report, write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
BITS = st.one_of(st.just(0.0), st.floats(0.01, 20))
HOSTILE = [
    '</div></section><script>alert("x")</script>',
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "</style><style>@import url(https://evil.example/x.css)</style>",
    "]]> <!-- --> & &amp; ' \" `",
    "\x00\x1b[31m\u2028\ud800",
    "{{ 7 * 7 }} {% raw %}",
]


class Page(HTMLParser):
    """Checks nesting and collects elements with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(**changes: object) -> Page:
    return Page(render_report(make_evidence(**changes)))


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    text = render_report(make_evidence())
    page = Page(text)
    assert page.faults == []
    assert not re.search(r"(?:src|href|action|data|poster|srcset)\s*=", text)
    assert not re.search(r"url\(|@import|@font-face", text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & {
        tag for tag, _ in page.elements
    }
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_headings_tables_and_charts_can_be_heard() -> None:
    page = page_of()
    assert page.all("html") == [{"lang": "en", "dir": "ltr"}]
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert all("scope" in attrs for attrs in page.all("th"))
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for attrs in [*page.all("svg"), *page.all("section")]:
        assert set(str(attrs["aria-labelledby"]).split()) <= set(identifiers)
    assert all(attrs["role"] == "img" for attrs in page.all("svg"))


def test_samples_have_direction_and_language() -> None:
    page = page_of()
    answers = [attrs for attrs in page.all("div") if attrs.get("class") == "answer"]
    assert [attrs["dir"] for attrs in answers] == ["auto"] * 4
    assert [attrs.get("lang") for attrs in answers] == [None, "ko", None, "ar"]
    texts = [text for tag, text in page.texts if tag == "div"]
    assert any("주민센터" in text for text in texts)
    assert any("راجع" in text for text in texts)


@pytest.mark.parametrize(
    "figure",
    [
        "1.9012",
        "1.8456 to 1.9581",
        "−14.6 %",
        "+0.8 %",
        "58.8 kB",
        "4,884,480",
        "2 min 51 s",
        "2.3 GB",
        "525.7 tokens per second",
        "too_short: 5",
        "90.1 %",
    ],
)
def test_figures_stand_there_with_their_units(figure: str) -> None:
    assert figure in " ".join(text for _, text in page_of().texts)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_hostile_text_stays_text(words: str) -> None:
    def tags(text: str) -> list[tuple[str, list[str]]]:
        data = make_data()
        first = replace(data.datasets[0], title=text, dropped={text: 1}, card_id=text)
        evaluation = make_evaluation(
            scores=(make_score(name=text, card_id=text),),
            samples=(SampleAnswer(language="en", prompt=text, base=text, adapter=f"x{text}"),),
            gates=(GateResult(name=text, limit=1, measured=2, passed=False),),
        )
        data = replace(data, datasets=(first, data.datasets[1]))
        train = make_train(device=text)
        page = Page(render_report(make_evidence(data=data, evaluation=evaluation, train=train)))
        assert page.faults == []
        return [(tag, sorted(attrs)) for tag, attrs in page.elements if tag != "em"]

    assert tags(words) == tags("x")


def test_what_was_not_measured_is_said() -> None:
    recipe = make_recipe(evaluate={}, card={"licence": "apache-2.0"})
    evaluation = make_evaluation(scores=(), gates=(), samples=())
    page = Page(render_report(make_evidence(recipe, evaluation=evaluation, plan=None, steps=())))
    assert page.faults == []
    said = " ".join(text for _, text in page.texts)
    assert "Bits per byte of base and adapter: not measured." in said
    assert "Loss per step: not measured." in said
    assert "The recipe names no prompts." in said
    assert "planned" not in said
    assert page.all("svg") == []


def test_a_failed_gate_is_seen_at_once() -> None:
    gate = GateResult(name="English may rise by at most 3 %", limit=3, measured=4.2, passed=False)
    text = render_report(make_evidence(evaluation=make_evaluation(gates=(gate,))))
    assert '<div class="verdict bad">' in text
    assert "1 of 1 quality gates failed." in text
    assert '<div class="verdict good">' in render_report(make_evidence())


def test_private_networks_are_not_told() -> None:
    evidence = make_evidence()
    base = replace(evidence.base, source_kind="hub", source="https://hub.ministry.internal")
    assert "ministry" not in render_report(replace(evidence, base=base))


def test_write_report_is_atomic_and_needs_the_records(tmp_path: Path) -> None:
    evidence = make_evidence()
    run_dir = write_run(tmp_path / "run", evidence)
    path = write_report(run_dir, evidence.recipe)
    assert path == run_dir / "report.html"
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert not list(run_dir.glob(".*.part"))
    (run_dir / "train.json").unlink()
    with pytest.raises(UsageError, match="train"):
        write_report(run_dir, evidence.recipe)


SHOWN = [
    "392 stayed", "cp949 6", "Korean 90.0 %, English 10.0 %", "phone 9, api key 1", "not JSON</strong> 1",
    "nearly the same as another row</strong> 3", "tatweel 12", "min length 20", "63 texts, 1 row overlapped",
    "2 texts are too short", "Policy: personal data mask", "Letters before", "84.0 %", "3 parts (1 found finished)",
]  # fmt: skip


def test_report_and_gate_page_share_what_the_gate_did() -> None:
    gate = make_gate()
    report = render_report(make_evidence(gate=gate, text_may_go_out=True))
    page = gate_page(gate)
    for text in (report, page):
        assert [words for words in SHOWN if words not in text] == []
        parsed = Page(text)
        assert parsed.faults == []
        arabic = [attrs for tag, attrs in parsed.elements if tag == "div" and attrs.get("class") == "answer"]
        assert len([attrs for attrs in arabic if attrs.get("dir") == "auto"]) >= 5
        assert "تُعلن البلدية" in text and "97% like ar/train.txt.gz:2" in text
        assert not re.search(r'(?:src|href)="', text)
    assert "Tokens after" in report
    assert "Tokens after" not in page, "nothing was tokenised there"


def test_a_report_without_the_gate_says_nothing_of_it() -> None:
    assert "Data gate" not in render_report(make_evidence())


def test_text_of_the_data_stays_out_of_a_page_that_is_published_unless_every_card_allows_it() -> None:
    gate = make_gate()
    texts = [
        shown.text for step in gate.steps for group in step.examples.values() for shown in group if shown.text
    ]
    assert len(texts) == 4
    closed = render_report(make_evidence(gate=gate))
    assert not [text for text in texts if text in closed]
    assert "another language: 3 rows" in closed and "<code>gate.html</code>" in closed
    # What is escaped in the page is the same text.
    opened = render_report(make_evidence(gate=gate, text_may_go_out=True))
    assert all(text.split("<")[0] in opened for text in texts)


CARD = """\
schema_version: 1
id: {id}
version: "1"
title: t
files: [{{path: x.jsonl, sha256: {sha}, rows: 1}}]
languages: [{{tag: ko, share: 1.0}}]
licence: {{expression: CC0-1.0}}
rights: {{basis: own-work, training: yes, redistribution: {passed_on}}}
sources: [{{kind: own, name: n}}]
personal_data: {{contains: none}}
sensitivity: {sensitivity}
annotation: {{by: us}}
contact: us
"""


@pytest.mark.parametrize(
    ("sensitivity", "passed_on", "expected"),
    [
        ("public", "yes", True),
        ("internal", "yes", False),
        ("public", "unknown", False),
        ("public", None, False),
    ],
)
def test_cards_decide_whether_examples_are_shown(
    tmp_path: Path, sensitivity: str, passed_on: str | None, expected: bool
) -> None:
    for name in ("ko", "en"):
        told = ("public", "yes") if name == "ko" else (sensitivity, passed_on)
        if told[1] is not None:  # None: the card is gone
            values = {"id": name, "sha": "a" * 64, "sensitivity": told[0], "passed_on": told[1]}
            (tmp_path / f"{name}.yaml").write_text(CARD.format(**values), encoding="utf-8")
    sources = [{"card": str(tmp_path / f"{name}.yaml")} for name in ("ko", "en")]
    recipe = make_recipe(data=sources)
    evidence = make_evidence(recipe, gate=make_gate(), data=make_data(curated=True))
    read = read_evidence(write_run(tmp_path / "run", evidence), recipe)
    assert read.gate == evidence.gate
    assert read.text_may_go_out is expected


def test_a_record_of_an_earlier_gate_is_not_this_runs(tmp_path: Path) -> None:
    evidence = make_evidence(gate=make_gate(), data=make_data(curated=False))
    assert read_evidence(write_run(tmp_path, evidence), evidence.recipe).gate is None


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_examples_stay_text(words: str) -> None:
    gate = make_gate()
    last = gate.steps[-1]
    examples = {
        "near_duplicate": (replace(last.examples["near_duplicate"][0], text=words, where=words, note=words),)
    }
    gate = replace(gate, steps=(*gate.steps[:-1], replace(last, examples=examples)))
    page = Page(gate_page(gate))
    assert page.faults == []
    assert not page.all("script") and not page.all("img")


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1)), min_size=1, max_size=8))
def test_rows_through_the_gate_are_in_proportion_and_inside_the_chart(steps: list[tuple[int, float]]) -> None:
    drawn = ElementTree.fromstring(
        gate_chart([(f"step {at}", rows, int(rows * part)) for at, (rows, part) in enumerate(steps)])
    )
    groups = drawn.findall(".//g")
    most = max(rows for rows, _ in steps)
    for (rows, part), group in zip(steps, groups, strict=True):
        kept, gone = (float(bar.get("width", "nan")) for bar in group.findall("rect"))
        assert kept >= -0.05 and gone >= 0
        assert (gone > 0) == (int(rows * part) > 0 and rows / max(most, 1) * 440 > 0.05)
        assert kept + gone == pytest.approx(rows / max(most, 1) * 440, abs=0.11)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e5))
def test_ticks_are_round_and_span_the_range(low: float, width: float) -> None:
    high = low + width
    marks = ticks(low, high)
    if high > low:
        step = marks[1] - marks[0]
        assert marks[0] <= low + 1e-6 * step
        assert marks[-1] >= high - 1e-6 * step
        assert 2 <= len(marks) <= 13
    assert ticks(3.0, 3.0) == [3.0]


@pytest.mark.parametrize("count", [1, 2, 30, MOST_POINTS, MOST_POINTS + 1, 5000])
def test_loss_chart_is_xml_with_a_title_per_point(count: int) -> None:
    svg = ElementTree.fromstring(loss_chart(make_steps(count)))
    points = svg.findall("circle")
    assert len(points) == min(count, -(-count // -(-count // MOST_POINTS)))
    assert all(point.findtext("title") for point in points)
    _, _, width, height = (float(part) for part in svg.attrib["viewBox"].split())
    for point in points:
        assert 0 <= float(point.attrib["cx"]) <= width
        assert 0 <= float(point.attrib["cy"]) <= height


def test_loss_chart_of_a_flat_loss_has_no_zero_division() -> None:
    flat = tuple(replace(step, loss=2.0) for step in make_steps(5))
    ElementTree.fromstring(loss_chart(flat))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.tuples(BITS, BITS), min_size=1, max_size=5))
def test_bars_are_in_proportion_and_inside_the_chart(pairs: list[tuple[float, float]]) -> None:
    scores = [
        make_score(base=old, base_interval=(old, old), adapter=new, adapter_interval=(new, new * 1.1))
        for old, new in pairs
    ]
    svg = ElementTree.fromstring(score_chart(scores))
    width = float(svg.attrib["viewBox"].split()[2])
    bars = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in svg.findall("rect")]
    values = [value for pair in pairs for value in pair]
    longest = max(max(score.base_interval[1], score.adapter_interval[1]) for score in scores)
    assert len(bars) == len(values)
    for (left, length), value in zip(bars, values, strict=True):
        assert left + length <= width
        assert length == pytest.approx(value / longest * (width - 168) if longest else 0, abs=0.1)


def test_figures_read_well() -> None:
    assert number(1234.5, 1) == "1,234.5"
    assert number(-0.25, 2) == "−0.25"
    assert change(-0.04) == "0.0 %"
    assert change(0.04) == "0.0 %"
    assert change(14.58) == "+14.6 %"
    assert [duration(seconds) for seconds in (0, 0.42, 6, 9.96, 59.6, 171.4, 3720)] == [
        "0 s",
        "0.4 s",
        "6 s",
        "10.0 s",
        "1 min 00 s",
        "2 min 51 s",
        "1 h 02 min",
    ]
    assert [size(count) for count in (512, 2_000, 2_310_000_000)] == ["512 B", "2.0 kB", "2.3 GB"]
    assert [language_name(tag) for tag in ("ko", "zh-Hant", "jje")] == ["Korean", "Chinese (zh-Hant)", "jje"]


def test_languages_of_text_are_claimed_only_where_the_script_fits() -> None:
    assert spoken_in("안녕하세요", "ko") == "ko"
    assert spoken_in("I am sorry", "ko") is None
    assert spoken_in("مرحبا", "ar") == "ar"
    assert spoken_in("Merhaba", "tr") == "tr"
    assert spoken_in("123", "ko") is None
    assert {"ko", "ar", "arz", "yue", "jje", "ckb", "kor"} <= known_languages()
    assert not {"korean", "xx", "english"} & known_languages()
