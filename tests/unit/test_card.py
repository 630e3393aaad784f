"""The model card: every figure from a record, nothing leaked, nothing broken by hostile text."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from run_records import (
    make_base,
    make_data,
    make_evaluation,
    make_evidence,
    make_plan,
    make_recipe,
    make_score,
    make_train,
    write_run,
)

from sovtune import __version__
from sovtune.card import block, code, inline, load_snippet, render_card, write_card
from sovtune.card_header import Header, header_text, make_header, read_header, split_card
from sovtune.card_lint import lint
from sovtune.errors import LicenceRefused, UsageError
from sovtune.evidence import read_evidence
from sovtune.records import CardReport, Decision, FileHash, GateResult, SampleAnswer, from_json, to_json
from sovtune.report import write_report

GOLDEN = Path(__file__).parent / "golden" / "card.txt"
HOSTILE = [
    "</div></td></tr></table>\n\n# Fake heading\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "```\n---\nlicense: mit\n---\n~~~",
    "<!-- /samples --><script>alert(1)</script><img src=x onerror=alert(1)>",
    "![x](https://evil.example/x.png) [y](javascript:alert(1)) <https://evil.example>",
    "a | b \\| c & &lt;b&gt; $x$ _u_ *s* ~~d~~",
    "- list\n1. one\n> quote\n===\n---\n    code",
    "line\u2028separator\u2029and\x85next\rline\x00null\x1b[31m",
    "lone \ud800 surrogate",
    "\u202eright to left override",
    "",
]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60))


def card_of(**changes: object) -> str:
    return render_card(make_evidence(**changes))


def faults(text: str, *forbidden: str) -> list[str]:
    return lint(text, forbidden=forbidden, evaluation=make_evaluation())


def test_golden_card() -> None:
    """A change of the card is seen in review; write the file anew with the failing text when it is meant."""
    text = card_of().replace(f"sovtune {__version__}", "sovtune VERSION")
    text = text.replace(f"| sovtune | {__version__} |", "| sovtune | VERSION |")
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
        pytest.fail(f"{GOLDEN} was missing and is written now; read it and commit it")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_card_passes_its_own_lint_and_has_every_section() -> None:
    text = card_of()
    assert faults(text, "someone", "somehost") == []
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "Measured results",
        "How to load",
        "Training data",
        "Procedure",
        "Compute",
        "Intended use",
        "Limitations",
        "Licence and obligations",
        "Reproducibility",
        "Sample answers",
    ]


def test_the_hubs_own_reader_understands_the_header() -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card_of()).data
    assert data.license == "apache-2.0"
    assert data.language == ["ko", "en"]
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert [result.metric_value for result in data.eval_results] == [1.62398, 1.04127]
    assert data.tags[:2] == ["qlora", "sovtune"]


scores = st.builds(
    make_score,
    name=st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() and text.strip() == text),
    card_id=st.from_regex(r"\A[a-z][a-z0-9-]{0,20}\Z"),
    language=st.sampled_from(["ko", "ar", "en", "zh-Hant"]),
    role=st.sampled_from(["target", "replay", "other"]),
    sha256=st.from_regex(r"\A[0-9a-f]{64}\Z"),
    base=st.floats(0.1, 9),
    adapter=st.floats(0.1, 9),
    change_percent=st.floats(-99, 400),
    change_interval=st.tuples(st.floats(-99, 0), st.floats(0, 400)),
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.lists(scores, max_size=4, unique_by=lambda score: (score.card_id, score.sha256)),
    st.sampled_from(["Apache-2.0", "CC-BY-NC-SA-4.0", "KOGL-1", "Apache-2.0 AND CC-BY-4.0"]),
    st.sampled_from([{"ko": 1.0}, {"no": 0.6, "en": 0.4}, {"ar": 0.5, "arz": 0.495, "fr": 0.005}]),
)
def test_header_round_trip(found: list, licence: str, languages: dict[str, float]) -> None:
    data = make_data()
    data = replace(data, datasets=(replace(data.datasets[0], languages=languages),))
    recipe = make_recipe(card={"licence": licence})
    header = make_header(
        make_evidence(recipe, data=data, evaluation=make_evaluation(scores=tuple(found), gates=()))
    )
    front, body = split_card(header_text(header) + "\nbody\n")
    again = read_header(front)
    assert body == "\nbody\n"
    assert again == header
    assert again.language == tuple(tag for tag, share in languages.items() if share >= 0.01)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(scores, min_size=1, max_size=3, unique_by=lambda score: (score.card_id, score.sha256)))
def test_every_figure_of_the_results_is_in_the_record(found: list) -> None:
    gates = tuple(
        GateResult(name=f"gate of {score.card_id}", limit=3.0, measured=-score.change_percent, passed=False)
        for score in found
    )
    evaluation = make_evaluation(scores=tuple(found), gates=gates)
    text = card_of(evaluation=evaluation)
    assert lint(text, forbidden=(), evaluation=evaluation) == []
    moved = tuple(replace(score, base=score.base + 1) for score in found)
    wrong = lint(text, forbidden=(), evaluation=make_evaluation(scores=moved, gates=gates))
    assert sum("in column Base is not" in fault for fault in wrong) == len(found)


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shape(text: str) -> list[str]:
    """The elements that a Markdown reader makes of the card, in order; line breaks are content."""
    page = MARKDOWN.render(split_card(text)[1])
    return [tag for tag in re.findall(r"</?[a-zA-Z][\w-]*|<!--.*?-->", page, re.DOTALL) if tag != "<br"]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_hostile_sample_text_cannot_break_the_card(prompt: str, base: str, adapter: str) -> None:
    def with_sample(*texts: str) -> str:
        sample = SampleAnswer(language="ar", prompt=texts[0], base=texts[1], adapter=texts[2])
        return card_of(evaluation=make_evaluation(samples=(sample,)))

    text = with_sample(prompt, base, adapter)
    plain = with_sample("a", "b", "c")
    assert shape(text) == shape(plain)
    text.encode("utf-8")
    assert not [fault for fault in faults(text) if "password" not in fault]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(TEXT)
def test_hostile_titles_and_reasons_cannot_break_the_card(words: str) -> None:
    def with_words(text: str) -> str:
        data = make_data()
        first = replace(data.datasets[0], title=text, dropped={text: 3})
        data = replace(data, datasets=(first, data.datasets[1]), warnings=(text,))
        return card_of(data=data, train=make_train(events=(text,), device=text))

    assert shape(with_words(words)) == shape(with_words("x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("snake_case and _both_", "snake_case and &#95;both&#95;"),
        ("# no heading", "&#35; no heading"),
        ("1. no list", "1&#46; no list"),
        ("- no list", "&#45; no list"),
        ("-14.6 % and C#", "-14.6 % and C#"),
        ("  two\n\n lines ", "two lines"),
        ("a|b<c>", "a&#124;b&#60;c&#62;"),
        ("한국어: 그대로, (괄호) 'x'!", "한국어: 그대로, (괄호) 'x'!"),
    ],
)
def test_inline_escapes_only_what_must_be(text: str, expected: str) -> None:
    assert inline(text) == expected


def test_code_and_block_keep_text_whole() -> None:
    assert code("<|im_end|>") == "<code>&#60;&#124;im_end&#124;&#62;</code>"
    assert code("q_proj") == "`q_proj`"
    assert code("a`b") == "<code>a&#96;b</code>"
    assert block("하나\n\n둘") == "하나<br><br>둘"


PLANTED = {
    "unknown key": ("license: apache-2.0", "license: apache-2.0\nlisence: mit", "lisence"),
    "unknown licence": ("license: apache-2.0", "license: apache2", "not on the Hub's list"),
    "other without name": ("license: apache-2.0", "license: other", "license_name"),
    "name without other": ("license: apache-2.0", "license: mit\nlicense_name: x", "license_name"),
    "language": ("- ko\n", "- korean\n", "no ISO 639 code"),
    "base is a path": (
        "base_model: HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model: ./base",
        "base_model",
    ),
    "data set is a path": ("library_name: peft", "library_name: peft\ndatasets:\n- ko.jsonl", "datasets"),
    "relation": ("base_model_relation: adapter", "base_model_relation: finetune", "base_model_relation"),
    "library": ("library_name: peft", "library_name: transformers", "library_name"),
    "pipeline": ("pipeline_tag: text-generation", "pipeline_tag: fill-mask", "pipeline_tag"),
    "tags": ("- sovtune\n", "- other\n", "tags"),
    "broken YAML": ("tags:\n", "tags: [\n", "not YAML"),
    "no header": ("---\nbase_model", "base_model", "does not begin with a header"),
    "absolute path": ("Trying sovtune.", "See /srv/models/base/config.json", "absolute path"),
    "home path": ("Trying sovtune.", "See /home/minsu/run", "local path"),
    "windows path": ("Trying sovtune.", "See C:\\models\\base", "absolute path"),
    "user name": ("Trying sovtune.", "Made by minsu-kim at home", "user name"),
    "host name": ("Trying sovtune.", "Made on gpu-node-17.", "host name"),
    "credentials": ("Trying sovtune.", "https://me:secret@hub.example/x", "URL with"),
    "token in address": ("Trying sovtune.", "https://tok123@hub.example/x", "URL with credentials"),
    "token": ("Trying sovtune.", "hf_" + "a1B2" * 8, "token"),
    "placeholder": ("Trying sovtune.", "[More Information Needed]", "placeholder"),
    "remote image": ("Trying sovtune.", "![badge](https://x.example/b.svg)", "loads something"),
    "image element": ("Trying sovtune.", '<img src="https://x.example/b.svg">', "loads something"),
    "script": ("Trying sovtune.", "<script src='x'></script>", "loads something"),
    "figure changed": ("1.6240 (", "1.5240 (", "1.5240 (1.5770 to 1.6704) in column Adapter is not"),
    "gate changed": ("| 14.58 %", "| 24.58 %", "24.58 % in column Measured is not"),
    "row gone": (
        "| sovtune-sample-en-heldout: bits per byte may rise by at most 3 % | 3.00 % | 0.78 % | holds |\n",
        "",
        "one row for each",
    ),
    "results gone": ("<!-- results -->", "", "no results section"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_lint_finds_each_planted_fault(name: str) -> None:
    old, new, says = PLANTED[name]
    text = card_of()
    assert old in text
    found = faults(text.replace(old, new, 1), "minsu-kim", "gpu-node-17")
    assert any(says in fault for fault in found), found


def test_samples_may_speak_of_paths_but_not_hold_credentials() -> None:
    def with_answer(text: str) -> list[str]:
        sample = SampleAnswer(language="ko", prompt="?", base=text, adapter=text)
        return faults(card_of(evaluation=make_evaluation(samples=(sample,))))

    assert with_answer("Look into /usr/share/doc/python3 and write TODO.") == []
    assert with_answer("hf_" + "a1B2" * 8) != []


@pytest.mark.parametrize("method", ["sft", "cpt"])
@pytest.mark.parametrize("kind", ["nf4", "none"])
def test_the_snippet_is_python_that_loads_as_trained(method: str, kind: str) -> None:
    recipe = make_recipe(
        method=method,
        base={**make_recipe().base.model_dump(), "quantisation": {"kind": kind, "compute": "float32"}},
        adapter={"kind": "qlora" if kind == "nf4" else "lora"},
    )
    snippet = load_snippet(make_evidence(recipe))
    tree = ast.parse(snippet)
    names = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert ("BitsAndBytesConfig" in names) is (kind == "nf4")
    assert ("apply_chat_template" in snippet) is (method == "sft")
    assert "torch.float32" in snippet
    assert 'revision="v1.0.0"' in snippet
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {"PeftModel", "AutoTokenizer"} <= used


def test_the_snippet_cannot_be_broken_out_of() -> None:
    prompts = {"prompts": ['ends\n```\n# Heading \'"""'], "texts": []}
    base = make_base(revision="x'```\"")
    snippet = load_snippet(make_evidence(make_recipe(evaluate=prompts, publish=None), base=base))
    ast.parse(snippet)
    assert not any(line.startswith("`") for line in snippet.splitlines())
    assert 'adapter = "."' in snippet
    tokenizer = load_snippet(make_evidence(train=make_train(adapter_files=())))
    assert "AutoTokenizer.from_pretrained(base_id, revision=" in tokenizer


