"""Shares in tokens: met, never by more passes than allowed, and refused with figures when the corpus is too small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sovtune.data.mix import Asked, asked_of, check_reached, choose, language_group, proportions, take
from sovtune.errors import DataRefused
from sovtune.recipe_train import Rows, Train


def asked(
    sources: Sequence[float] | None = None,
    languages: dict[str, float] | None = None,
    *,
    repeats: Sequence[int] | None = None,
    number: int = 2,
    tolerance: float = 0.02,
    **train: object,
) -> Asked:
    number = len(sources) if sources else number
    return Asked(
        names=("korean", "english", "third")[:number],
        sources=tuple(sources) if sources else None,
        repeats=tuple(repeats) if repeats else (1,) * number,
        languages=languages or {},
        tolerance=tolerance,
        train=Train(rows=Rows(max_length=64), **(train or {"tokens": 1})),  # type: ignore[arg-type]
        seed=7,
    )


def corpus(*groups: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, sources and languages of documents: (source, language, documents, tokens of each)."""
    lengths = np.concatenate([np.full(count, size, dtype=np.int32) for _, _, count, size in groups])
    sources = np.concatenate([np.full(count, source, dtype=np.int16) for source, _, count, _ in groups])
    tags = np.concatenate([np.full(count, tag, dtype=np.int16) for _, tag, count, _ in groups])
    return lengths, sources, tags


def shares(chosen: np.ndarray, lengths: np.ndarray, of: np.ndarray) -> list[float]:
    sums = np.bincount(of[chosen], weights=lengths[chosen])
    return (sums / sums.sum()).tolist()


def refusal(wanted: Asked, *groups: tuple[int, int, int, int]) -> str:
    with pytest.raises(DataRefused) as caught:
        choose(wanted, *corpus(*groups))
    return str(caught.value)


# Shares by source


def test_without_shares_everything_is_taken_once_in_order() -> None:
    documents = corpus((0, 0, 3, 10), (1, 0, 2, 20))
    assert choose(asked(number=2), *documents).tolist() == [0, 1, 2, 3, 4]


def test_the_mixture_is_as_large_as_one_pass_allows() -> None:
    lengths, sources, tags = corpus((0, 0, 100, 10), (1, 0, 1000, 10))
    chosen = choose(asked([0.9, 0.1]), lengths, sources, tags)
    assert np.bincount(sources[chosen]).tolist() == [100, 11]
    assert len(set(chosen.tolist())) == len(chosen)


def test_a_longer_run_sees_a_scarce_source_again_as_often_as_needed() -> None:
    documents = corpus((0, 0, 100, 10), (1, 0, 1000, 10))
    chosen = choose(asked([0.9, 0.1], repeats=[3, 1], tokens=2000), *documents)
    assert np.bincount(documents[1][chosen]).tolist() == [180, 20]
    seen = np.bincount(chosen[chosen < 100], minlength=100)
    assert set(seen.tolist()) == {1, 2}, "nothing is seen a third time while others were seen once"


def test_a_run_that_its_sources_cannot_fill_is_refused_with_figures() -> None:
    text = refusal(asked([0.9, 0.1], repeats=[1, 2], tokens=5000), (0, 0, 100, 10), (1, 0, 20, 10))
    assert "data.0: korean has 1,000 tokens; 90 % of 5,000 are 4,500, which is 4.5 passes" in text
    assert "also: english has 200 tokens; 10 % of 5,000 are 500, which is 2.5 passes" in text
    assert "`repeat` allows 1 pass over this source" in text
    assert "`repeat: 5` beside korean, or a run of at most 1111 tokens" in text
    fits = asked([0.9, 0.1], repeats=[5, 3], tokens=5000)
    assert len(choose(fits, *corpus((0, 0, 100, 10), (1, 0, 20, 10)))) == 500


def test_the_size_named_in_the_refusal_is_the_largest_that_fits() -> None:
    groups = (0, 0, 100, 10), (1, 0, 20, 10)
    choose(asked([0.9, 0.1], tokens=1111), *corpus(*groups))
    refusal(asked([0.9, 0.1], tokens=1112), *groups)


def test_more_passes_than_a_recipe_may_ask_for_are_not_proposed() -> None:
    text = refusal(asked([0.5, 0.5], tokens=10_000), (0, 0, 2, 10), (1, 0, 900, 10))
    assert "250.0 passes" in text
    assert "`repeat:" not in text
    assert "a run of at most 40 tokens" in text


