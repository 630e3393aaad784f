"""Two processes do what one does: the same rows, losses and adapter; and each goes on where the other stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from process_group import in_group
from sovtune.errors import EnvironmentFault, RunInterrupted, UsageError
from sovtune.model import load_with_new_adapter
from sovtune.train.group import ALONE, Group, joined
from sovtune.train.sharding import shard_base
from sovtune.train.shared_steps import cut_step, micro_batches_per_step, shared_batches
from tiny_models import make_base
from tiny_processes import as_worker, check_equal, train_in
from tiny_runs import losses, make_recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, train_in(ALONE, base, folder)


@pytest.mark.parametrize("changes", [{}, {"engine": "plain", "micro_rows": 2}], ids=["fast", "plain"])
def test_two_processes_are_one(base, alone, tmp_path, changes) -> None:
    folder, straight = alone
    first, second = in_group(2, _worker_with, base, tmp_path, changes)
    wanted = [(m.loss, m.grad_norm, m.tokens, m.supervised_tokens) for m in straight.history]
    for have, want in zip(first, wanted, strict=True):
        assert have[:2] == pytest.approx(want[:2], abs=1e-5)
        if not changes:  # the engines count padding differently, here there is none
            assert have[2:] == want[2:]
    assert first == second, "all processes know the same"
    check_equal(folder, tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6, "one of them writes"


def _worker_with(base, run_dir, changes):
    return as_worker(base, run_dir, **changes)


def test_stopped_with_two_goes_on_with_one_and_back(base, alone, tmp_path) -> None:
    folder, straight = alone
    told = in_group(2, _worker_with, base, tmp_path, {"interrupt_at": 2})
    assert all("after step 3 of 6" in text for text in told), told
    with pytest.raises(RunInterrupted, match="after step 5"):
        train_in(ALONE, base, tmp_path, interrupt_at=4)
    first, _ = in_group(2, _worker_with, base, tmp_path, {})
    assert [step[0] for step in first] == pytest.approx(losses(straight), abs=1e-5)
    check_equal(folder, tmp_path)


@pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
def test_a_sharded_base_is_one_process_too(base, tmp_path, quantised) -> None:
    """FSDP2 on two processes, begun on one; the checkpoint between them is the same file for both."""
    common = {"rows_per_step": 4, "quantised": quantised, "engine": "plain"}
    straight = train_in(ALONE, base, tmp_path / "straight", **common)
    with pytest.raises(RunInterrupted):
        train_in(ALONE, base, tmp_path / "run", interrupt_at=1, **common)
    first, _ = in_group(2, _worker_with, base, tmp_path / "run", {**common, "strategy": "fsdp2"})
    assert [step[:2] for step in first] == [
        pytest.approx((m.loss, m.grad_norm), abs=1e-5) for m in straight.history
    ]
    check_equal(tmp_path / "straight", tmp_path / "run")


def _shares(base: Path) -> tuple[int, int, int]:
    """Numbers of the base in this process, of the base in all, and trained ones here."""
    with joined(2) as group:
        model = load_with_new_adapter(make_recipe(engine="plain"), base).model
        shard_base(model, group, "cpu")
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        here = sum(parameter.to_local().numel() for parameter in frozen)
        return here, sum(p.numel() for p in frozen), sum(p.numel() for p in trained)


def test_each_process_holds_half_of_the_base(base) -> None:
    for here, whole, trained in in_group(2, _shares, base):
        assert here == whole / 2
        assert 0 < trained < whole


def test_another_number_of_processes_is_an_error() -> None:
    with pytest.raises(AssertionError, match="2 processes were started, the recipe asks for 3"):
        in_group(2, _join_three)


def _join_three() -> None:
    with joined(3):
        pass


def test_one_started_process_of_two_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(EnvironmentFault, match="1 processes were started"), joined(2):
        pass


def _average() -> list[float]:
    with joined(2) as group:
        parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        parameters[0].grad = torch.full((2,), float(group.rank))
        if group.rank == 1:
            parameters[1].grad = torch.ones(2)
        group.average_gradients(parameters)
        return [-1.0 if p.grad is None else float(p.grad[0]) for p in parameters]


def test_gradients_are_means_and_absent_where_nobody_has_one() -> None:
    assert in_group(2, _average) == [[0.5, 0.5, -1.0]] * 2


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_step_is_cut_whole_and_evenly(rows: int, micro_rows: int, world: int) -> None:
    pieces = cut_step(rows, micro_rows, world)
    assert [row for piece in pieces for row in piece] == list(range(rows))
    sizes = [len(piece) for piece in pieces]
    assert min(sizes) >= 1
    assert max(sizes) <= micro_rows
    assert max(sizes) - min(sizes) <= 1
    assert len(pieces) % world == 0 or len(pieces) == rows


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_processes_share_every_step(num_rows: int, rows_per_step: int, micro_rows: int, world: int) -> None:
    groups = [Group(rank, world) for rank in range(world)]

    def share(group: Group) -> list[list[int]]:
        return shared_batches(
            num_rows, rows_per_step=rows_per_step, micro_rows=micro_rows, group=group, equal=False
        )

    last = num_rows % rows_per_step
    if min(rows_per_step, num_rows) < world or 0 < last < world:
        with pytest.raises(UsageError):
            share(groups[0])
        return
    shares = [share(group) for group in groups]
    counts = [micro_batches_per_step(rows_per_step, micro_rows, group) for group in groups]
    steps = -(-num_rows // rows_per_step)
    for step in range(steps):
        got = [
            row
            for mine, count in zip(shares, counts, strict=True)
            for batch in mine[step * count : (step + 1) * count]
            for row in batch
        ]
        assert sorted(got) == list(range(step * rows_per_step, min((step + 1) * rows_per_step, num_rows)))
    for mine, count in zip(shares, counts, strict=True):
        assert -(-len(mine) // count) == steps, "the trainer counts as many steps in every process"


def test_sharded_models_need_equal_shares() -> None:
    with pytest.raises(UsageError, match="3 rows for 2 processes"):
        shared_batches(6, rows_per_step=3, micro_rows=1, group=Group(0, 2), equal=True)
