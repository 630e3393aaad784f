"""From pydantic's findings to sentences: paths without tags, all at once, the nearest right word."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from full_recipe import FULL, line_of
from pydantic import BaseModel, Field

from sovtune.errors import CardError, Problem, RecipeError
from sovtune.explain import MAX_ERRORS, check, nearest, read_model
from sovtune.recipe import Recipe
from sovtune.section import Conflict, Section
from sovtune.yaml_file import Value, parse_yaml


def problems(text: str, kind: type[BaseModel] = Recipe) -> list[Problem]:
    file = parse_yaml(text, "r.yaml")
    checked = check(kind, file.values, file.marks, file.problems)
    assert isinstance(checked, list), "no mistake found"
    return checked


def one(text: str, kind: type[BaseModel] = Recipe) -> Problem:
    (problem,) = problems(text, kind)
    return problem


def change(old: str, new: str, text: str = FULL) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Lora(Section):
    kind: Literal["lora"]
    rank: int = 8


class Soft(Section):
    kind: Literal["soft"]
    tokens: int = 8


class Tuned(Section):
    """A file with a tagged union, a plain union and mappings, none of which may show in a path."""

    tune: Annotated[Lora | Soft, Field(discriminator="kind")]
    either: Lora | list[int] | None = None
    named: dict[str, Lora] = Field(default={})
    count: int | Literal["all"] = "all"

    def _count_fits(self) -> Conflict | None:
        if self.count == 3 and "a" in self.named and self.named["a"].rank == 3:
            return Conflict("three is taken", ("count",))
        return None

    rules = (_count_fits,)


def test_tags_and_union_branches_are_not_in_the_path() -> None:
    assert one("tune:\n  kind: lora\n  rank: x\n", Tuned).path == "tune.rank"
    assert one("tune:\n  kind: soft\n  tokns: 3\n", Tuned).suggestion == "tokens"
    assert one("tune: {kind: lora}\neither: {kind: lora, rank: x}\n", Tuned).path == "either.rank"
    assert one("tune: {kind: lora}\neither: [1, x]\n", Tuned).path == "either.1"
    assert one("tune: {kind: lora}\nnamed:\n  b: {kind: lora, rank: x}\n", Tuned).path == "named.b.rank"
    problem = one("tune: {kind: lora}\ncount: al\n", Tuned)
    assert (problem.path, problem.suggestion) == ("count", "all")
    assert "a plain whole number" in problem.message
    assert "`all`" in problem.message


def test_a_rule_reaches_through_mappings_when_something_else_is_wrong() -> None:
    text = "tune: {kind: lora, rank: x}\ncount: 3\nnamed: {a: {kind: lora, rank: 3}}\n"
    assert [problem.path for problem in problems(text, Tuned)] == ["tune.rank", "count"]


def test_every_mistake_at_once_in_the_order_of_lines() -> None:
    text = change("seed: 17", "seed: x")
    text = change("  rank: 16", "  rnak: 16", text)
    text = change("learning_rate: 2e-4", "learning_rate: 2", text)
    text = change("schedule: cosine", "schedule: cosin", text)
    text = change(
        "    share: 0.1", "    share: 0.2", text
    )  # 0.9 + 0.2, although other sections are wrong too
    text = change("  licence_link: https://example.org/licence\n", "", text)
    found = problems(text)
    assert [problem.path for problem in found] == [
        "seed",
        "base.licence",
        "adapter.rnak",
        "data",
        "train.learning_rate",
        "train.schedule",
    ]
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)
    assert all(problem.file == "r.yaml" and problem.column for problem in found)


def test_two_broken_rules_of_one_section_are_both_reported() -> None:
    text = change("  steps: null", "  steps: 5", change("batch_tokens: 4096", "batch_tokens: 512"))
    assert [problem.path for problem in problems(text)] == ["train.steps", "train.batch_tokens"]


def test_a_wrong_value_breaks_no_rule() -> None:
    assert one(change("epochs: 3", "epochs: three")).path == "train.epochs"
    assert one(change("  kind: nf4", "  kind: nf5")).path == "base.quantisation.kind"
    assert one(change("share: 0.9", "share: 90%")).path == "data.0.share"


UNKNOWN = [
    # where it was written, what, the suggestion
    ("  learning_rate: 2e-4", "  learing_rate: 2e-4", "learning_rate"),
    ("  learning_rate: 2e-4", "  learning-rate: 2e-4", "learning_rate"),
    ("  learning_rate: 2e-4", "  learningRate: 2e-4", "learning_rate"),
    ("  learning_rate: 2e-4", "  LEARNING_RATE: 2e-4", "learning_rate"),
    ("  learning_rate: 2e-4", "  lr: 2e-4", "learning_rate"),
    ("  rank: 16", "  r: 16", "rank"),
    ("  rank: 16", "  lora_r: 16", "rank"),
    ("  schedule: cosine", "  rank: 16", "adapter.rank"),
    ("  schedule: cosine", "  lora_alpha: 16", "adapter.alpha"),
    ("  schedule: cosine", "  packing: true", "train.rows.packing"),
    ("  schedule: cosine", "  max_seq_length: 16", "train.rows.max_length"),
    ("  rank: 16", "  learning_rate: 16", "train.learning_rate"),
    ("  rank: 16", "  seed: 16", "seed"),
    ("seed: 17", "epochs: 17", "train.epochs"),
    ("seed: 17", "max_rows: 17", "data.0.max_rows"),
    ("  clip: 1.0", "  endpoint: 17", "publish.endpoint"),
    ("  contact: team@example.org", "  zzz: 17", None),
]


@pytest.mark.parametrize(("old", "new", "suggestion"), UNKNOWN, ids=[case[1].strip() for case in UNKNOWN])
def test_unknown_keys(old: str, new: str, suggestion: str | None) -> None:
    text = change(old, new)
    line = FULL[: FULL.index(old)].count("\n") + 1
    problem = next(problem for problem in problems(text) if problem.line == line)
    assert problem.path.rpartition(".")[2] == new.strip().partition(":")[0]
    assert problem.message.startswith("unknown key")
    assert problem.suggestion == suggestion


def test_a_key_of_another_section_is_sent_home() -> None:
    assert "belongs under `adapter`" in one(change("  schedule: cosine", "  rank: 16")).message
    assert "belongs under `the top`" in one(change("  rank: 16", "  name: x")).message


def test_without_a_near_key_all_keys_are_named() -> None:
    assert "licence, title, summary" in one(change("  contact: team@example.org", "  zzz: 1")).message


def test_a_misspelt_key_is_not_missing_as_well() -> None:
    problem = one(change("  revision: 3f1c0de", "  revison: 3f1c0de"))
    assert (problem.path, problem.suggestion) == ("base.revison", "revision")


def test_missing_keys_point_to_their_section() -> None:
    problem = one(change("  revision: 3f1c0de\n", ""))
    assert (problem.path, problem.line) == ("base.revision", line_of("base:"))
    assert problem.message == "this key is missing (Commit, tag or branch of that id)"
    top = one(change("language: ko\n", ""))
    assert (top.path, top.line) == ("language", line_of("schema_version:"))
    item = one(change("  - card: ../data_cards/en.yaml\n    share: 0.1", "  - share: 0.1"))
    assert (item.path, item.line) == ("data.1.card", line_of("card: ../data_cards/en.yaml"))


WRONG = [
    ("seed: 17", "seed: '17'", "a plain whole number, found \"17\"", "17"),
    ("seed: 17", "seed: 17.0", "a plain whole number, found 17.0; write it without `.`", "17"),
    ("seed: 17", "seed: true", "a plain whole number, found true", None),
    ("seed: 17", "seed: [1]", "a plain whole number, found a list", None),
    ("seed: 17", "seed: {a: 1}", "a plain whole number, found a section", None),
    ("seed: 17", "seed:", "a plain whole number, found nothing", None),
    ("batch_tokens: 4096", "batch_tokens: 4k", "tokens, found \"4k\"; write a plain number", "4000"),
    ("batch_tokens: 4096", "batch_tokens: 4_096", "digits only", "4096"),
    ("batch_tokens: 4096", "batch_tokens: 4,096", "digits only", "4096"),
    ("batch_tokens: 4096", "batch_tokens: 4GB", "tokens, found \"4GB\"; write a plain", None),
    ("batch_tokens: 4096", "batch_tokens: 1.5k", "without a unit", "1500"),
    ("epochs: 3", "epochs: 2h", "number of passes, found \"2h\"; write a plain number without a unit", None),
    ("epochs: 3", "epochs: 1,5", "`.` before the decimals", None),
    ("share: 0.9", "share: 90%", "share, 0.5 is one half", "0.9"),
    ("fail_if_replay_rises: 3", "fail_if_replay_rises: 3%", "percent, 3 is three percent", "3"),
    ("packing: true", "packing: yes", "true or false, found \"yes\"; YAML 1.2 reads", "true"),
    ("packing: true", "packing: Off", "true or false", "false"),
    ("packing: true", "packing: 1", "true or false, found 1", None),
    ("revision: 3f1c0de", "revision: 0123", "text, found 0123; put it in quotes", '"0123"'),
    ("revision: 3f1c0de", "revision: 1e5", "text, found 1e5; put it in quotes", '"1e5"'),
    ("method: dpo", "method: stf", "`orpo`, `simpo`, found \"stf\"", "sft"),
    ("method: dpo", "method: SFT", "one of `sft`, `cpt`, `dpo`", "sft"),
    ("targets: [q_proj, v_proj]", "targets: atuo", "`auto` or a list", "auto"),
    ("targets: [q_proj, v_proj]", "targets: 7", "`auto` or a list", "[7]"),
    ("schema_version: 1", "schema_version: 2", "expected `1`, found 2", None),
    ("  rows:\n", "  rows: 3\n  run2:\n", "a section with keys such as max_length", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words", "suggestion"), WRONG, ids=[case[1].strip() for case in WRONG]
)
def test_wrong_types_units_and_choices(old: str, new: str, words: str, suggestion: str | None) -> None:
    found = problems(change(old, new))
    problem = next(problem for problem in found if words in problem.message)
    assert problem.line == line_of(old.strip())
    assert problem.suggestion == suggestion


def test_no_pydantic_jargon() -> None:
    text = "\n".join(problem.message for old, new, _, _ in WRONG for problem in problems(change(old, new)))
    for jargon in ("Input should", "Extra inputs", "valid string", "Value error", "tuple", "literal", "dict"):
        assert jargon not in text


def test_values_are_shortened_and_passwords_left_out() -> None:
    long = one(change("name: full-recipe", f"name: {'x y' * 500}"))
    assert len(long.message) < 200
    secret = one(
        change("  endpoint: https://hub.example.org", "  endpoint: https://me:hunter2@hub.example.org")
    )
    assert "hunter2" not in secret.message
    assert "without user name or password" in secret.message


def test_a_line_that_is_wrong_as_yaml_is_not_blamed_twice() -> None:
    text = change("  epochs: 3", "  epochs: *three")
    problem = one(text)
    assert "alias" in problem.message
    both = problems(change("seed: 17", "sede: 17", text))
    assert [problem.line for problem in both] == [line_of("seed:"), line_of("epochs:")]


def test_a_data_file_taken_for_a_recipe_gives_a_short_answer() -> None:
    text = "".join(f"row{number}: 1\n" for number in range(3 * MAX_ERRORS))
    found = problems(text)
    assert len(found) <= MAX_ERRORS + 1
    assert any("more mistakes" in problem.message for problem in found)
    assert problems(
        text + "train:\n  batch_tokens: x\n  epochs: 1\n"
    )  # too many to know that this one is wrong


def test_problem_as_json() -> None:
    from dataclasses import asdict

    problem = one(change("  rank: 16", "  rnak: 16"))
    assert json.loads(json.dumps(asdict(problem))) == {
        "file": "r.yaml",
        "line": line_of("rank:"),
        "column": 3,
        "path": "adapter.rnak",
        "message": "unknown key",
        "suggestion": "rank",
    }
    assert str(problem) == f"r.yaml:{line_of('rank:')}:3: adapter.rnak: unknown key (did you mean `rank`?)"


def test_reading_any_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "lora.yaml"
    path.write_text("kind: lora\nrank: 4\n")
    model, file = read_model(path, Lora, CardError)
    assert (model.rank, file.marks["rank",].value.line) == (4, 2)
    path.write_text("kind: lora\nrnk: 4\n")
    with pytest.raises(CardError) as caught:
        read_model(path, Lora, CardError)
    assert not isinstance(caught.value, RecipeError)
    assert caught.value.problems[0].suggestion == "rank"


@pytest.mark.parametrize(
    ("word", "choice"), [("to", "to"), ("ot", "to"), ("Tag", "tag"), ("tga", "tag"), ("zzzz", None)]
)
def test_nearest(word: str, choice: str | None) -> None:
    assert nearest(word, ["to", "tag", "endpoint"]) == choice


def test_values_of_every_json_type_are_explained() -> None:
    values: list[Value] = [
        None,
        True,
        3,
        2.5,
        "x",
        [],
        [1],
        {},
        {"a": 1},
        float("nan"),
        float("inf"),
        10**200,
    ]
    for name in Recipe.model_fields:
        for value in values:
            found = check(Recipe, {name: value}, {})
            assert isinstance(found, list)
            assert all(problem.message for problem in found)