def test_what_was_not_measured_is_said() -> None:
    recipe = make_recipe(evaluate={}, card={"licence": "apache-2.0"})
    evaluation = make_evaluation(scores=(), gates=(), samples=())
    text = render_card(make_evidence(recipe, evaluation=evaluation, plan=None, steps=()))
    assert "model-index" not in text
    assert "Bits per byte of base and adapter: not measured." in text
    assert "Energy | not measured" in text
    assert "No quality gate was set." in text
    assert "passes over the data" not in text
    assert "Sample answers" not in text
    assert "None" not in text
    assert lint(text, forbidden=(), evaluation=evaluation) == []


def test_measured_limits_are_told() -> None:
    worse = make_score(
        role="replay",
        language="en",
        name="English",
        change_percent=4.2,
        change_interval=(3.9, 4.6),
        documents=500,
    )
    gate = GateResult(name="English may rise by at most 3 %", limit=3, measured=4.2, passed=False)
    data = make_data(tokens_cut=1200, overlong={"dropped": 7}, warnings=("the share of ko was not reached",))
    data = replace(data, datasets=(replace(data.datasets[0], personal_data="possible"), data.datasets[1]))
    text = card_of(evaluation=make_evaluation(scores=(worse,), gates=(gate,)), data=data)
    limits = text.split("## Limitations")[1].split("## ")[0]
    assert "English became worse" in limits
    assert "+4.2 % (95 % interval +3.9 to +4.6 %)" in limits
    assert "quality gate failed" in limits
    assert "only" not in limits
    assert "7 documents were longer" in limits
    assert "1,200 tokens were cut off" in limits
    assert "personal data: possible" in limits
    assert "share of ko was not reached" in limits
    assert "**failed**" in text
    unclear = make_score(change_percent=-0.4, change_interval=(-1.5, 0.6))
    text = card_of(evaluation=make_evaluation(scores=(unclear,), gates=()))
    assert "No clear gain in Korean" in text
    assert "languages other than the target: not measured" in text