@pytest.mark.parametrize(("repeat", "documents"), [(1, None), (2, None), (3, 25)])
def test_with_epochs_the_largest_source_is_passed_once_and_others_keep_up(
    repeat: int, documents: int | None
) -> None:
    groups = (0, 0, 100, 10), (1, 0, 9, 10)
    wanted = asked([0.8, 0.2], repeats=[1, repeat], epochs=2)
    if documents is None:
        text = refusal(wanted, *groups)
        assert "english has 90 tokens; 20 % of 1,250 are 250, which is 2.8 passes" in text
        assert "`repeat: 3` beside english" in text
        assert f"`tokens: {450 * repeat}` in the place of epochs under train" in text
        return
    _, sources, _ = corpus(*groups)
    assert np.bincount(sources[choose(wanted, *corpus(*groups))]).tolist() == [100, documents]


def test_with_epochs_and_equal_shares_the_smaller_source_sets_the_size() -> None:
    lengths, sources, tags = corpus((0, 0, 100, 10), (1, 0, 30, 10))
    chosen = choose(asked([0.5, 0.5], epochs=1), lengths, sources, tags)
    assert np.bincount(sources[chosen]).tolist() == [30, 30]


def test_steps_state_a_size_too_and_count_whole_rows() -> None:
    # 10 steps of 2 rows of 64 tokens; 150 batch_tokens hold no third row.
    groups = (0, 0, 60, 10), (1, 0, 100, 10)
    text = refusal(asked([0.5, 0.5], steps=10, batch_tokens=150), *groups)
    assert "50 % of 1,280 are 640" in text
    # Without packing a row is a document of 10 tokens.
    unpacked = Train(steps=10, batch_tokens=150, rows=Rows(max_length=64, packing=False))
    loose = Asked(
        names=("a", "b"), sources=(0.5, 0.5), repeats=(1, 1), languages={}, tolerance=0.02, train=unpacked, seed=1
    )  # fmt: skip
    assert len(choose(loose, *corpus(*groups))) == 120


def test_the_order_depends_on_the_seed_only() -> None:
    documents = corpus((0, 0, 50, 10), (1, 0, 50, 10))
    first = choose(asked([0.9, 0.1]), *documents)
    assert first.tolist() == choose(asked([0.9, 0.1]), *documents).tolist()
    other = Asked(**{**{name: getattr(asked([0.9, 0.1]), name) for name in Asked.__slots__}, "seed": 8})
    assert first.tolist() != choose(other, *documents).tolist()


# Shares by language


def test_shares_by_language_take_from_sources_in_proportion_to_what_they_hold() -> None:
    lengths, sources, tags = corpus((0, 0, 60, 10), (1, 0, 30, 10), (1, 1, 50, 10))
    chosen = choose(asked(languages={"ko": 0.9, "en": 0.1}), lengths, sources, tags)
    assert shares(chosen, lengths, tags) == pytest.approx([0.9, 0.1], abs=0.005)
    korean = chosen[tags[chosen] == 0]
    assert np.bincount(sources[korean]).tolist() == [60, 30]


def test_documents_in_other_languages_are_not_taken() -> None:
    lengths, sources, tags = corpus((0, 0, 50, 10), (0, -1, 50, 10), (1, 1, 50, 10))
    chosen = choose(asked(languages={"ko": 0.5, "en": 0.5}), lengths, sources, tags)
    assert len(chosen) == 100
    assert (tags[chosen] >= 0).all()


def test_shares_by_source_and_by_language_hold_at_once() -> None:
    lengths, sources, tags = corpus((0, 0, 500, 7), (0, 1, 200, 9), (1, 0, 300, 8), (1, 1, 400, 6))
    wanted = asked([0.7, 0.3], {"ko": 0.8, "en": 0.2}, repeats=[2, 2])
    chosen = choose(wanted, lengths, sources, tags)
    assert shares(chosen, lengths, sources) == pytest.approx([0.7, 0.3], abs=0.01)
    assert shares(chosen, lengths, tags) == pytest.approx([0.8, 0.2], abs=0.01)


def test_a_scarce_cell_is_named_by_source_and_language() -> None:
    wanted = asked([0.5, 0.5], {"ko": 0.6, "en": 0.4}, tokens=2000)
    text = refusal(wanted, (0, 0, 100, 10), (0, 1, 3, 10), (1, 0, 50, 10), (1, 1, 100, 10))
    assert "korean has 1,000 tokens in ko" in text or "korean has 30 tokens in en" in text


def test_shares_that_contradict_each_other_are_refused() -> None:
    text = refusal(asked([0.9, 0.1], {"ko": 0.5, "en": 0.5}), (0, 0, 90, 10), (1, 1, 90, 10))
    assert "cannot both be had" in text
    assert "the nearest is korean 50 %, english 50 %, ko 50 %, en 50 %" in text


def test_a_language_or_a_source_without_documents_is_refused() -> None:
    text = refusal(asked(languages={"ko": 0.9, "ar": 0.1}), (0, 0, 90, 10), (1, 0, 9, 10))
    assert "no document is in ar, which is to be 10 % of the mixture" in text
    text = refusal(asked([0.9, 0.1], {"ko": 1.0}), (0, 0, 90, 10), (1, -1, 9, 10))
    assert "no document of english is in a language of mix.languages (ko)" in text


