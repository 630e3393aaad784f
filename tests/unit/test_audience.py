"""Who may read what is published: what a card keeps inside stays inside, at publish too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from run_folder import data_json, make_run
from sovtune.audience import PUBLIC_HUBS, Audience
from sovtune.errors import DataRefused, UsageError
from sovtune.publish import publish
from sovtune.records import Decision
from sovtune.release import check_audience, select

OWN, PUBLIC = "https://hub.example.org", "https://huggingface.co"


def told(folder: Path, audience: Audience, **states: Any) -> tuple[str, ...]:
    run_dir = make_run(folder / "run")
    (run_dir / "data.json").write_text(data_json(**states), encoding="utf-8")
    return check_audience(select(run_dir), run_dir, audience)


def hub(endpoint: str, *, private: bool = True) -> Audience:
    return Audience(to="hub:org/name", endpoint=endpoint, private=private)


AT_HOME: dict[str, Any] = {"sensitivity": "public", "allowed_regions": ("KR",)}


@pytest.mark.parametrize(
    ("states", "audience", "refused"),
    [
        ({"sensitivity": "public"}, hub(PUBLIC, private=False), ""),
        ({"sensitivity": "internal"}, hub(PUBLIC), ""),
        ({"sensitivity": "internal"}, hub(OWN, private=False), "letters.sensitivity"),
        ({"sensitivity": "restricted"}, hub(OWN), ""),
        ({"sensitivity": "restricted"}, hub(OWN, private=False), "letters.sensitivity"),
        ({"sensitivity": "restricted"}, hub(PUBLIC), "letters.sensitivity"),
        ({"sensitivity": "restricted"}, Audience(to="dir:out", endpoint=None, private=True), ""),
        (AT_HOME, hub(OWN), "letters.residency"),
        ({**AT_HOME, "export": True}, hub(OWN), ""),
        ({**AT_HOME, "licence_policy": "advisory"}, hub(OWN), ""),
        ({**AT_HOME, "licence_policy": "advisory"}, hub(PUBLIC), "letters.residency"),
    ],
)
def test_what_may_go_where(tmp_path: Path, states: dict[str, Any], audience: Audience, refused: str) -> None:
    if not refused:
        told(tmp_path, audience, **states)
        return
    with pytest.raises(DataRefused) as caught:
        told(tmp_path, audience, **states)
    assert f"[{refused}]" in caught.value.what
    assert caught.value.exit_code == 4


def test_an_answer_holds_for_the_target_it_was_given_for(tmp_path: Path) -> None:
    with pytest.raises(DataRefused) as caught:
        told(tmp_path / "before", hub(OWN), **AT_HOME)
    question = hub(OWN).recorded(caught.value.what.removesuffix(" [letters.residency]"))
    assert OWN not in question  # it is published
    made = Decision(
        refusal="letters.residency", question=question, name="office", reason="it stands in Daejeon"
    )
    answered = {**AT_HOME, "decisions": (made,)}
    assert told(tmp_path / "own", hub(OWN), **answered) == ("letters.residency: office answers for it",)
    with pytest.raises(DataRefused):
        told(tmp_path / "other", hub("https://hub.example.com"), **answered)


def test_publishing_asks_before_anything_else_happens(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    (run_dir / "data.json").write_text(data_json(sensitivity="internal"), encoding="utf-8")
    with pytest.raises(DataRefused, match="can be read by all who reach it"):
        publish(run_dir, "hub:org/name", endpoint=OWN, private=False, dry_run=True)
    assert publish(run_dir, "hub:org/name", endpoint=OWN, dry_run=True).dry_run
    (run_dir / "data.json").unlink()
    with pytest.raises(UsageError, match=r"data\.json: missing; `sovtune data RECIPE` makes it"):
        publish(run_dir, "hub:org/name", endpoint=OWN, dry_run=True)


@pytest.mark.parametrize("name", PUBLIC_HUBS)
def test_public_hubs_are_known_by_host(name: str) -> None:
    assert hub(f"https://{name}").on_public_hub
    assert hub(f"https://eu.{name}:443/path").on_public_hub
    assert not hub(f"https://not-{name}").on_public_hub
    assert not hub(f"https://{name}.example.org").on_public_hub
    assert not Audience(to="dir:out", endpoint=f"https://{name}", private=True).on_public_hub
