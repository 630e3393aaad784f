"""What the data caches hold goes when it is old, never while it is in use, and nothing else goes with it."""

import os
import shutil
import time
from pathlib import Path

import pytest
from test_gate import KO, ONE, THREE, TWO, run, text_file

from sovtune.clean_command import as_values, in_words
from sovtune.data.caches import Cleaned, clean, forget_old_shards, held
from sovtune.data.gate import curate
from sovtune.errors import EnvironmentFault

DAY = 86_400
KEY = "ab" * 16


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def age(path: Path, days: float) -> None:
    """Let a file or folder, with all in it, look untouched for some days."""
    then = time.time() - days * DAY
    for one in (path, *path.rglob("*")):
        os.utime(one, (then, then))


def shards(gate: Path) -> list[Path]:
    return sorted(path for path in gate.iterdir() if len(path.name) == 64)


def prepared(home: Path, key: str = KEY, days: float = 0) -> Path:
    """Prepared rows, as the data stage leaves them."""
    folder = home / "data" / key
    folder.mkdir(parents=True)
    (folder / "rows.arrow").write_bytes(b"x" * 1000)
    age(folder, days)
    return folder


def everything(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*")}


def count(cleaned: Cleaned) -> tuple[int, int, int]:
    return len(cleaned.removed), len(cleaned.kept), len(cleaned.in_use)


def test_what_is_old_goes_and_what_was_used_stays(home: Path, tmp_path: Path) -> None:
    run([text_file(tmp_path, ONE, TWO)], work=home / "gate")
    (old,) = shards(home / "gate")
    run([text_file(tmp_path, THREE, name="b.txt")], work=home / "gate")
    (young,) = set(shards(home / "gate")) - {old}
    age(old, 31)
    age(young, 29)
    gone, stays = prepared(home, days=31), prepared(home, "cd" * 16, days=2)
    for leaving in ("verdicts-duplicates.bin", "duplicates"):
        age(home / "gate" / leaving, 31)
    size = sum(path.stat().st_size for path in old.rglob("*")) + 1000
    cleaned = clean(home, days=30)
    assert not old.exists() and not gone.exists()
    assert young.is_dir() and stays.is_dir()
    assert sum(part.bytes for part in cleaned.removed if part.kind in ("shard", "rows")) == size
    assert {part.kind for part in cleaned.removed} == {"shard", "rows", "leftover"}
    assert len(cleaned.kept) == 3  # with the verdicts of quality, which are young
    _, _, report = run([text_file(tmp_path, ONE, TWO)], work=home / "gate")
    assert report.kept == 2 and report.shards_reused == 0


def test_nothing_but_our_own_is_touched(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    for name in ("gate/notes.txt", "gate/my-folder/x", "data/README", "bases/m/model.safetensors", "x.arrow"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    (home / "gate" / ("ef" * 32)).symlink_to(outside)
    (home / "data" / ("ef" * 16)).symlink_to(outside)
    (home / "data" / ("12" * 16)).write_text("a file, no folder")
    age(home, 400)
    before = everything(home)
    assert count(clean(home, days=0)) == (0, 0, 0)
    assert everything(home) - before <= {"gate/lock"}
    assert (outside / "precious").exists()


def test_a_gate_at_work_keeps_its_shards_and_can_go_on(home: Path, tmp_path: Path) -> None:
    source = text_file(tmp_path, ONE, TWO)
    with curate([source], KO, home / "gate", workers=1) as curated:
        age(home / "gate", 400)
        cleaned = clean(home, days=0)
        assert not cleaned.removed and len(cleaned.in_use) >= 1
        assert len(list(curated.documents())) == 2
    assert [part.kind for part in clean(home, days=0).removed].count("shard") == 1
    assert not shards(home / "gate")


def test_the_folder_of_a_killed_scan_goes_but_not_of_one_at_work(home: Path, tmp_path: Path) -> None:
    scan = home / "gate" / KEY
    with curate([text_file(tmp_path, ONE)], KO, scan, workers=1):
        age(scan, 400)
        assert clean(home, days=0).in_use and shards(scan)
    age(scan, 40)
    os.utime(shards(scan)[0])  # a scan that goes on in the same folder marks its shards
    assert count(clean(home, days=30)) == (0, 1, 0)
    age(scan, 40)
    assert [part.kind for part in clean(home, days=30).removed] == ["scan"]
    assert not scan.exists()


def test_rows_that_a_run_reads_stay(home: Path) -> None:
    folder = prepared(home, days=400)
    with held(folder), held(folder):
        age(folder, 400)
        assert count(clean(home, days=0)) == (0, 0, 1)
    assert (folder / "rows.arrow").exists()
    assert [part.kind for part in clean(home, days=0).removed] == ["rows"]


def test_holding_rows_marks_them_as_used(home: Path) -> None:
    folder = prepared(home, days=400)
    with held(folder):
        pass
    assert count(clean(home, days=1)) == (0, 1, 0)


def test_half_made_rows_go_only_when_nobody_can_be_making_them(home: Path, tmp_path: Path) -> None:
    part = home / "data" / f".{KEY}.part"
    part.mkdir(parents=True)
    assert count(clean(home, days=0)) == (0, 0, 1), "begun today"
    age(part, 3)
    with curate([text_file(tmp_path, ONE)], KO, home / "gate", workers=1):
        assert part.name in {one.path.name for one in clean(home, days=0).in_use}, "the gate is at work"
    assert part.name in {one.path.name for one in clean(home, days=0).removed}


def test_a_dry_run_changes_nothing(home: Path, tmp_path: Path) -> None:
    run([text_file(tmp_path, ONE)], work=home / "gate")
    prepared(home, days=60)
    age(home / "gate", 60)
    before = everything(home)
    told = clean(home, days=30, dry_run=True)
    assert everything(home) == before
    assert "would free" in in_words(told, 30, dry_run=True)
    done = clean(home, days=30)
    assert [part.path for part in done.removed] == [part.path for part in told.removed]
    assert as_values(done, dry_run=False)["freed_bytes"] == sum(part.bytes for part in done.removed)


def test_no_cache_at_all(home: Path) -> None:
    assert count(clean(home, days=0)) == (0, 0, 0)
    assert in_words(clean(home, days=0), 0, dry_run=False) == "freed 0 B"
    assert not home.exists()


def test_a_shard_that_is_used_again_is_not_old(home: Path, tmp_path: Path) -> None:
    one, two = text_file(tmp_path, ONE), text_file(tmp_path, TWO, name="b.txt")
    run([one, two], work=home / "gate")
    age(home / "gate", 60)
    with curate([one], KO, home / "gate", workers=1) as curated:
        assert forget_old_shards(home / "gate", days=30) == 1
        assert [document.text for document in curated.documents()] == [ONE]
    assert len(shards(home / "gate")) == 1


def test_what_cannot_be_removed_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([text_file(tmp_path, ONE)], work=home / "gate")
    age(home / "gate", 60)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert forget_old_shards(home / "gate") == 0, "tidying up never fails a run"
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        clean(home, days=30)


@pytest.mark.parametrize(
    ("days", "expected"), [(1, "used in the last day"), (30, "used in the last 30 days")]
)
def test_it_says_in_words_what_it_did(home: Path, tmp_path: Path, days: float, expected: str) -> None:
    run([text_file(tmp_path, ONE)], work=home / "gate")
    prepared(home, days=400)
    text = in_words(clean(home, days=days), days, dry_run=False)
    assert "1 set of prepared rows, 1.0 kB removed" in text
    assert expected in text