@pytest.mark.parametrize(
    ("tag", "languages", "place"),
    [
        ("ko", ["ko", "en"], 0),
        ("zh-Hans", ["en", "zh"], 1),
        ("zh-Hant", ["zh", "zh-Hant"], 1),
        ("ko", ["ko-KR", "en"], 0),
        ("zh", ["zh-Hans", "zh-Hant"], -1),
        ("zh-Hant", ["zh-Hans"], -1),
        ("kok", ["ko"], -1),
        ("und", ["ko"], -1),
    ],
)
def test_a_measured_language_finds_its_share(tag: str, languages: list[str], place: int) -> None:
    assert language_group(tag, languages) == place


# Properties

CELLS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 40), st.integers(1, 30)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50, derandomize=True)
@given(
    CELLS,
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
    st.integers(1, 4),
    st.integers(1, 3000),
    st.booleans(),
)
def test_repeat_is_never_exceeded_and_shares_are_met_to_a_document(
    cells: list[tuple[int, int, int, int]], first: float, korean: float, repeat: int, tokens: int, both: bool
) -> None:
    lengths, sources, tags = corpus(*cells)
    languages = {"ko": korean, "en": 1 - korean} if both else {}
    wanted = asked([first, 1 - first], languages, repeats=[repeat, repeat], tokens=tokens)
    assume(set(sources.tolist()) == {0, 1})
    try:
        chosen = choose(wanted, lengths, sources, tags if both else np.zeros_like(tags))
    except DataRefused:
        return
    assert np.bincount(chosen).max(initial=0) <= repeat
    total = int(lengths[chosen].sum())
    # Each cell is filled to half a document, and there are four at most.
    slack = 2 * int(lengths.max()) + 1
    got = np.bincount(sources[chosen], weights=lengths[chosen], minlength=2)
    assert abs(got[0] - first * total) <= 2 * slack
    if both:
        got = np.bincount(tags[chosen], weights=lengths[chosen], minlength=2)
        assert abs(got[0] - korean * total) <= 2 * slack


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.floats(0, 400))
def test_taking_stops_where_the_next_document_would_lead_away(sizes: list[int], tokens: float) -> None:
    lengths = np.array(sizes, dtype=np.int64)
    taken = take(np.arange(len(sizes)), lengths, tokens)
    reached = int(lengths[taken].sum())
    following = sizes[len(taken) % len(sizes)]
    assert abs(reached + following - tokens) >= abs(reached - tokens) - 1e-6
    assert taken.tolist() == [place % len(sizes) for place in range(len(taken))]


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.floats(1, 1000), min_size=4, max_size=4), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_proportions_meet_both_margins(tokens: list[float], row: float, column: float) -> None:
    table = proportions(np.array(tokens).reshape(2, 2), [row, 1 - row], [column, 1 - column])
    assert table.sum(axis=1) == pytest.approx([row, 1 - row], abs=1e-4)
    assert table.sum(axis=0) == pytest.approx([column, 1 - column], abs=1e-4)


# Verification


def test_rows_off_by_more_than_the_tolerance_are_refused_with_what_was_reached() -> None:
    wanted = asked([0.9, 0.1])
    check_reached(wanted, np.array([88, 12]), np.array([]), 12)
    with pytest.raises(DataRefused) as caught:
        check_reached(wanted, np.array([87, 13]), np.array([]), 13)
    text = str(caught.value)
    assert "korean is 87 % of the packed tokens, asked were 90 %" in text
    assert "the longest has 13 of 100 tokens" in text
    assert "english 13 % (asked 10 %)" in text
    assert "`mix: {tolerance: 0.03}`" in text
    check_reached(asked([0.9, 0.1], tolerance=0.03), np.array([87, 13]), np.array([]), 13)


def test_languages_are_held_to_the_tolerance_too() -> None:
    wanted = asked(languages={"ko": 0.5, "en": 0.5}, number=1)
    with pytest.raises(DataRefused, match="ko is 60 %"):
        check_reached(wanted, np.array([100]), np.array([60, 40]), 10)


def test_a_recipe_without_a_mix_section_has_the_usual_tolerance() -> None:
    from run_records import make_recipe

    wanted = asked_of(make_recipe(), ["ko", "en"])
    assert (wanted.sources, wanted.tolerance, wanted.languages) == ((0.9, 0.1), 0.02, {})
    assert not asked_of(make_recipe(data=[{"card": "a.yaml"}]), ["a"]).anything
    only = asked_of(make_recipe(data=[{"card": "a.yaml"}], mix={"languages": {"ko": 1.0}}), ["a"])
    assert only.anything
