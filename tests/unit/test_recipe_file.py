"""Loading a recipe: parents, ``--set``, origins, hash, and the generated reference."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from full_recipe import FULL, keys, line_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.errors import Problem, RecipeError
from sovtune.recipe import DataSource, Recipe
from sovtune.recipe_file import (
    LOCAL_PATHS,
    MAX_PARENTS,
    check_recipe,
    explain_origins,
    load_recipe,
    lock_text,
    recipe_hash,
    to_yaml,
)
from sovtune.schema_walk import descriptions, sections_at, sections_in
from sovtune.yaml_file import KeyPath, dotted, parse_yaml, read_yaml

examples = settings(derandomize=True, max_examples=50, deadline=None)
SHORT = """\
name: short
language: ko
seed: 1
method: sft
base: {model: org/base, revision: main, licence: MIT, quantisation: {kind: nf4}}
data:
  - card: cards/ko.yaml
train:
  epochs: 1
card: {licence: MIT}
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path, *overrides: str) -> list[Problem]:
    found = check_recipe(path, overrides)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.problems == found
    assert caught.value.exit_code == 2
    return found


# --- one file


def test_values_defaults_and_where_they_came_from(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path / "r.yaml", SHORT), ["adapter.rank=8"])
    assert loaded.recipe.train.learning_rate == 2e-4
    assert loaded.root == tmp_path
    assert str(loaded.origins["seed",]) == "recipe r.yaml:3"
    assert str(loaded.origins["base", "quantisation", "kind"]) == "recipe r.yaml:5"
    assert str(loaded.origins["adapter", "rank"]) == "--set"
    assert str(loaded.origins["adapter", "alpha"]) == "default"
    with pytest.raises(ValueError, match="frozen"):
        loaded.recipe.seed = 2


def test_every_value_has_an_origin_and_a_line(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path / "full.yaml", FULL))
    lines = explain_origins(loaded)
    assert "".join(f"{line.partition('  #')[0].rstrip()}\n" for line in lines) == to_yaml(loaded.recipe)
    for line in lines:
        assert "  # " in line or line.endswith(":")
    for number, column, path in keys():
        origin = loaded.origins.get(path)
        if origin is not None:
            assert origin.kind == "recipe"
            assert origin.place is not None
            assert origin.place.line == number, (path, column)


def test_comments_are_aligned_under_wide_letters(tmp_path: Path) -> None:
    text = SHORT.replace("card: {licence: MIT}", "card: {licence: MIT, title: 한국어, summary: abc}")
    lines = explain_origins(load_recipe(write(tmp_path / "r.yaml", text)))
    title = next(line for line in lines if "title" in line)
    summary = next(line for line in lines if "summary" in line)
    assert title.index("#") + 3 == summary.index("#")


def test_a_missing_recipe_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "quickstart.yaml", SHORT)
    (problem,) = mistakes(tmp_path / "quikstart.yaml")
    assert problem.suggestion == str(tmp_path / "quickstart.yaml")


# --- local paths


def test_local_paths_are_those_that_say_so() -> None:
    """``LOCAL_PATHS`` and the docstrings of the schema may not drift apart."""
    found: set[KeyPath] = set()

    def walk(kind: type, path: KeyPath) -> None:
        for name, text in descriptions(kind).items():
            if "relative to the recipe" in text:
                found.add((*path, name))
        for name, field in kind.model_fields.items():
            direct = sections_at(kind, (name,))
            for below in sections_in(field.annotation):
                walk(below, (*path, name) if below in direct else (*path, name, "*"))

    walk(Recipe, ())
    assert found == set(LOCAL_PATHS)


def test_resolved_paths_are_absolute_and_exact(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path / "recipes/full.yaml", FULL))
    resolved = loaded.resolved()
    assert resolved.data[0].card == str(tmp_path / "data_cards/ko.yaml")
    assert resolved.evaluate.texts[1].card == str(tmp_path / "data_cards/en-heldout.yaml")
    assert resolved.base.mirrors[0].folder == str(tmp_path / "models/example")
    assert resolved.publish == loaded.recipe.publish