def test_local_data_stays_out_of_the_header_and_hub_data_goes_in() -> None:
    assert make_header(make_evidence()).datasets is None
    data = make_data()
    remote = replace(data.datasets[1], files=(FileHash(path="hub:org/english", bytes=1, sha256="a" * 64),))
    header = make_header(make_evidence(data=replace(data, datasets=(data.datasets[0], remote))))
    assert header.datasets == ("org/english",)


def test_own_licences_have_name_and_link() -> None:
    base = {
        **make_recipe().base.model_dump(),
        "licence": "LicenseRef-Acme",
        "licence_link": "https://acme.example/l",
    }
    header = make_header(make_evidence(make_recipe(base=base, card={"licence": "LicenseRef-Acme"})))
    assert (header.license, header.license_name, header.license_link) == (
        "other",
        "acme",
        "https://acme.example/l",
    )


def test_hub_addresses_of_private_networks_are_not_told() -> None:
    text = card_of(
        base=make_base(source_kind="hub", source="https://hub.ministry.internal", converted_from=None)
    )
    assert "ministry" not in text
    assert "a model hub" in text


def test_header_model_refuses_unknown_parts() -> None:
    raw = yaml.safe_load(split_card(card_of())[0])
    raw["model-index"][0]["results"][0]["metrics"][0]["verified"] = True
    with pytest.raises(ValueError, match="verified"):
        Header.model_validate(raw)


