"""A run belongs to one command at a time."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from sovtune.errors import EnvironmentFault, RunConflict
from sovtune.runs import alone


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    with alone(tmp_path / "runs", "one") as locked, alone(tmp_path / "runs", "another"):
        assert locked
        with (
            pytest.raises(RunConflict, match=f"process {os.getpid()} on ") as caught,
            alone(tmp_path / "runs", "one"),
        ):
            pass
        assert caught.value.where == str(tmp_path / "runs" / "one")
    with alone(tmp_path / "runs", "one"):
        pass


def test_the_next_job_waits_for_the_last(tmp_path: Path) -> None:
    order = []
    begun = threading.Event()

    def first() -> None:
        with alone(tmp_path, "run"):
            begun.set()
            time.sleep(0.5)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with alone(tmp_path, "run", patience_s=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("number", "goes_on"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)]
)
def test_a_file_system_without_locks_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, goes_on: bool
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if goes_on:
        with alone(tmp_path, "run") as locked:
            assert not locked
    else:
        with pytest.raises(OSError, match=os.strerror(number)), alone(tmp_path, "run"):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="--runs-dir FOLDER"), alone(tmp_path / "file" / "runs", "run"):
        pass
