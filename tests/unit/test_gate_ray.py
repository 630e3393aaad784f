"""What of the gate on Ray needs no cluster: addresses, faults, and buckets that do not mind the order of arrival."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from pydantic import ValidationError

from sovtune.data.dedup import CROWDED, merge_clusters, sketch_all
from sovtune.data.files import LocalFile
from sovtune.data.gate import curate
from sovtune.data.gate_duplicates import HELD_OUT, Search
from sovtune.data.gate_ray import wait_until_seen
from sovtune.data.gate_ray_cluster import RayCluster, check_worker
from sovtune.data.gate_ray_shuffle import bucket_records, join_buckets
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_settings import GateSettings, code_version
from sovtune.errors import EnvironmentFault, UsageError
from sovtune.recipe_launch import Launch, ray_host


@pytest.mark.parametrize(("address", "host"), [("head:6379", "head"), ("[::1]:6379", "::1")])
def test_an_address_is_a_host_and_a_port(address, host):
    assert RayCluster(address=address).address == address
    assert Launch(data_engine="ray", ray_address=address).ray_address == address
    assert ray_host(address) == host


@pytest.mark.parametrize(
    "address", ["", "auto", "head", "ray://head:10001", "head:port", "a b:1", "head:6379\n"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UsageError, match="no address of a Ray cluster"):
        RayCluster(address=address)
    with pytest.raises(ValidationError):
        Launch(data_engine="ray", ray_address=address)


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a.txt").write_text("안녕하세요, 반갑습니다.\n", encoding="utf-8")
    source = GateSource(file=LocalFile(path=tmp_path / "a.txt", shown="a.txt"))
    with (
        pytest.raises(EnvironmentFault, match="needs the package `ray`") as caught,
        curate([source], GateSettings(language="ko"), tmp_path / "work", cluster=RayCluster()),
    ):
        pass
    assert caught.value.fix == 'pip install "sovtune[ray]"'
    assert not list((tmp_path / "work").glob(".part-*"))


def test_ray_that_was_imported_too_early_is_refused_and_not_waited_for(tmp_path):
    """In a process of its own: what Ray read at its import stays."""
    if find_spec("ray") is None:
        pytest.skip("sovtune[ray] is not installed")
    program = (
        "import ray\nfrom sovtune.data.gate_ray_cluster import import_ray\n"
        "import_ray(loopback_only=False)\nimport_ray(loopback_only=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "was imported before sovtune could set it up" in done.stderr.splitlines()[-3]


def test_a_worker_of_another_version_refuses_to_work(tmp_path):
    check_worker(tmp_path, code_version())
    with pytest.raises(EnvironmentFault, match="another version of sovtune"):
        check_worker(tmp_path, "0" * 64)
    with pytest.raises(EnvironmentFault, match="does not see the work folder"):
        check_worker(tmp_path / "gone", code_version())


def test_a_shard_may_appear_late_but_not_never(tmp_path):
    shard = tmp_path / "shard"
    with pytest.raises(EnvironmentFault, match="node7 has written does not appear"):
        wait_until_seen(shard, "node7", 0.01)

    def write() -> None:
        time.sleep(0.2)
        shard.mkdir()
        (shard / "shard.json").write_text('{"sizes": {}}', encoding="utf-8")

    writer = threading.Thread(target=write)
    writer.start()
    wait_until_seen(shard, "node7", 30)
    writer.join()


class Open:
    """A box that is open: Ray's object store is not needed to look into it."""

    def __init__(self, search: Search):
        self.search = search

    def open(self) -> Search:
        return self.search


def template_texts(number: int) -> Iterator[str]:
    """Texts as alike as near-duplicates have to be, by chance a little more or less."""
    chance = np.random.default_rng(11)
    template = "도서관은 평일 아침 아홉 시에 문을 열고 저녁 여섯 시에 닫으며 토요일에는 오후 다섯 시까지만 책을 빌려줍니다"
    for _ in range(number):
        yield template + "".join(
            chr(code) for code in chance.integers(0xAC00, 0xAC00 + 2000, len(template) // 4)
        )


def test_a_crowded_bucket_names_the_same_pairs_in_any_order_of_arrival():
    texts = [*template_texts(700), *["네."] * (CROWDED + 50)]
    box = Open(Search(shards=(), held_out=tuple(sketch_all(texts)), limits=None, threshold=0.7))
    split = list(bucket_records({"shard": np.array([HELD_OUT])}, box, 1))
    records = {name: np.concatenate([part[name] for part in split]) for name in split[0]}
    signed = records["band"] > 1
    sizes = np.unique(records["key"][signed], return_counts=True)[1]
    assert sizes.max() > CROWDED
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(records["row"]))
        pairs = join_buckets({name: column[order] for name, column in records.items()}, box)
        found.append(merge_clusters(zip(pairs["row"].tolist(), pairs["other"].tolist(), strict=True)))
    assert found[0] == found[1] == found[2]
    assert CROWDED + 50 < len(found[0]) < len(texts), "what is alike is joined, and not all is alike"