def test_write_card_writes_what_its_record_says(tmp_path: Path) -> None:
    evidence = make_evidence()
    run_dir = write_run(tmp_path / "run", evidence)
    with pytest.raises(UsageError, match="report is not written"):
        write_card(run_dir, evidence.recipe)
    write_report(run_dir, evidence.recipe)
    record = write_card(run_dir, evidence.recipe)
    text = (run_dir / "README.md").read_text(encoding="utf-8")
    assert text == render_card(read_evidence(run_dir, evidence.recipe))
    assert record.licence == "Apache-2.0"
    assert any("sovtune-sample-en-instruct: CC-BY-4.0" in duty for duty in record.obligations)
    assert from_json(CardReport, to_json(record)) == record
    assert str(tmp_path) not in text
    assert write_card(run_dir, evidence.recipe) == record
    assert [path.name for path in run_dir.iterdir() if path.name.endswith(".part")] == []


def test_a_licence_that_promises_too_much_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data = make_data()
    data = replace(data, datasets=(replace(data.datasets[0], licence="LicenseRef-KOGL-4"), data.datasets[1]))
    evidence = make_evidence(data=data)
    run_dir = write_run(tmp_path / "run", evidence)
    write_report(run_dir, evidence.recipe)
    with pytest.raises(LicenceRefused) as caught:
        write_card(run_dir, evidence.recipe)
    assert "non-commercial" in str(caught.value)
    assert "no derived works" in str(caught.value)
    assert not (run_dir / "README.md").exists()


