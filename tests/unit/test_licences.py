"""Licences: expressions are read, constraints unite, and promises beyond them are found."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.licence_promises import LicenceProblem, problems, proposed_licence
from sovtune.licence_table import HUB_LICENCES, TERMS
from sovtune.licences import (
    CardAsks,
    HubLicence,
    hub_licence,
    licence_keys,
    licence_link,
    obligations,
    parse_expression,
    terms_of,
)

KEYS = [
    *sorted(TERMS),
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-NC-ND-4.0",
    "LicenseRef-Acme",
]


def found(
    result: str, base: str = "Apache-2.0", *, name: str = "ko-helper", language: str = "ko", **data: str
) -> tuple[LicenceProblem, ...]:
    return problems(result, base_licence=base, data_licences=data, name=name, language=language)


def kinds(list_of: tuple[LicenceProblem, ...], *, settled: bool = True) -> set[str]:
    return {problem.constraint for problem in list_of if problem.settled is settled}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("cc-by-4.0 and mit", "CC-BY-4.0 AND MIT"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("CC0", "CC0-1.0"),
        ("kogl-1", "LicenseRef-KOGL-1"),
        ("KOGL Type 4", "LicenseRef-KOGL-4"),
        ("llama3.1", "LicenseRef-Llama-3.1"),
        ("LicenseRef-Acme.Data-1 OR (mit and cc0-1.0)", "LicenseRef-Acme.Data-1 OR (MIT AND CC0-1.0)"),
        ("GPL-2.0-or-later with classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"),
    ],
)
def test_expressions_get_their_usual_spelling(text: str, expected: str) -> None:
    assert parse_expression(text) == expected
    assert parse_expression(expected) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apache2", "`Apache-2.0`"),
        ("CC-BY-4", "`CC-BY-4.0`"),
        ("KOGL", "`LicenseRef-KOGL-"),
        ("NOASSERTION", "unknown licence"),
        ("  ", "empty"),
        ("(MIT", "not an SPDX licence expression"),
        ("mit apache-2.0", "not an SPDX licence expression"),
        ("MIT WITH MIT", "not an SPDX licence expression"),
        ("MIT AND", "not an SPDX licence expression"),
        ("MIT/Apache-2.0", "not an SPDX licence expression"),
        ("공공누리", "unknown licence"),
    ],
)
def test_what_is_no_licence_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_expression(text)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([" AND ", " OR "])), min_size=1, max_size=5))
def test_parsing_is_idempotent_and_case_does_not_matter(parts: list[tuple[str, str]]) -> None:
    text = "".join(key + operator for key, operator in parts)[: -len(parts[-1][1])]
    once = parse_expression(text)
    assert parse_expression(once) == once
    lowered = parse_expression(text.lower()).lower()
    assert lowered == once.lower()
    assert set(licence_keys(text)) <= {key for key, _ in parts}


def test_an_or_binds_by_its_lightest_choice_and_an_and_by_all() -> None:
    assert licence_keys("GPL-3.0-only OR MIT") == ("MIT",)
    assert licence_keys("CC-BY-NC-4.0 OR CC-BY-4.0") == ("CC-BY-4.0",)
    assert licence_keys("LicenseRef-Acme OR CC-BY-SA-4.0") == ("CC-BY-SA-4.0",)
    assert licence_keys("MIT AND CC-BY-4.0 AND MIT") == ("MIT", "CC-BY-4.0")
    assert licence_keys("GPL-2.0-or-later WITH Classpath-exception-2.0") == ("GPL-2.0-or-later",)


def test_creative_commons_elements_are_read_from_the_name() -> None:
    share = terms_of("CC-BY-NC-SA-3.0")
    assert share is not None
    assert not share.commercial
    assert share.derivatives
    assert share.share_alike == ("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0")
    ported = terms_of("CC-BY-3.0-AU")
    assert ported is not None
    assert ported.hub is None
    assert ported.commercial
    none = terms_of("CC-BY-ND-4.0")
    assert none is not None
    assert not none.derivatives
    assert terms_of("LicenseRef-Acme") is None


def test_every_row_of_the_table_is_a_known_licence_with_known_targets() -> None:
    for key, terms in TERMS.items():
        assert parse_expression(key) == key
        assert all(parse_expression(name) == key for name in terms.names)
        assert all(parse_expression(other) == other for other in terms.share_alike)
        assert terms.hub is None or terms.hub in HUB_LICENCES


def test_obligations_unite_base_and_data_and_name_who_asks() -> None:
    union = obligations(
        "llama3.1", {"news": "CC-BY-SA-4.0", "law": "KOGL-2", "letters": "CC-BY-SA-4.0", "x": "CC0-1.0"}
    )
    assert next(item.constraint for item in union.items) == "commercial"
    [limit, forbidden] = union.of("commercial")
    assert "700 million" in limit.text
    assert forbidden.because == ("data law: LicenseRef-KOGL-2",)
    [credit] = union.of("attribution")
    assert credit.because == (
        "data news: CC-BY-SA-4.0",
        "data law: LicenseRef-KOGL-2",
        "data letters: CC-BY-SA-4.0",
    )
    assert {item.text for item in union.of("naming")} == {
        "the name of a derived model begins with `Llama`",
        "show the words `Built with Llama`",
    }
    assert "data news: CC-BY-SA-4.0; data letters: CC-BY-SA-4.0" in str(union.of("share_alike")[0])
    assert not any("data x" in who for item in union.items for who in item.because)
    assert obligations("CC0-1.0", {"x": "CC0-1.0"}).items == ()


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.sampled_from(KEYS), st.dictionaries(st.sampled_from("abcd"), st.sampled_from(KEYS), max_size=3))
def test_more_sources_never_ask_less(base: str, data: dict[str, str]) -> None:
    alone = {(item.constraint, item.text) for item in obligations(base, {}).items}
    union = {(item.constraint, item.text) for item in obligations(base, data).items}
    assert alone <= union


def test_honest_results_have_no_problems() -> None:
    assert found("Apache-2.0") == ()
    assert found("Apache-2.0", a="CC-BY-4.0", b="CC0-1.0", c="KOGL-1") == ()
    assert found("CC-BY-NC-4.0", a="KOGL-2") == ()
    assert found("CC-BY-SA-4.0", a="CC-BY-SA-3.0") == ()
    assert found("llama3.1", "llama3.1", name="llama-3.1-ko") == ()
    assert found("LicenseRef-Acme", "LicenseRef-Acme") == ()
    assert found("Apache-2.0 AND LicenseRef-Acme", letter="LicenseRef-Acme") == ()


def test_promises_beyond_the_sources_are_refused() -> None:
    assert kinds(found("apache-2.0", a="CC-BY-NC-4.0")) == {"commercial"}
    assert kinds(found("apache-2.0", a="KOGL-4")) == {"commercial", "derivatives"}
    assert kinds(found("CC-BY-ND-4.0", a="CC-BY-ND-4.0")) == {"derivatives"}
    assert kinds(found("MIT", "CC-BY-SA-4.0")) == {"share_alike"}
    assert kinds(found("MIT", "gemma")) == {"use_restrictions"}
    exaone = found("Apache-2.0", "LicenseRef-EXAONE-NC", name="ko-helper")
    assert kinds(exaone) == {"commercial", "use_restrictions", "naming"}
    [naming] = [problem for problem in exaone if problem.constraint == "naming"]
    assert "`EXAONE`" in naming.message
    assert "EXAONE-ko-helper" in naming.fix


def test_the_name_may_be_spelt_with_hyphens_and_any_case() -> None:
    seed = "LicenseRef-HyperCLOVAX-SEED"
    assert kinds(found(seed, seed, name="hyperclova-x-law")) == set()
    assert kinds(found(seed, seed, name="law-hyperclova-x")) == {"naming"}


def test_a_territory_is_certain_with_a_region_and_a_warning_without() -> None:
    tencent = "LicenseRef-Hunyuan"
    assert kinds(found(tencent, tencent, language="ko-KR")) == {"territory"}
    assert kinds(found(tencent, tencent, language="ko"), settled=False) == {"territory"}
    assert kinds(found(tencent, tencent, language="de-DE")) == {"territory"}
    assert found(tencent, tencent, language="ar") == ()
    assert found(tencent, tencent, language="ko-JP") == ()


def test_what_the_law_leaves_open_is_a_warning() -> None:
    assert kinds(found("Apache-2.0", a="CC-BY-SA-4.0")) == set()
    assert kinds(found("Apache-2.0", a="CC-BY-SA-4.0"), settled=False) == {"share_alike"}
    assert kinds(found("Apache-2.0", letter="LicenseRef-Letter"), settled=False) == {"unreviewed"}
    assert kinds(found("MIT", "LicenseRef-Acme"), settled=False) == {"unreviewed"}
    assert kinds(found("CC0-1.0", a="CC-BY-4.0"), settled=False) == {"attribution"}
    assert kinds(found("LicenseRef-Acme", a="CC-BY-NC-4.0"), settled=False) == {"commercial"}


@pytest.mark.parametrize(
    ("base", "data", "expected"),
    [
        ("Apache-2.0", {}, "Apache-2.0"),
        ("Apache-2.0", {"a": "CC-BY-4.0", "b": "KOGL-1"}, "Apache-2.0"),
        ("CC0-1.0", {"a": "CC-BY-4.0"}, "Apache-2.0"),
        ("Apache-2.0", {"a": "CC-BY-SA-3.0"}, "CC-BY-SA-3.0"),
        ("Apache-2.0", {"a": "CC-BY-SA-3.0", "b": "CC-BY-SA-4.0"}, "CC-BY-SA-4.0"),
        ("Apache-2.0", {"a": "KOGL-2"}, "CC-BY-NC-4.0"),
        ("llama3.1", {"a": "CC-BY-NC-4.0"}, "CC-BY-NC-4.0 AND LicenseRef-Llama-3.1"),
        ("llama3.1", {"a": "MIT"}, "LicenseRef-Llama-3.1"),
        ("Apache-2.0", {"a": "LicenseRef-Acme"}, "Apache-2.0 AND LicenseRef-Acme"),
        ("LicenseRef-EXAONE-NC", {"a": "CC-BY-NC-4.0"}, "LicenseRef-EXAONE-NC"),
        ("Apache-2.0", {"a": "CC-BY-SA-4.0", "b": "CC-BY-NC-4.0"}, None),  # free for all, and not
        ("Apache-2.0", {"a": "KOGL-3"}, None),
    ],
)
def test_the_licence_proposed_keeps_what_all_ask(
    base: str, data: dict[str, str], expected: str | None
) -> None:
    assert proposed_licence(base, data) == expected
    if expected is not None:
        left = problems(expected, base_licence=base, data_licences=data, name="Llama-EXAONE", language="en")
        assert [problem.word for problem in left if problem.word != "name"] == []


def test_a_right_outside_the_licence_may_forbid_commerce() -> None:
    assert proposed_licence("Apache-2.0", {"a": "MIT"}, non_commercial=True) == "CC-BY-NC-4.0"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.sampled_from(KEYS), st.dictionaries(st.sampled_from("abc"), st.sampled_from(KEYS), max_size=3))
def test_what_is_proposed_has_no_problem(base: str, data: dict[str, str]) -> None:
    proposed = proposed_licence(base, data)
    if proposed is not None:
        left = problems(proposed, base_licence=base, data_licences=data, name="x", language="en")
        assert {problem.word for problem in left} <= {"name"}


@pytest.mark.parametrize(
    ("name", "attribution", "commercial", "derivatives"),
    [
        ("KOGL-0", False, True, True),
        ("KOGL Type 1", True, True, True),
        ("KOGL-2", True, False, True),
        ("KOGL-3", True, True, False),
        ("KOGL-4", True, False, False),
        ("KOGL-AI", False, True, True),
        ("KOGL-4 OR KOGL-AI", False, True, True),
        ("CN-Public-Data", True, True, True),
        ("MulanOWL-BY-1.0", True, True, True),
        ("PDL-1.0", True, True, True),
        ("政府標準利用規約2.0", True, True, True),
        ("OGDL-Taiwan-1.0", True, True, True),
        ("NDSAP", True, True, True),
        ("SA-Open-Data", True, True, True),
        ("AE-Open-Data", True, True, True),
        ("EC-Reuse", True, True, True),
        ("OGL-UK-3.0", True, True, True),
        ("etalab-2.0", True, True, True),
        ("DL-DE-ZERO-2.0", False, True, True),
    ],
)
def test_licences_of_states_are_known(
    name: str, attribution: bool, commercial: bool, derivatives: bool
) -> None:
    (key,) = licence_keys(name)
    terms = terms_of(key)
    assert terms is not None
    assert (terms.attribution, terms.commercial, terms.derivatives) == (attribution, commercial, derivatives)


def test_what_a_card_asks_beside_its_licence_becomes_an_obligation() -> None:
    letters = CardAsks(attribution="City of Example", territory=("KR", "JP"), commercial=False)
    answers = CardAsks(outputs_of=("LicenseRef-Llama-3.1",))
    union = obligations(
        "CC0-1.0", {"letters": "KOGL-2", "answers": "CC0-1.0"}, {"letters": letters, "answers": answers}
    )
    [only] = [item for item in union.of("commercial") if item.text == "non-commercial use only"]
    assert only.because == ("data letters: LicenseRef-KOGL-2", "data letters: rights.commercial")
    assert [item.text for item in union.of("attribution")] == [
        "credit the source",
        "name the source: City of Example",
    ]
    assert [str(item) for item in union.of("territory")] == [
        "use only in: KR, JP (because of data letters: rights.territory)"
    ]
    assert any("begins with `Llama`" in item.text for item in union.of("naming"))


def test_hub_header_licence() -> None:
    assert hub_licence("Apache-2.0") == HubLicence(id="apache-2.0")
    assert hub_licence("cc0-1.0") == HubLicence(id="cc0-1.0")
    assert hub_licence("ODbL-1.0").id == "odbl"
    assert hub_licence("GPL-3.0-or-later").id == "gpl-3.0"
    assert hub_licence("llama3.2").id == "llama3.2"
    assert hub_licence("CC-BY-NC-SA-4.0").id == "cc-by-nc-sa-4.0"
    kogl = hub_licence("KOGL-2")
    assert (kogl.id, kogl.name, kogl.link) == ("other", "kogl-2", licence_link("LicenseRef-KOGL-2"))
    both = hub_licence("Apache-2.0 AND LicenseRef-KOGL-2")
    assert (both.id, both.name) == ("other", "apache-2.0-and-licenseref-kogl-2")
    assert both.link is not None
    acme = hub_licence("LicenseRef-Acme", link="https://example.org/licence")
    assert (acme.name, acme.link) == ("acme", "https://example.org/licence")
    with pytest.raises(ValueError, match="no link"):
        hub_licence("LicenseRef-Acme")


@pytest.mark.parametrize("key", KEYS)
def test_every_known_licence_can_stand_in_a_header(key: str) -> None:
    header = hub_licence(key, link="https://example.org/licence")
    assert header.id in HUB_LICENCES
    assert (header.name is not None) == (header.link is not None) == (header.id == "other")