def test_an_absolute_path_is_kept_relative(tmp_path: Path) -> None:
    text = SHORT.replace("cards/ko.yaml", str(tmp_path / "cards/ko.yaml"))
    plain = load_recipe(write(tmp_path / "plain.yaml", SHORT)).recipe
    assert load_recipe(write(tmp_path / "absolute.yaml", text)).recipe == plain
    assert load_recipe(tmp_path / "plain.yaml", [f"data.0.card={tmp_path}/cards/ko.yaml"]).recipe == plain
    assert load_recipe(tmp_path / "plain.yaml", ["data.0.card=./cards/../cards/ko.yaml"]).recipe == plain


def test_a_recipe_reached_through_a_linked_folder(tmp_path: Path) -> None:
    write(tmp_path / "real/deep/r.yaml", SHORT.replace("cards/ko.yaml", "../cards/ko.yaml"))
    card = write(tmp_path / "real/cards/ko.yaml", "x: 1\n")
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    resolved = load_recipe(tmp_path / "link/r.yaml").resolved()
    assert Path(resolved.data[0].card).samefile(card)


# --- extends


def test_extends_merges_sections_and_replaces_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", FULL)
    child = write(
        tmp_path / "child.yaml",
        "extends: base.yaml\nname: child\nadapter:\n  rank: 4\n  targets: auto\n"
        "data:\n  - card: other.yaml\ntrain:\n  epochs: null\n  steps: 9\npublish: null\n",
    )
    loaded = load_recipe(child)
    recipe = loaded.recipe
    assert (recipe.name, recipe.seed) == ("child", 17)
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.targets) == (4, 32, "auto")
    assert recipe.data == (DataSource(card="other.yaml"),)
    assert (recipe.train.epochs, recipe.train.steps, recipe.train.clip) == (None, 9, 1.0)
    assert recipe.publish is None
    origins = {dotted(path): str(origin) for path, origin in loaded.origins.items()}
    assert origins["name"] == "recipe child.yaml:2"
    assert origins["adapter.alpha"] == f"parent base.yaml:{line_of('alpha:')}"
    assert origins["adapter.targets"] == "recipe child.yaml:5"
    assert origins["data.0.share"] == "default"
    assert origins["train.epochs"] == "recipe child.yaml:9"
    assert origins["publish"] == "recipe child.yaml:11"


def test_paths_in_a_parent_stay_relative_to_the_parent(tmp_path: Path) -> None:
    write(tmp_path / "shared/bases/full.yaml", FULL)
    write(
        tmp_path / "shared/ko.yaml",
        "extends: bases/full.yaml\nevaluate:\n  texts:\n    - card: held/ko.yaml\n",
    )
    child = write(tmp_path / "runs/mine/r.yaml", "extends: ../../shared/ko.yaml\nname: mine\n")
    recipe = load_recipe(child).recipe
    assert [source.card for source in recipe.data] == [
        "../../shared/data_cards/ko.yaml",
        "../../shared/data_cards/en.yaml",
    ]
    assert recipe.evaluate.texts[0].card == "../../shared/held/ko.yaml"
    assert recipe.base.mirrors[0].folder == "../../shared/models/example"


def test_the_nearest_of_several_parents_wins(tmp_path: Path) -> None:
    write(tmp_path / "c.yaml", SHORT.replace("seed: 1", "seed: 3"))
    write(tmp_path / "b.yaml", "extends: c.yaml\nseed: 2\nadapter: {rank: 2, alpha: 2}\n")
    loaded = load_recipe(write(tmp_path / "a.yaml", "extends: b.yaml\nadapter: {rank: 1}\n"))
    assert (loaded.recipe.seed, loaded.recipe.adapter.rank, loaded.recipe.adapter.alpha) == (2, 1, 2)
    assert str(loaded.origins["seed",]) == "parent b.yaml:2"
    assert str(loaded.origins["method",]) == "parent c.yaml:4"


