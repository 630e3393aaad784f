"""What a card declares against what the gate measured: tolerances, thresholds, and what is not compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_permission import card

from sovtune.data.card import LoadedCard
from sovtune.data.declared import NO_GATE, SHARE_TOLERANCE, Comparison, compare, refuse_contradictions
from sovtune.data.gate_report import GateInput
from sovtune.errors import DataRefused

PAGE = 10_000.0
"""Weighted letters of a few pages: the tolerance is 0.11 there."""


def measured(
    rows: int = 1000, *, letters: dict[str, float] | None = None, found: dict[str, int] | None = None
) -> GateInput:
    return GateInput(
        file="letters/a.jsonl", card="letters", bytes=9, sha256="0", rows=rows, kept=rows, codecs={},
        letters=letters or {"ko": PAGE}, found=found or {},
    )  # fmt: skip


def languages(**shares: float) -> dict[str, Any]:
    return {"languages": [{"tag": tag.replace("_", "-"), "share": share} for tag, share in shares.items()]}


def says(loaded: LoadedCard, one: GateInput, hiding: str = "mask", split: str | None = None) -> Comparison:
    return compare(loaded, split, [one], hiding)


@pytest.mark.parametrize(
    ("declared", "letters", "refused"),
    [
        (languages(ko=1.0), {"ko": PAGE}, False),
        (languages(ko=1.0), {"ko": 0.9 * PAGE, "en": 0.1 * PAGE}, False),
        (languages(ko=1.0), {"ko": 0.88 * PAGE, "en": 0.12 * PAGE}, True),
        (languages(ko=1.0), {"en": PAGE}, True),
        (languages(ko=0.8, en=0.2), {"ko": PAGE}, True),
        (languages(ko=0.8, en=0.2), {"ko": 0.75 * PAGE, "en": 0.25 * PAGE}, False),
        (languages(ko_KR=1.0), {"ko": PAGE}, False),
        (languages(zh_Hant=1.0), {"zh-Hans": PAGE}, False),  # one language; the variant is no matter of share
        (languages(ja=0.5, zh=0.5), {"ja": PAGE}, True),
        (languages(ar=0.5, arz=0.5), {"ar": PAGE}, False),  # Egyptian cannot be told from standard Arabic
        (languages(ar=0.5, arz=0.5), {"en": PAGE}, True),
        (languages(bn=0.4, **{"as": 0.6}), {"bn": PAGE}, False),  # one script, told by nothing
        (languages(id=0.4, ms=0.6), {"id": PAGE}, False),  # twins
        (languages(ko=1.0), {"ko": 700.0, "en": 100.0}, False),  # one sentence of eight
        (languages(ko=1.0), {"en": 800.0}, True),
        (languages(ko=1.0), {"en": 90.0}, False),  # too little to tell
    ],
)
def test_language_shares(
    tmp_path: Path, declared: dict[str, Any], letters: dict[str, float], refused: bool
) -> None:
    found = says(card(tmp_path, **declared), measured(letters=letters))
    assert bool(found.contradictions) is refused, found.told["languages"]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(1_000.0, 1e9))
def test_the_tolerance_is_kept_on_both_sides(
    tmp_path_factory: Any, said: float, true: float, letters: float
) -> None:
    loaded = card(tmp_path_factory.mktemp("card"), **languages(ko=max(said, 0.001), en=max(1 - said, 0.001)))
    found = says(loaded, measured(letters={"ko": true * letters, "en": (1 - true) * letters}))
    off = abs(said - true)
    if off <= SHARE_TOLERANCE - 0.002:
        assert not found.contradictions
    if off >= SHARE_TOLERANCE + 100 / letters + 0.002:
        assert found.contradictions


def test_a_split_says_nothing_of_the_whole(tmp_path: Path) -> None:
    files = [
        {"path": f"{split}.jsonl", "sha256": "0" * 64, "rows": 2, "split": split}
        for split in ("train", "test")
    ]
    loaded = card(tmp_path, files=files, **languages(ko=0.5, en=0.5))
    found = says(loaded, measured(), split="train")
    assert not found.contradictions
    assert "not compared" in found.told["languages"]


@pytest.mark.parametrize(
    ("stated", "found", "rows", "hiding", "refused"),
    [
        ({"contains": "none"}, {}, 1000, "mask", False),
        ({"contains": "none"}, {"kr_rrn": 1}, 1000, "mask", False),  # by chance, or a specimen
        ({"contains": "none"}, {"kr_rrn": 2}, 1000, "mask", True),
        ({"contains": "none"}, {"kr_rrn": 1}, 300, "mask", True),
        ({"contains": "none"}, {"payment_card": 1, "tr_tckn": 1, "iban": 1}, 2000, "report", True),
        ({"contains": "none"}, {"phone": 10}, 1000, "mask", False),  # an office's
        ({"contains": "none"}, {"phone": 7, "email": 4}, 1000, "mask", True),
        ({"contains": "none"}, {"phone": 2}, 7, "mask", False),  # an example in a small file
        ({"contains": "none"}, {"phone": 3}, 7, "drop", True),
        ({"contains": "none"}, {"kr_brn": 4}, 1000, "mask", False),  # a business is no person
        ({"contains": "none"}, {"kr_rrn": 500}, 1000, "off", False),  # not looked for
        ({"contains": "possible"}, {"kr_rrn": 500}, 1000, "mask", False),
        ({"contains": "yes", "lawful_basis": "contract"}, {"kr_rrn": 500}, 1000, "report", False),
        ({"contains": "none", "action": "masked"}, {"phone": 500}, 1000, "mask", False),
        ({"contains": "none", "action": "masked"}, {"phone": 500}, 1000, "report", True),
    ],
)
def test_personal_data(
    tmp_path: Path, stated: dict[str, str], found: dict[str, int], rows: int, hiding: str, refused: bool
) -> None:
    told = says(card(tmp_path, personal_data=stated), measured(rows, found=found), hiding)
    assert bool(told.contradictions) is refused
    assert told.told["personal_data"].startswith(f"declared {stated['contains']}; ")


def test_a_contradiction_names_the_line_the_measurement_and_the_next_step(tmp_path: Path) -> None:
    loaded = card(tmp_path, **languages(ko=0.2, ar=0.8))
    found = says(loaded, measured(letters={"ko": PAGE}, found={"kr_rrn": 9}))
    with pytest.raises(DataRefused) as caught:
        refuse_contradictions(loaded, found)
    told = str(caught.value)
    assert caught.value.exit_code == 4
    assert told.startswith(
        f"{loaded.path}:11:10: the card says ko 0.20, ar 0.80, measured: ko 1.00 of the letters"
    )
    assert (
        f"\n{loaded.where('personal_data', 'contains')}: the card says none, found: kr_rrn 9 in 1,000 rows"
        in told
    )
    assert "correct `languages`" in told
    assert "--decisions rows.jsonl" in told
    refuse_contradictions(loaded, says(card(tmp_path), measured()))


def test_without_a_gate_the_record_says_what_was_not_compared(tmp_path: Path) -> None:
    found = compare(card(tmp_path), None, None, None)
    assert not found.contradictions
    assert found.told["languages"] == found.told["personal_data"] == NO_GATE
    assert found.told["files, rows, hashes"] == "as declared"
