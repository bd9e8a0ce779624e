"""Processes that watch over each other: who left early, who is silent, who is waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from coalign.training.distributed.group_watch import PATIENCE, SILENCE, TOLD_EVERY, GroupWatch


class Group:
    """Two watches over one store, whose periods pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.ended: list[str] = []
        store: Any = dist.HashStore()
        self.first, self.second = (
            GroupWatch(
                store,
                rank,
                2,
                limit=1800,
                tell=self.told.append,
                end=self.ended.append,
                clock=lambda: self.now,
            )
            for rank in (0, 1)
        )
        for one in (self.first, self.second):
            one._publish()

    def step(self, watch: GroupWatch, number: int, of: int = 4) -> None:
        watch.on_step_end(None, SimpleNamespace(global_step=number, max_steps=of), None)  # type: ignore[arg-type]

    def end(self, watch: GroupWatch, number: int, of: int = 4) -> None:
        watch.on_train_end(None, SimpleNamespace(global_step=number, max_steps=of), None)  # type: ignore[arg-type]

    def wait(self, seconds: float, *watches: GroupWatch) -> None:
        for _ in range(round(seconds)):
            self.now += 1
            for one in watches or (self.first, self.second):
                one.look()


@pytest.fixture
def group() -> Group:
    return Group()


def test_a_process_that_left_its_loop_early_is_named(group: Group) -> None:
    group.step(group.first, 3)
    group.step(group.second, 2)
    group.end(group.second, 2)
    group.wait(PATIENCE - 1, group.first)
    assert group.ended == [], "a step may take its time"
    group.wait(1, group.first)
    assert group.ended == [
        "Process 1 left its loop after step 2, before the last one, and process 0 waits for it after step 3."
    ]


def test_a_process_that_stops_says_so_before_the_operations_at_the_end_of_its_epoch(group: Group) -> None:
    for one in (group.first, group.second):
        group.step(one, 2)
    state: Any = SimpleNamespace(global_step=2, max_steps=4)
    group.second.on_epoch_end(None, state, SimpleNamespace(should_training_stop=False))
    group.wait(PATIENCE + 1)
    assert group.ended == []
    group.second.on_epoch_end(None, state, SimpleNamespace(should_training_stop=True))
    group.wait(1, group.first)
    assert group.ended == [
        "Process 1 left its loop after step 2, before the last one, and process 0 waits for it after step 2."
    ]


def test_a_process_that_is_not_as_far_waits_for_nobody(group: Group) -> None:
    group.step(group.first, 1)
    group.step(group.second, 2)
    group.end(group.second, 2)
    group.wait(PATIENCE + 1, group.first)
    assert group.ended == []


def test_a_process_that_finished_is_not(group: Group) -> None:
    group.step(group.first, 3)
    group.end(group.second, 4)
    group.wait(2 * SILENCE, group.first)
    assert group.ended == []


def test_steps_that_take_long_end_nothing(group: Group) -> None:
    for step in range(3):
        group.wait(SILENCE * 2)
        group.step(group.first, step)
        group.step(group.second, step)
    assert (group.ended, group.told) == ([], [])


def test_a_silent_process_is_named(group: Group) -> None:
    group.step(group.first, 2)
    group.step(group.second, 1)
    group.wait(2)
    group.wait(SILENCE - 2, group.first)
    assert group.ended == []
    group.wait(5, group.first)
    assert group.ended[0].startswith("Process 1 has given no sign for 1:0")
    assert group.ended[0].endswith("last after step 1; process 0 waits for it after step 2.")


@pytest.mark.parametrize("what", ["writes a checkpoint", "evaluates"])
def test_long_work_of_one_process_is_told_now_and_then_and_ends_nothing(group: Group, what: str) -> None:
    with group.second.doing(what):
        group.wait(2.5 * TOLD_EVERY)
    assert group.ended == []
    assert group.told == [
        f"Process 1 {what} since 1:00; the others wait, at most 30:00.",
        f"Process 1 {what} since 2:00; the others wait, at most 30:00.",
    ]
    group.wait(2 * TOLD_EVERY)
    assert len(group.told) == 2


def test_whoever_writes_is_not_ended_because_another_left(group: Group) -> None:
    """The first process may write the last checkpoint long after the others are done with it."""
    with group.first.doing("writes a checkpoint"):
        group.end(group.second, 2)
        group.wait(SILENCE * 2, group.first)
    assert group.ended == []
