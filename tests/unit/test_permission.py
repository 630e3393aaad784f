"""Rights, licences and audiences together: every refusal has an id, a place, and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_records import make_recipe

from sovtune.data.card import LoadedCard, load_card
from sovtune.data.permission import Permission, enforce, examine
from sovtune.errors import CardError, LicenceRefused, RecipeError
from sovtune.recipe import Recipe

HUB = {"to": "hub:demo-org/quickstart-ko", "endpoint": "https://hub.example.org"}
PUBLIC = {"to": "hub:demo-org/quickstart-ko", "endpoint": "https://huggingface.co"}
SYNTHETIC = {
    "synthetic_share": 1.0,
    "annotation": {"by": "a model"},
    "sources": [
        {"kind": "synthetic", "name": "answers", "generator": {"model": "org/m", "terms": "see url"}}
    ],
}


def generator(**values: str) -> dict[str, Any]:
    source = {**SYNTHETIC["sources"][0], "generator": {"model": "org/m", "terms": "see url", **values}}
    return {**SYNTHETIC, "sources": [source]}


def card(folder: Path, name: str = "letters", **changes: Any) -> LoadedCard:
    """A data card; mappings among the changes are laid over those of the card."""
    values: dict[str, Any] = {
        "schema_version": 1, "id": name, "version": "1", "title": "letters",
        "files": [{"path": "a.jsonl", "sha256": "0" * 64, "rows": 2}],
        "languages": [{"tag": "ko", "share": 1.0}],
        "licence": {"expression": "CC-BY-4.0"},
        "rights": {"basis": "licence", "training": "yes"},
        "sources": [{"kind": "government", "name": "city"}],
        "personal_data": {"contains": "none"},
        "sensitivity": "public",
        "contact": "team",
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return load_card(path)


def recipe(
    licence: str = "Apache-2.0", *, publish: object = None, language: str = "ko", **values: Any
) -> Recipe:
    base = {"model": "org/base", "revision": "main", "licence": "Apache-2.0", "quantisation": {"kind": "nf4"}}
    for key in ("base_licence", "policy"):
        values.setdefault(key, None)
    if values["base_licence"]:
        base |= {"licence": values["base_licence"], "licence_link": "https://example.org/licence"}
    section = {"licence": licence, "overrides": values.get("overrides", [])}
    if values["policy"]:
        section["licence_policy"] = values["policy"]
    name = values.get("name", "quickstart-ko")
    return make_recipe(card=section, publish=publish, language=language, base=base, name=name)


def ids(permission: Permission) -> list[str]:
    return [problem.id for problem in permission.verdicts.refused]


LETTER = {
    "licence": {"expression": "LicenseRef-Permission"},
    "rights": {"basis": "permission", "agreement": "l.txt"},
}
RULES: list[tuple[str, dict[str, Any], dict[str, Any], list[str], bool]] = [
    ("nothing to say", {}, {}, [], True),
    ("no right to train", {"rights": {"training": "no"}}, {}, ["letters.training"], True),
    ("nobody knows", {"rights": {"training": "unknown"}}, {}, ["letters.training"], True),
    ("the right has ended", {"rights": {"expires": "2020-02-29"}}, {}, ["letters.expired"], True),
    ("the right holds", {"rights": {"expires": "2999-01-01"}}, {}, [], True),
    ("non-commercial licence", {"licence": {"expression": "CC-BY-NC-4.0"}}, {}, ["letters.non-commercial"], True),
    ("kept non-commercial", {"licence": {"expression": "CC-BY-NC-4.0"}}, {"licence": "CC-BY-NC-4.0"}, [], True),
    ("non-commercial right", {"rights": {"commercial": "no"}}, {}, ["letters.non-commercial"], True),
    ("right kept", {"rights": {"commercial": "no"}}, {"licence": "CC-BY-NC-4.0"}, [], True),
    ("no derivatives", {"licence": {"expression": "KOGL-3"}}, {}, ["letters.no-derivatives"], True),
    ("share-alike", {"licence": {"expression": "CC-BY-SA-4.0"}}, {}, ["letters.share-alike"], False),
    ("unknown licence", {"licence": {"expression": "LicenseRef-Acme", "link": "https://example.org"}}, {},
     ["letters.unknown-licence"], False),
    ("credit promised to nobody", {}, {"licence": "CC0-1.0"},
     ["base.attribution", "letters.attribution"], False),
    ("letter silent on commerce", LETTER, {}, ["letters.commercial-unknown"], False),
    ("letter allows commerce", {**LETTER, "rights": {**LETTER["rights"], "commercial": "yes"}}, {}, [], True),
    ("unknown base", {}, {"base_licence": "LicenseRef-Acme"}, ["base.unknown-licence"], False),
    ("base goes along", {}, {"base_licence": "gemma"}, ["base.licence-left-out"], True),
    ("data whose licence goes along", {"licence": {"expression": "llama3.1"}}, {}, ["letters.licence-left-out"], False),
    ("base names", {}, {"base_licence": "llama3.1", "licence": "llama3.1"}, ["base.name"], True),
    ("base not in Korea", {}, {"base_licence": "LicenseRef-Hunyuan", "licence": "LicenseRef-Hunyuan",
                               "language": "ko-KR"}, ["base.territory"], True),
    ("Korean without a place", {}, {"base_licence": "LicenseRef-Hunyuan", "licence": "LicenseRef-Hunyuan"},
     ["base.territory"], False),
    ("generator says no", generator(training="no"), {}, ["letters.generator-terms"], True),
    ("generator says yes", generator(training="yes", terms="unknown"), {}, [], True),
    ("generator not declared", generator(terms="Unknown."), {}, ["letters.generator-terms"], False),
    ("generator asked, no answer", generator(training="unknown"), {}, ["letters.generator-terms"], False),
    ("generator under a licence that forbids", generator(terms="LicenseRef-Hunyuan"), {},
     ["letters.generator-terms"], True),
    ("generator under a licence that binds", generator(terms="llama3.1"), {}, ["letters.generator-name"], True),
    ("its name is kept", generator(terms="llama3.1"), {"name": "llama-ko"}, [], True),
    ("outputs not for commerce", generator(terms="LicenseRef-EXAONE-NC"), {"name": "exaone-ko"},
     ["letters.generator-non-commercial"], True),
    ("internal, public repository", {"sensitivity": "internal"}, {"publish": {**HUB, "private": False}},
     ["letters.sensitivity"], True),
    ("internal, private repository", {"sensitivity": "internal"}, {"publish": PUBLIC}, [], True),
    ("public, public repository", {}, {"publish": {**PUBLIC, "private": False}}, [], True),
    ("restricted, public Hub", {"sensitivity": "restricted"}, {"publish": PUBLIC}, ["letters.sensitivity"], True),
    ("restricted, own Hub", {"sensitivity": "restricted"}, {"publish": HUB}, [], True),
    ("restricted, folder", {"sensitivity": "restricted"}, {"publish": {"to": "dir:out"}}, [], True),
    ("stays in Korea, own Hub", {"residency": {"allowed_regions": ["KR"]}}, {"publish": HUB},
     ["letters.residency"], False),
    ("stays in Korea, public Hub", {"residency": {"allowed_regions": ["KR"]}}, {"publish": PUBLIC},
     ["letters.residency"], True),
    ("stays in Korea, folder", {"residency": {"allowed_regions": ["KR"]}}, {"publish": {"to": "dir:out"}}, [], True),
    ("may leave Korea", {"residency": {"allowed_regions": ["KR"], "export": True}}, {"publish": PUBLIC}, [], True),
]  # fmt: skip
"""What it is about, the card, the recipe, ids refused under strict, whether advisory refuses them too."""


@pytest.mark.parametrize(
    ("about", "states", "asks", "refused", "settled"), RULES, ids=[rule[0] for rule in RULES]
)
def test_each_rule_under_both_policies(
    tmp_path: Path,
    about: str,
    states: dict[str, Any],
    asks: dict[str, Any],
    refused: list[str],
    settled: bool,
) -> None:
    cards = [card(tmp_path, **states)]
    assert ids(examine(recipe(**asks), cards)) == refused, about
    advisory = examine(recipe(**asks, policy="advisory"), cards)
    assert ids(advisory) == (refused if settled else [])
    assert len(advisory.questions()) == (0 if settled else len(refused))


@pytest.mark.parametrize(
    ("about", "states", "asks", "refused", "settled"), RULES, ids=[rule[0] for rule in RULES]
)
def test_a_person_may_answer_for_each_but_for_a_clear_no(
    tmp_path: Path,
    about: str,
    states: dict[str, Any],
    asks: dict[str, Any],
    refused: list[str],
    settled: bool,
) -> None:
    cards = [card(tmp_path, **states)]
    made = [{"refusal": name, "name": "legal office", "reason": "they agreed"} for name in refused]
    answered = recipe(**asks, overrides=made)
    if states.get("rights", {}).get("training") == "no":
        with pytest.raises(RecipeError, match=r"nobody can overrule `letters\.training`"):
            examine(answered, cards)
        return
    permission = enforce(answered, cards)
    assert [(one.refusal, one.name, one.reason) for one in permission.decisions()] == [
        (name, "legal office", "they agreed") for name in refused
    ]
    assert permission.overruled() == set(refused), about
    assert all(one.question for one in permission.decisions())


def test_a_refusal_names_its_place_its_id_and_the_lines_that_overrule_it(tmp_path: Path) -> None:
    loaded = card(tmp_path, licence={"expression": "CC-BY-NC-4.0"}, sensitivity="restricted")
    with pytest.raises(LicenceRefused) as caught:
        enforce(recipe(publish=PUBLIC, base_licence="LicenseRef-Acme"), [loaded])
    told = str(caught.value)
    assert caught.value.exit_code == 4
    assert "3 things are not allowed" in told
    assert f"{loaded.path}:13:15: licence.expression: data letters (CC-BY-NC-4.0)" in told
    assert "recipe: base.licence: the base model" in told
    assert "[letters.non-commercial]" in told
    lines = [line for line in told.split("\n    ")[1:] if "show it" not in line]
    overrides = yaml.safe_load("\n".join(lines))["card"]["overrides"]
    assert [one["refusal"] for one in overrides] == [
        "base.unknown-licence", "letters.non-commercial", "letters.sensitivity",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="placeholder"):  # copied, but nobody has decided
        examine(recipe(publish=PUBLIC, base_licence="LicenseRef-Acme", overrides=overrides), [loaded])
    for one in overrides:
        one.update(name="legal office", reason="they agreed")
    enforce(recipe(publish=PUBLIC, base_licence="LicenseRef-Acme", overrides=overrides), [loaded])


def override(refusal: str, name: str = "office", reason: str = "they agreed") -> dict[str, str]:
    return {"refusal": refusal, "name": name, "reason": reason}


@pytest.mark.parametrize(
    ("overrides", "path", "says"),
    [
        ([override("letters.share-alke")], "card.overrides.0.refusal", "no refusal has the id"),
        ([override("base.share-alike")], "card.overrides.0.refusal", "there is `letters.share-alike`"),
        ([override("letters.share-alike")] * 2, "card.overrides.1.refusal", "overruled twice"),
        (
            [override("letters.share-alike", reason="WHY, FOR THE MODEL CARD")],
            "card.overrides.0.reason",
            "placeholder",
        ),
        ([override("letters.share-alike", name="TODO")], "card.overrides.0.name", "placeholder"),
    ],
)
def test_an_override_that_overrules_nothing_is_a_mistake(
    tmp_path: Path, overrides: Sequence[dict[str, str]], path: str, says: str
) -> None:
    loaded = card(tmp_path, licence={"expression": "CC-BY-SA-4.0"})
    with pytest.raises(RecipeError) as caught:
        examine(recipe(overrides=list(overrides)), [loaded])
    (problem,) = caught.value.problems
    assert says in problem.message
    assert path in str(problem)
    assert problem.suggestion == (
        "letters.share-alike" if "share-al" in says or "no refusal" in says else None
    )


def test_an_override_also_answers_what_the_policy_would_let_pass(tmp_path: Path) -> None:
    loaded = card(tmp_path, licence={"expression": "CC-BY-SA-4.0"})
    made = [override("letters.share-alike", name="WHO regional office")]  # a name, no placeholder
    permission = enforce(recipe(policy="advisory", overrides=made), [loaded])
    assert permission.questions() == ()
    assert [one.refusal for one in permission.decisions()] == ["letters.share-alike"]


def test_an_answer_about_a_hub_does_not_tell_its_address(tmp_path: Path) -> None:
    loaded = card(tmp_path, residency={"allowed_regions": ["KR"]})
    made = [override("letters.residency", reason="the Hub stands in Daejeon")]
    (decision,) = enforce(recipe(publish=HUB, overrides=made), [loaded]).decisions()
    (question,) = examine(recipe(publish=HUB, policy="advisory"), [loaded]).questions()
    assert decision.question.startswith("data letters may not leave KR")
    assert HUB["endpoint"] not in decision.question + question
    other = {**HUB, "endpoint": "https://hub.example.com"}
    assert (
        enforce(recipe(publish=other, overrides=made), [loaded]).decisions()[0].question != decision.question
    )


def test_cards_with_one_id_cannot_be_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cards = [card(tmp_path), card(tmp_path / "other")]
    with pytest.raises(CardError, match=r"other/letters\.yaml:2:5: id: `letters` is also the id of"):
        examine(recipe(), cards)
    examine(recipe(), [cards[0], cards[0]])  # two splits of one card
    with pytest.raises(CardError, match="the id of the base model"):
        examine(recipe(), [card(tmp_path, "base")])


def test_the_way_out_names_a_licence_that_would_do(tmp_path: Path) -> None:
    loaded = card(tmp_path, licence={"expression": "CC-BY-NC-SA-4.0"})
    assert "card.licence: CC-BY-NC-SA-4.0 keeps" in examine(recipe(), [loaded]).ways_out()
    both = [loaded, card(tmp_path, "news", licence={"expression": "CC-BY-SA-4.0"})]
    assert "no one licence keeps" in examine(recipe(), both).ways_out()
    closed = card(tmp_path, "city", sensitivity="restricted")
    assert (
        "card.licence"
        not in examine(recipe(publish=PUBLIC), [closed]).ways_out().split("overrides")[0].split("\n")[0]
    )