def test_a_mistake_in_a_parent_is_shown_in_the_parent(tmp_path: Path) -> None:
    parent = write(tmp_path / "base.yaml", SHORT.replace("train:\n", "train:\n  learing_rate: 1e-4\n"))
    child = write(tmp_path / "child.yaml", "extends: base.yaml\nadapter: {rank: 0}\nseed: x\n")
    found = mistakes(child)
    assert [(problem.file, problem.line, problem.path) for problem in found] == [
        (str(child), 2, "adapter.rank"),
        (str(child), 3, "seed"),
        (str(parent), 9, "train.learing_rate"),
    ]
    assert found[2].suggestion == "learning_rate"


def test_a_conflict_between_child_and_parent_says_how_to_take_back(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", SHORT)
    (problem,) = mistakes(write(tmp_path / "child.yaml", "extends: base.yaml\ntrain:\n  steps: 5\n"))
    assert (problem.path, problem.line) == ("train.steps", 3)
    assert "`epochs: null` drops one" in problem.message


def chain(folder: Path, parents: int) -> Path:
    for number in range(parents):
        write(folder / f"r{number}.yaml", f"extends: r{number + 1}.yaml\n")
    write(folder / f"r{parents}.yaml", SHORT)
    return folder / "r0.yaml"


def test_five_parents_and_no_more(tmp_path: Path) -> None:
    assert load_recipe(chain(tmp_path / "five", MAX_PARENTS)).recipe.name == "short"
    (problem,) = mistakes(chain(tmp_path / "six", MAX_PARENTS + 1))
    assert problem.file.endswith("r5.yaml")
    assert "longer than 5 files" in problem.message


EXTENDS = [
    ("extends: r.yaml", "a circle"),
    ("extends: ./../{here}/r.yaml", "a circle"),
    ("extends: other.yaml", "a circle"),
    ("extends: none.yaml", "there is no such file"),
    ("extends: .", "this is a folder"),
    ("extends: [a.yaml, b.yaml]", "the path of one other recipe"),
    ("extends: null", "the path of one other recipe"),
    ('extends: ""', "the path of one other recipe"),
    ('extends: "a\\0b"', "the path of one other recipe"),
]


@pytest.mark.parametrize(("line", "words"), EXTENDS, ids=[case[0] for case in EXTENDS])
def test_extends_that_leads_nowhere(tmp_path: Path, line: str, words: str) -> None:
    write(tmp_path / "other.yaml", "extends: r.yaml\n")
    path = write(tmp_path / "r.yaml", "name: x\n" + line.replace("{here}", tmp_path.name) + "\n")
    (problem,) = mistakes(path)
    assert words in problem.message
    assert problem.path == "extends"
    assert problem.line == (1 if "other" in line else 2)


def test_a_parent_that_is_not_yaml(tmp_path: Path) -> None:
    parent = write(tmp_path / "base.yaml", "a: [1\n")
    (problem,) = mistakes(write(tmp_path / "r.yaml", "extends: base.yaml\n"))
    assert (problem.file, problem.line) == (str(parent), 1)


def test_extends_belongs_to_the_top(tmp_path: Path) -> None:
    text = SHORT.replace("train:\n", "train:\n  extends: other.yaml\n")
    (problem,) = mistakes(write(tmp_path / "r.yaml", text))
    assert problem.path == "train.extends"


# --- --set


def test_set_reaches_sections_lists_and_what_is_not_there_yet(tmp_path: Path) -> None:
    path = write(tmp_path / "full.yaml", FULL)
    recipe = load_recipe(
        path,
        [
            "train.learning_rate=1e-4",
            "data.0.share=0.5",
            "data.1.share=0.5",
            "adapter.targets=[k_proj, o_proj]",
            "evaluate.prompts.0=안녕하세요?",
            "publish.to=dir:out",
            "publish.endpoint=null",
            "card.summary=a = b",
            "seed=1",
            "seed=2",
        ],
    ).recipe
    assert recipe.train.learning_rate == 1e-4
    assert [source.share for source in recipe.data] == [0.5, 0.5]
    assert recipe.adapter.targets == ("k_proj", "o_proj")
    assert recipe.evaluate.prompts[0] == "안녕하세요?"
    assert recipe.publish is not None
    assert (recipe.publish.to, recipe.publish.endpoint) == ("dir:out", None)
    assert (recipe.card.summary, recipe.seed) == ("a = b", 2)
    short = load_recipe(write(tmp_path / "s.yaml", SHORT), ["publish.to=dir:out", "train.run.device=cpu"])
    assert short.recipe.publish is not None
    assert str(short.origins["publish", "to"]) == "--set"
    assert str(short.origins["publish", "tag"]) == "default"


SETS = [
    ("train.learing_rate=1", "train.learing_rate", "unknown key", "train.learning_rate"),
    ("learning_rate=1e-4", "learning_rate", "belongs under `train`", "train.learning_rate"),
    ("trian.steps=1", "trian.steps", "unknown key", "train"),
    ("data.x.share=1", "data.x.share", "`data` is a list", None),
    ("data.1.share=1", "data.1.share", "`data` has 1 entries, counted from 0", None),
    ("evaluate.texts.0.card=x", "evaluate.texts.0.card", "has 0 entries", None),
    ("train.epochs.x=1", "train.epochs.x", "a single value and has no keys", None),
    ("data.0.card.x=1", "data.0.card.x", "a single value and has no keys", None),
    ("adapter.targets.0=q", "adapter.targets.0", "has 0 entries", None),
    ("train.steps", "train.steps", "expected KEY=VALUE", None),
    ("=3", "=3", "expected KEY=VALUE", None),
    ("train.steps=", "train.steps", "no value after `=`", None),
    ("train={epochs: 3}", "train", "set its keys one by one", None),
    ("seed=[1", "seed", "lacks a `,` or its `]`", None),
    ("seed=&x 1", "seed", "anchor", None),
    ("seed=x", "seed", "a plain whole number", None),
    ("train.epochs=2h", "train.epochs", "without a unit", None),
    ("train=null", "train", "a section", None),
    ("data.0=x", "data.0", "a section", None),
    ("train.steps=4", "train.steps", "exactly one of epochs", None),
    ("extends=x.yaml", "extends", "unknown key", None),
    ("data.-1.share=1", "data.-1.share", "`data` is a list", None),
    ("data.99999999999999999999.share=1", "data.99999999999999999999.share", "`data` is a list", None),
    (".=1", ".", "unknown key", None),
    ("card.title=\udcff", "card.title", "U+DCFF", None),
]


@pytest.mark.parametrize(
    ("override", "path", "words", "suggestion"), SETS, ids=[case[0][:20] for case in SETS]
)
def test_a_wrong_set(tmp_path: Path, override: str, path: str, words: str, suggestion: str | None) -> None:
    (problem,) = mistakes(write(tmp_path / "r.yaml", SHORT), override)
    assert (problem.file, problem.line) == ("--set", 0)
    assert problem.path.startswith(path)
    assert words in problem.message
    assert problem.suggestion == suggestion


def test_file_and_set_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", SHORT.replace("seed: 1", "sede: 1"))
    found = mistakes(path, "train.learing_rate=1", "adapter.rank=0")
    assert [problem.path for problem in found] == ["sede", "train.learing_rate", "adapter.rank"]


def test_set_on_a_file_that_is_not_yaml_reports_the_file(tmp_path: Path) -> None:
    (problem,) = mistakes(write(tmp_path / "r.yaml", "- a\n"), "data.0.share=0.5")
    assert problem.line == 1


# --- round trip, hash, lock

TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: re.search(r"\S", text) is not None)
FILES = st.sampled_from(
    ["ko.yaml", "a b.yaml", "한국어.yaml", "up/x.yaml", "yes", "1e4", "#.yaml", "- x.yaml"]
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe the schema allows, within reason."""
    quantised = draw(st.booleans())
    cards = draw(st.lists(FILES, min_size=1, max_size=4, unique=True))
    held_out = draw(st.lists(FILES.map(lambda name: f"held/{name}"), max_size=3, unique=True))
    shares = draw(st.sampled_from([[None] * len(cards), [1 / len(cards)] * len(cards)]))
    length = draw(st.sampled_from(["epochs", "steps", "tokens"]))
    values = {
        "name": draw(st.sampled_from(["a", "1e-4", "no", "0x1f", "2026-11-22", "run_1.b"])),
        "language": draw(st.sampled_from(["ko", "ar", "zh-Hant", "no", "sr-Latn-RS"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "method": draw(st.sampled_from(["sft", "cpt"])),
        "base": {
            "model": "org/model",
            "revision": draw(st.sampled_from(["main", "0123456", "12e4567", "3f1c0de", "null", "~x"])),
            "licence": draw(TEXTS),
            "licence_link": "https://example.org",
            "quantisation": {"kind": "nf4" if quantised else "none", "double": draw(st.booleans())},
        },
        "adapter": {
            "kind": "qlora" if quantised else "lora",
            "rank": draw(st.integers(1, 1024)),
            "alpha": draw(st.floats(min_value=0, max_value=4096, exclude_min=True)),
            "targets": draw(st.just("auto") | st.lists(TEXTS, min_size=1, max_size=3, unique=True)),
        },
        "data": [{"card": card, "share": share} for card, share in zip(cards, shares, strict=True)],
        "train": {
            length: draw(st.integers(1, 1000)),
            "learning_rate": draw(st.floats(min_value=0, max_value=0.05, exclude_min=True)),
        },
        "evaluate": {
            "texts": [{"card": card} for card in held_out],
            "prompts": draw(st.lists(TEXTS, max_size=3)),
        },
        "card": {
            "licence": draw(TEXTS),
            "title": draw(st.none() | TEXTS),
            "limitations": draw(st.lists(TEXTS, max_size=2)),
        },
        "publish": draw(st.sampled_from([None, {"to": "dir:out dir", "tag": "v1"}])),
    }
    return Recipe.model_validate(values)


def test_recipe_to_yaml_to_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"

    @examples
    @given(recipes())
    def check(recipe: Recipe) -> None:
        path.write_text(to_yaml(recipe), encoding="utf-8")
        assert load_recipe(path).recipe == recipe

    check()


def test_the_full_recipe_survives_too(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "full.yaml", FULL)).recipe
    assert load_recipe(write(tmp_path / "again.yaml", to_yaml(recipe))).recipe == recipe


def shuffled(value: object, draw: st.DataObject) -> object:
    if isinstance(value, dict):
        order = draw.draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in order}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


def test_hash_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    original = recipe_hash(load_recipe(write(tmp_path / "full.yaml", FULL)).recipe)
    values = parse_yaml(FULL, "full.yaml").values

    @examples
    @given(st.data())
    def check(draw: st.DataObject) -> None:
        path = tmp_path / "shuffled.yaml"
        path.write_text(
            json.dumps(shuffled(values, draw), ensure_ascii=False), encoding="utf-8"
        )  # JSON is YAML
        assert recipe_hash(load_recipe(path).recipe) == original

    check()


def test_hash_sees_every_value_and_no_place(tmp_path: Path) -> None:
    hashes = {recipe_hash(load_recipe(write(tmp_path / "full.yaml", FULL)).recipe)}
    moved = load_recipe(write(tmp_path / "elsewhere/deeper/full.yaml", FULL)).recipe
    assert recipe_hash(moved) in hashes
    spelt = (
        FULL.replace("seed: 17", "seed: 0x11").replace("alpha: 32", "alpha: 32.0").replace("2e-4", "0.0002")
    )
    assert recipe_hash(load_recipe(write(tmp_path / "spelt.yaml", spelt)).recipe) in hashes
    for override in ("seed=18", "train.clip=2", "data.0.repeat=3", "card.title=x", "data.0.card=x.yaml"):
        hashes.add(recipe_hash(load_recipe(tmp_path / "full.yaml", [override]).recipe))
    assert len(hashes) == 6


def test_the_lock_reads_back_and_holds_no_local_path(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path / "full.yaml", FULL))
    facts = {"sovtune": "0.1.0", "base": {"content_sha256": "ab" * 32}, "data": [{"card": "ko", "files": {}}]}
    text = lock_text(loaded, facts)
    lock = read_yaml(write(tmp_path / "recipe.lock.yaml", text))
    assert not lock.problems
    assert lock.values is not None
    assert lock.values["facts"] == facts
    assert lock.values["recipe"]["train"] == loaded.recipe.train.model_dump(mode="json")
    assert lock.values["recipe"]["data"][0]["card"] == "ko.yaml"
    for left_out in (str(tmp_path), "..", "hub.example.org", "models/example", "SOVTUNE_HUB_TOKEN"):
        assert left_out not in text
    assert lock_text(load_recipe(tmp_path / "full.yaml"), facts) == text


def test_the_lock_changes_with_the_work_and_not_with_the_target(tmp_path: Path) -> None:
    path = write(tmp_path / "full.yaml", FULL)

    def lock(*overrides: str) -> str:
        return lock_text(load_recipe(path, overrides), {})

    assert lock("publish.tag=v9", "publish.to=dir:out", "publish.endpoint=null") == lock()
    assert lock("base.mirrors=[]") == lock()
    assert lock("train.clip=2") != lock()
    digest = "recipe_sha256: "
    assert lock("seed=1").splitlines()[1].startswith(digest)
    assert lock("seed=1").splitlines()[1] != lock().splitlines()[1]


# --- an unknown key anywhere

NAMES = {name for _, _, path in keys() for name in path}
STRANGERS = st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(
    lambda name: name not in NAMES | {"extends"}
)


def test_an_unknown_key_anywhere_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    lines = FULL.splitlines()

    @examples
    @given(STRANGERS, st.sampled_from(keys()))
    def check(stranger: str, neighbour: tuple[int, int, KeyPath]) -> None:
        line, column, at = neighbour
        dash = lines[line - 1][: column - 1].strip()  # the first key of a list entry stands behind its dash
        where = line if dash else line - 1
        text = [*lines[:where], " " * (column - 1) + f"{stranger}: 1", *lines[where:]]
        path.write_text("\n".join(text), encoding="utf-8")
        (problem,) = check_recipe(path)
        assert problem.path == dotted((*at[:-1], stranger))
        assert (problem.line, problem.column) == (where + 1, column)
        assert problem.message.startswith("unknown key")

    # A stranger between an entry's first key and that key's own block would split the block; FULL has none.
    check()


# --- the schema as a whole

FIELDS = {
    "Mirror": "folder hub wheel file sha256",
    "Quantisation": "kind double compute skip",
    "Base": "model revision content_sha256 mirrors licence licence_link quantisation",
    "Adapter": "kind rank alpha dropout targets dora rslora init layers rank_pattern vocabulary continue_from",
    "DataSource": "card share split max_rows on_bad_row repeat",
    "Rows": "max_length packing overlong",
    "Run": "engine gradient_checkpointing checkpoint_steps keep_checkpoints micro_rows device out_of_memory trackers",
    "Finer": "optimizer lora_plus decay label_smoothing z_loss neftune",
    "Train": "epochs steps tokens batch_tokens learning_rate schedule warmup weight_decay clip finer rows run",
    "Mix": "languages tolerance",
    "Override": "refusal name reason",
    "Preference": "beta margin label_smoothing sft_weight desirable_weight undesirable_weight",
    "Distil": "teacher weight temperature top",
    "Launch": "processes nodes strategy data_engine data_workers ray_address time_limit partition account accelerators "
    "storage setup",
    "HeldOut": "card role max_documents",
    "Curate": "check_language min_language_share tashkeel tatweel visual_order chinese quality duplicates "
    "duplicate_threshold personal_data secrets contamination",
    "Evaluate": "texts pairs prompts max_new_tokens max_length fail_if_replay_rises fail_if_target_falls_less",
    "Card": "licence title summary intended_use out_of_scope limitations contact licence_policy overrides",
    "Publish": "to endpoint tag private token_env",
    "Recipe": "schema_version name language seed method base adapter data mix curate train preference distil launch evaluate card "
    "publish",
}


def all_sections(kind: type = Recipe) -> dict[str, type]:
    found = {kind.__name__: kind}
    for field in kind.model_fields.values():
        for below in sections_in(field.annotation):
            found |= all_sections(below)
    return found


def test_the_fields_of_every_section() -> None:
    """People have recipes with these names; to rename one is to break their files."""
    assert {name: " ".join(kind.model_fields) for name, kind in all_sections().items()} == FIELDS
    sections = {name: names.split() for name, names in FIELDS.items()}
    assert all(len(names) <= 12 for name, names in sections.items() if name != "Recipe")
    assert len(sections["Recipe"]) == 17  # its table of contents: every section, and five words of its own


def test_every_field_is_documented_and_every_pattern_has_words() -> None:
    from sovtune.schema_walk import hints_at

    for kind in all_sections().values():
        assert list(descriptions(kind)) == list(kind.model_fields), kind
        properties = kind.model_json_schema()["properties"]
        for name in kind.model_fields:
            if re.search(r'"pattern": "\^', json.dumps(properties[name])):
                assert hints_at(kind, (name,)).form, f"{kind.__name__}.{name}"


def test_reference_and_json_schema_are_fresh(root: Path) -> None:
    command = [sys.executable, str(root / "scripts/make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_json_schema_knows_every_section_and_extends(root: Path) -> None:
    schema = json.loads((root / "src/sovtune/recipe.schema.json").read_text(encoding="utf-8"))
    parts = schema["$defs"]
    assert schema["then"] == {"$ref": "#/$defs/RecipePart"}
    assert "extends" in parts["RecipePart"]["properties"]
    assert "extends" not in parts["Recipe"]["properties"]
    for name, fields in FIELDS.items():
        assert list(parts[name]["properties"]) == fields.split()
        assert parts[name]["additionalProperties"] is False
    assert "required" not in parts["RecipePart"]
    assert parts["RecipePart"]["properties"]["base"]["$ref"] == "#/$defs/BasePart"
    assert "required" not in parts["BasePart"]
    assert parts["RecipePart"]["properties"]["data"]["items"] == {"$ref": "#/$defs/DataSource"}
    assert parts["DataSource"]["required"] == ["card"]


def test_shipped_recipes_are_right_and_name_the_schema(root: Path) -> None:
    shipped = sorted((root / "recipes").glob("*.yaml"))
    assert shipped
    for path in shipped:
        assert check_recipe(path) == []
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=../src/sovtune/recipe.schema.json"


def test_loading_is_light_and_quick() -> None:
    program = (
        "import sys, time; start = time.process_time(); import sovtune.recipe_file; "
        "print(time.process_time() - start); print(*sys.modules)"
    )
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        first, _, modules = done.stdout.partition("\n")
        seconds.append(float(first))
        heavy = {"torch", "transformers", "peft", "trl", "datasets", "pyarrow", "numpy", "huggingface_hub"}
        assert not heavy & set(modules.split())
    assert min(seconds) < 0.25, seconds  # processor time: other work on the machine does not count


def test_a_recipe_given_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "r.yaml", SHORT.replace("seed: 1", "seed: x"))
    monkeypatch.chdir(tmp_path)
    (problem,) = check_recipe(Path("r.yaml"))
    assert problem.file == "r.yaml"
    assert os.sep not in str(problem).split(" ")[0]
