"""Cores that are free, out of what was taken."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.machine import cores
from coalign.core.machine.cores import Cores


class Machine:
    """Time and work that a test says."""

    def __init__(self) -> None:
        self.now = self.everybody = self.own = 0.0

    def cores(self) -> Cores:
        return Cores(lambda: self.now, lambda: (self.everybody, self.own))

    def passes(self, seconds: float, others: float, own: float) -> None:
        """Both in cores."""
        self.now += seconds
        self.own += own * seconds
        self.everybody += (own + others) * seconds


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    return Machine()


@pytest.mark.parametrize(
    ("others", "own", "free"),
    [(0, 4, 4), (0, 1, 4), (0.3, 3.7, 4), (1, 3, 3), (1.8, 2.2, 2), (4, 0, 1), (9, 1, 1)],
)
def test_what_others_take_is_left_to_them(four, others, own, free):
    watching = four.cores()
    four.passes(10, others, own)
    assert watching.free(least=10) == free


def test_a_program_that_ends_gives_its_core_back(four):
    watching = four.cores()
    four.passes(10, 2, 2)
    assert watching.free(least=10) == 2
    four.passes(5, 0, 2)
    assert watching.free(least=10) is None
    four.passes(5, 0, 2)
    assert watching.free(least=10) == 4


@given(others=st.floats(0, 64), own=st.floats(0, 64), seconds=st.floats(1, 1e5))
def test_there_is_always_a_core_and_never_more_than_there_are(others, own, seconds):
    machine = Machine()
    watching = machine.cores()
    machine.passes(seconds, others, own)
    free = watching.free(least=0)
    assert free is not None
    assert 1 <= free <= cores.usable_cores()


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1), ("", None)]
)
def test_quota_of_a_container(tmp_path, monkeypatch, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert cores.usable_cores() == (16 if quota is None else quota)


def test_quota_of_the_first_version(tmp_path, monkeypatch):
    (tmp_path / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(cores, "_QUOTA_1", tmp_path / "cpu.cfs_quota_us")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert cores.usable_cores() == 3
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.usable_cores() == 16


def test_another_program_is_seen_and_own_work_is_not():
    """Of real figures: one process of ours beside this one, which is what others are."""
    watching = Cores()
    busy = [
        sys.executable,
        "-c",
        "import time\nwhile time.process_time() < 0.6: pass",
    ]
    subprocess.run(busy, check=True)
    everybody, own = cores._taken()
    assert everybody - watching._before[0] > 0.3
    assert own - watching._before[1] > 0.3  # it ended, and this process started it
    assert everybody - watching._before[0] >= 0.9 * (own - watching._before[1])


def test_a_chosen_number_is_not_looked_after(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "_watched", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cores.watch()
    assert cores.watched() is None
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores.watch()
    assert cores.watched() is not None


def test_a_policy_of_the_environment_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    cores.end_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_kernels_of_few_sizes_are_kept_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    cores.keep_few_kernels()
    assert os.environ["LRU_CACHE_CAPACITY"] == "32"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