def test_a_leak_in_the_recipes_words_stops_the_card(tmp_path: Path) -> None:
    recipe = make_recipe(card={"licence": "apache-2.0", "summary": "Trained from /home/minsu/data today."})
    run_dir = write_run(tmp_path / "run", make_evidence(recipe))
    write_report(run_dir, recipe)
    with pytest.raises(UsageError, match="fault") as caught:
        write_card(run_dir, recipe)
    assert "local path" in str(caught.value)
    assert "minsu" not in str(caught.value)
    assert not (run_dir / "README.md").exists()


def test_missing_and_broken_records_are_named(tmp_path: Path) -> None:
    evidence = make_evidence()
    run_dir = write_run(tmp_path / "run", evidence)
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"metrics.jsonl:1"):
        read_evidence(run_dir, evidence.recipe)
    (run_dir / "metrics.jsonl").unlink()
    assert read_evidence(run_dir, evidence.recipe).steps == ()
    (run_dir / "eval.json").unlink()
    with pytest.raises(UsageError, match="evaluate"):
        read_evidence(run_dir, evidence.recipe)
    with pytest.raises(UsageError, match="no run of sovtune"):
        read_evidence(tmp_path, evidence.recipe)


def test_plan_is_optional(tmp_path: Path) -> None:
    evidence = make_evidence(plan=None)
    assert read_evidence(write_run(tmp_path / "a", evidence), evidence.recipe).plan is None
    assert read_evidence(write_run(tmp_path / "b", make_evidence()), evidence.recipe).plan == make_plan()


def test_decisions_and_open_questions_are_told() -> None:
    assert "### Decisions by people" not in card_of()
    assert "### Open questions" not in card_of()
    made = Decision(
        refusal="letters.non-commercial",
        question="for | non-commercial use",
        name="<b>Kim</b>",
        reason="법무팀 검토",
    )
    question = "data news asks that derived works keep its licence [news.share-alike]"
    data = make_data(decisions=(made,), open_questions=(question,), licence_policy="advisory")
    text = card_of(data=data)
    row = "| `letters.non-commercial` | for &#124; non-commercial use | &#60;b&#62;Kim&#60;/b&#62; | 법무팀 검토 |"
    assert row in text
    assert "data news asks that derived works keep its licence" in text.split("### Open questions")[1]
    assert "licence policy: advisory" in text
    assert faults(text) == []


def test_what_cards_ask_for_and_what_was_compared_is_told() -> None:
    data = make_data()
    first = replace(
        data.datasets[0],
        attribution="City of Example, Letters 2021-2025",
        territory=("KR",),
        documents={"agreement": FileHash(path="letter.txt", bytes=9, sha256="9" * 64)},
        compared={
            "languages": "declared ko 1.00; measured ko 0.98",
            "personal_data": "not compared: no gate",
        },
    )
    text = card_of(data=replace(data, datasets=(first, data.datasets[1])))
    obligations = text.split("## Licence and obligations")[1]
    assert "- name the source: City of Example, Letters 2021-2025 (asked by data" in obligations
    assert "- use only in: KR (asked by data" in obligations
    assert "languages: declared ko 1.00; measured ko 0.98. personal_data: not compared: no gate." in text
    assert f"`letter.txt` | `{'9' * 64}` |" in text
    assert faults(text) == []


def test_a_promise_that_nobody_answers_for_stops_the_card(tmp_path: Path) -> None:
    data = make_data()
    data = replace(data, datasets=(replace(data.datasets[0], licence="CC-BY-SA-4.0"), data.datasets[1]))
    name = data.datasets[0].card_id

    def write(**section: object) -> None:
        recipe = make_recipe(card={"licence": "Apache-2.0", **section})
        run_dir = write_run(tmp_path / "run", make_evidence(recipe, data=data))
        write_report(run_dir, recipe)
        write_card(run_dir, recipe)

    with pytest.raises(LicenceRefused, match=rf"{name}\.share-alike"):
        write()
    write(licence_policy="advisory")
    write(
        overrides=[
            {"refusal": f"{name}.share-alike", "name": "office", "reason": "weights are no adaptation"}
        ]
    )
