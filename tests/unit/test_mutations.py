"""One mistake at a time in a recipe that names every key: the exact line, and for typos the right word."""

import copy
import json
from dataclasses import asdict

import pytest
from full_recipe import FULL, TAUGHT, keys, line_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.errors import Problem
from sovtune.recipe import Recipe
from sovtune.recipe_file import check_recipe, load_recipe
from sovtune.schema_walk import sections_in
from sovtune.yaml_file import KeyPath, dotted, parse_yaml


@pytest.fixture
def mistakes(tmp_path):
    """Check a recipe text; gives its problems."""
    path = tmp_path / "recipe.yaml"

    def run(text: str) -> list[Problem]:
        path.write_text(text, encoding="utf-8")
        found = check_recipe(path)
        assert all(problem.file == str(path) for problem in found)
        return found

    return run


def test_the_full_recipe_is_right_and_full(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    for text in (FULL, TAUGHT):
        path.write_text(text, encoding="utf-8")
        assert load_recipe(path).recipe.name == "full-recipe"

    def count(section: type) -> int:
        below = [kind for field in section.model_fields.values() for kind in sections_in(field.annotation)]
        return len(section.model_fields) + sum(count(kind) for kind in below)

    every = [path for text in (FULL, TAUGHT) for _, _, path in keys(text)]
    named = {tuple(part for part in path if isinstance(part, str)) for path in every}
    assert len(named) == count(Recipe)


def exchanged(word: str) -> str:
    """Two letters near the middle change places."""
    middle = len(word) // 2
    order = sorted(range(len(word) - 1), key=lambda index: abs(index - middle + 1))
    at = next(index for index in order if word[index] != word[index + 1])
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def dropped(word: str) -> str:
    """One letter near the middle is missing."""
    return word[: len(word) // 2] + word[len(word) // 2 + 1 :]


KEYS = keys()
WORDS = sorted({str(path[-1]) for _, _, path in KEYS})
TYPOS = [
    (typo, text, *key)
    for typo in (exchanged, dropped)
    for text, found in ((FULL, KEYS), (TAUGHT, [key for key in keys(TAUGHT) if key[2][0] == "distil"]))
    for key in found
    if typo is exchanged or len(key[2][-1]) > 2
]


@pytest.mark.parametrize(
    ("typo", "text", "line", "column", "path"),
    TYPOS,
    ids=[f"{dotted(case[4])}-{case[0].__name__}" for case in TYPOS],
)
def test_a_typo_in_every_key(mistakes, typo, text: str, line: int, column: int, path: KeyPath) -> None:
    key = str(path[-1])
    lines = text.splitlines()
    row = lines[line - 1]
    lines[line - 1] = row[: column - 1] + typo(key) + row[column - 1 + len(key) :]
    (problem,) = mistakes("\n".join(lines))
    assert (problem.line, problem.column) == (line, column)
    assert problem.path == dotted((*path[:-1], typo(key)))
    assert problem.suggestion == key


# What is replaced, what by, and the path blamed: on the replaced line unless ``ELSEWHERE`` says another.
VALUES = [
    # wrong types
    ("seed: 17", "seed: seventeen", "seed"),
    ("seed: 17", "seed: 1.5", "seed"),
    ("seed: 17", "seed: -1", "seed"),
    ("seed: 17", "seed: 4294967296", "seed"),
    ("name: full-recipe", "name: 7", "name"),
    ("name: full-recipe", "name: Full Recipe", "name"),
    ("name: full-recipe", "name: ../up", "name"),
    ("language: ko", "language: korean", "language"),
    ("language: ko", "language: [ko]", "language"),
    ("method: dpo", "method: ppo", "method"),
    ("schema_version: 1", "schema_version: 2", "schema_version"),
    ("model: example-org/Example-1B", "model: Example-1B", "base.model"),
    ("model: example-org/Example-1B", "model: ../../etc", "base.model"),
    ("revision: 3f1c0de", "revision: 0123456", "base.revision"),
    ("revision: 3f1c0de", "revision: the newest one", "base.revision"),
    ("content_sha256: 5d", "content_sha256: 5D", "base.content_sha256"),
    ("licence_link: https://", "licence_link: http://", "base.licence_link"),
    ("- hub: https://hub.example.org", "- hub: https://me:secret@hub.example.org", "base.mirrors.1.hub"),
    ("- wheel: example-weights==1.2.0", "- wheel: example-weights>=1.2.0", "base.mirrors.2.wheel"),
    ("- folder: ../models/example", "- folder: ~/models", "base.mirrors.0.folder"),
    ("double: true", "double: yes", "base.quantisation.double"),
    ("compute: bfloat16", "compute: bf16", "base.quantisation.compute"),
    ("targets: [q_proj, v_proj]", "targets: all", "adapter.targets"),
    ("targets: [q_proj, v_proj]", "targets: [q_proj, q_proj]", "adapter.targets"),
    ("targets: [q_proj, v_proj]", "targets: []", "adapter.targets"),
    ("gradient_checkpointing: true", "gradient_checkpointing: on", "train.run.gradient_checkpointing"),
    ("device: cpu", "device: gpu", "train.run.device"),
    ("to: hub:example-org/full-recipe", "to: example-org/full-recipe", "publish.to"),
    ("token_env: SOVTUNE_HUB_TOKEN", "token_env: hf_abcdefgh", "publish.token_env"),
    ("title: 한국어 어댑터", 'title: ""', "card.title"),
    # units
    ("epochs: 3", "epochs: 2h", "train.epochs"),
    ("batch_tokens: 4096", "batch_tokens: 4k", "train.batch_tokens"),
    ("batch_tokens: 4096", "batch_tokens: 4GB", "train.batch_tokens"),
    ("warmup: 0.03", "warmup: 3%", "train.warmup"),
    ("share: 0.9", "share: 90%", "data.0.share"),
    ("max_rows: 5000", "max_rows: 5_000", "data.0.max_rows"),
    ("checkpoint_steps: 50", "checkpoint_steps: 10min", "train.run.checkpoint_steps"),
    # out of range
    ("learning_rate: 2e-4", "learning_rate: 2", "train.learning_rate"),
    ("learning_rate: 2e-4", "learning_rate: 0", "train.learning_rate"),
    ("learning_rate: 2e-4", "learning_rate: -1e-4", "train.learning_rate"),
    ("learning_rate: 2e-4", "learning_rate: .nan", "train.learning_rate"),
    ("rank: 16", "rank: -16", "adapter.rank"),
    ("rank: 16", "rank: 0", "adapter.rank"),
    ("rank: 16", "rank: 4096", "adapter.rank"),
    ("alpha: 32", "alpha: 0", "adapter.alpha"),
    ("alpha: 32", "alpha: .inf", "adapter.alpha"),
    ("dropout: 0.05", "dropout: 1", "adapter.dropout"),
    ("share: 0.9", "share: 0", "data.0.share"),
    ("repeat: 2", "repeat: 0", "data.0.repeat"),
    ("epochs: 3", "epochs: 0", "train.epochs"),
    ("warmup: 0.03", "warmup: 1.0", "train.warmup"),
    ("weight_decay: 0.01", "weight_decay: -0.01", "train.weight_decay"),
    ("clip: 1.0", "clip: 0", "train.clip"),
    ("max_length: 1024", "max_length: 8", "train.rows.max_length"),
    ("micro_rows: 2", "micro_rows: 0", "train.run.micro_rows"),
    ("keep_checkpoints: 3", "keep_checkpoints: 0", "train.run.keep_checkpoints"),
    ("max_documents: 60", "max_documents: 1", "evaluate.texts.0.max_documents"),
    ("max_new_tokens: 64", "max_new_tokens: 0", "evaluate.max_new_tokens"),
    ("fail_if_replay_rises: 3", "fail_if_replay_rises: -3", "evaluate.fail_if_replay_rises"),
    # impossible together
    ("kind: qlora", "kind: lora", "adapter.kind"),
    ("steps: null", "steps: 100", "train.steps"),
    ("batch_tokens: 4096", "batch_tokens: 1000", "train.batch_tokens"),
    ("micro_rows: 2", "micro_rows: 5", "train.run.micro_rows"),
    ("overlong: drop", "overlong: split", "train.rows.overlong"),
    ("share: 0.9", "share: 0.8", "data"),
    ("share: 0.1", "share: null", "data.1"),
    ("- card: ../data_cards/en-heldout.yaml", "- card: ../data_cards/en.yaml", "evaluate.texts.1.card"),
    (
        "- card: ../data_cards/en-heldout.yaml",
        "- card: ../data_cards/ko-heldout.yaml",
        "evaluate.texts.1.card",
    ),
    ("role: target", "role: other", "evaluate.fail_if_target_falls_less"),
    ("- hub: https://hub.example.org", "- file: x.gguf", "base.mirrors.1"),
    ("licence_link: https://example.org/licence", "licence_link: null", "base.licence"),
    ("endpoint: https://hub.example.org", "endpoint: null", "publish.to"),
]
ELSEWHERE = {  # a combination is blamed on the key to look at, which is not always the one that was changed
    "share: 0.8": "data:",
    "share: null": "card: ../data_cards/en.yaml",
    "role: other": "fail_if_target_falls_less:",
    "licence_link: null": "licence: LicenseRef-example",
    "endpoint: null": "to: hub:",
}


@pytest.mark.parametrize(("old", "new", "path"), VALUES, ids=[case[1] for case in VALUES])
def test_a_wrong_value(mistakes, old: str, new: str, path: str) -> None:
    assert FULL.count(old) == 1
    found = mistakes(FULL.replace(old, new))
    where = ELSEWHERE.get(new, old.removeprefix("- "))
    assert path in [problem.path for problem in found]
    assert {problem.line for problem in found} == {line_of(where)}


MISSING = [path for _, _, path in KEYS if path in {
    ("name",), ("language",), ("seed",), ("method",), ("base",), ("data",), ("train",), ("card",),
    ("base", "model"), ("base", "revision"), ("base", "licence"), ("data", 0, "card"),
    ("evaluate", "texts", 1, "card"), ("card", "licence"), ("publish", "to"),
}]  # fmt: skip
SECTION_LINES = {
    (): "schema_version: 1",
    ("base",): "base:",
    ("data", 0): "share: 0.9",
    ("evaluate", "texts", 1): "role: replay",
    ("card",): "card:",
    ("publish",): "publish:",
}
"""Where a missing key is reported: the line of its section, or the first line of its list entry."""


def without(path: KeyPath) -> str:
    """``FULL`` less one key and everything below it; the dash of a list entry moves to its next key."""
    line, column = next((line, column) for line, column, at in KEYS if at == path)
    lines = FULL.splitlines()
    end = line
    while end < len(lines) and (
        not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) >= column
    ):
        end += 1
    row = lines[line - 1]
    if row.lstrip().startswith("- "):
        end = line
        lines[line] = row[: column - 1] + lines[line].lstrip()
    return "\n".join(lines[: line - 1] + lines[end:])


@pytest.mark.parametrize("path", MISSING, ids=[dotted(path) for path in MISSING])
def test_a_missing_key(mistakes, path: KeyPath) -> None:
    text = without(path)
    (problem,) = mistakes(text)
    assert problem.path == dotted(path)
    assert "missing" in problem.message
    rows = [row.lstrip(" -") for row in text.splitlines()]
    assert problem.line == rows.index(SECTION_LINES[path[:-1]]) + 1


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["dir:", "hub:a/b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner)
    ),
    max_leaves=6,
)


def test_whatever_stands_anywhere_every_answer_is_a_problem(mistakes) -> None:
    values = parse_yaml(FULL, "full.yaml").values

    @settings(derandomize=True, max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from([path for _, _, path in KEYS]), ANYTHING), min_size=1, max_size=4)
    )
    def check(changes: list[tuple[KeyPath, object]]) -> None:
        changed = copy.deepcopy(values)
        for path, value in changes:
            holder = changed
            for part in path[:-1]:
                inside = isinstance(holder, dict) and part in holder
                inside = inside or (isinstance(holder, list) and isinstance(part, int) and part < len(holder))
                holder = holder[part] if inside else {}
            if isinstance(holder, dict):
                holder[path[-1]] = value
        for problem in mistakes(json.dumps(changed)):
            assert problem.line == 1
            assert problem.message
            json.dumps(asdict(problem))

    check()


def test_there_are_enough_of_them() -> None:
    assert len(KEYS) > 80
    assert len(TYPOS) > 160
    assert len(VALUES) > 60
    assert len(MISSING) == 15
