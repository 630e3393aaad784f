"""Freed memory goes back to the system when more has piled up than a step leaves, and not before."""

import subprocess
import sys

import pytest

from sovtune.fastpath import heap
from sovtune.fastpath.heap import Slack
from tiny_models import make_base
from tiny_runs import make_recipe, make_rows, train

REAL = """
import psutil
from sovtune.fastpath.heap import Slack

process = psutil.Process()
kept, freed = [], []
for _ in range(1000):  # below the size from which a block is given back by itself; the live ones leave holes
    kept.append(bytearray(b"x" * 20_000))
    freed.append(bytearray(b"x" * 100_000))
freed.clear()
before = process.memory_info().rss
slack = Slack(lambda: process.memory_info().rss)
slack.after_step()
print(before - process.memory_info().rss, before - slack.floor, slack.of_a_step, len(kept))
"""


class Memory:
    """A process whose memory after each step is written down; giving back leaves ``floor``."""

    def __init__(self, monkeypatch, floor):
        self.held, self.floor, self.times = 0, floor, 0
        monkeypatch.setattr(heap, "give_back", self.give_back)

    def give_back(self):
        self.held, self.times = self.floor, self.times + 1


def test_it_is_given_back_when_it_has_grown_beyond_what_a_step_leaves(monkeypatch):
    memory = Memory(monkeypatch, floor=1000)
    slack = Slack(lambda: memory.held, clock=lambda: 0.0)
    given = []
    for held in (1400, 1400, 1500, 1555, 1556, 1480, 1644, 1645):
        memory.held = held
        slack.after_step()
        given.append(memory.times)
    # At once, to learn what a step leaves (400); at a tenth of 1,556 beyond it; then a step leaves 480, and 645 is it.
    assert given == [1, 1, 1, 1, 2, 2, 2, 3]


def test_what_stays_held_anyway_is_not_given_back_in_every_step(monkeypatch):
    """Rows that grow: the longest one sets what a step may leave."""
    memory = Memory(monkeypatch, floor=1000)
    slack = Slack(lambda: memory.held, clock=lambda: 0.0)
    for step in range(40):
        memory.held = 1000 + 100 + 10 * min(step, 20)
        slack.after_step()
    assert memory.times < 6


def test_long_steps_begin_with_memory_given_back(monkeypatch):
    """What costs less than a fiftieth of the time is always given back, but not crumbs."""
    memory, now = Memory(monkeypatch, floor=1_000_000_000), [0.0]
    slack = Slack(lambda: memory.held, clock=lambda: now[0])
    given = []
    for seconds, free in ((20, 5e8), (20, 5e8), (20, 5e8), (5, 5e8), (20, 5e8), (20, 5e7)):
        now[0] += seconds
        memory.held = memory.floor + int(free)
        slack.after_step()
        given.append(memory.times)
    assert given == [1, 2, 3, 3, 4, 4]


def test_a_run_looks_after_every_step(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(1))
    monkeypatch.setattr(heap, "WORTH_GIVING", -1)
    monkeypatch.setattr(heap, "COST_ALLOWED", 1e9)  # whatever it costs
    train(make_recipe(), make_base(tmp_path / "base"), tmp_path / "run", make_rows(16), steps=5)
    assert len(given) >= 4  # a step that frees nothing needs none


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_memory_really_goes_back():
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    gone, below_floor, of_a_step, kept = map(int, done.stdout.split())
    assert gone > 70_000_000 and kept == 1000
    assert abs(of_a_step - gone) < 10_000_000 and abs(below_floor - gone) < 10_000_000
