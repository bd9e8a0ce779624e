"""Rows are kept one by one; a stopped check goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coalign.checks.arms import measure_arms, seconds_spent, stated
from coalign.checks.options import CheckOptions
from coalign.core.catalogue import get
from coalign.core.errors import CoalignError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.core.verdict import Verdict


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.start(tmp_path / "run", "check", CheckOptions())


def small_check(run: Run) -> Verdict:
    """Gold rises.

    Rule:
        Seen: gold rises.

        Otherwise not seen.

    Setting:
        {data}: {n} records,
        held-out ones too.

    Raises:
        CoalignError: never.
    """
    raise NotImplementedError


small_check.__module__ = "coalign.checks.papers.selfalign.act"


class World:
    """Counts what is asked of it, and may stop at one arm."""

    def __init__(self, stop_at: tuple[int, str] | None = None) -> None:
        self.prepared: list[int] = []
        self.measured: list[tuple[int, str]] = []
        self.stop_at = stop_at

    def prepare(self, seed: int) -> int:
        self.prepared.append(seed)
        return seed

    def measure(self, seed: int, name: str, value: float) -> dict[str, float]:
        if self.stop_at == (seed, name):
            raise KeyboardInterrupt
        self.measured.append((seed, name))
        return {"gold": value + seed}

    def arms(self) -> dict[str, Callable[[int], dict[str, float]]]:
        return {
            "base": lambda seed: self.measure(seed, "base", 0.25),
            "ours": lambda seed: self.measure(seed, "ours", 1 / 3),
        }


def test_a_stopped_check_measures_only_what_is_missing(run: Run) -> None:
    first = World(stop_at=(1, "ours"))
    with pytest.raises(KeyboardInterrupt):
        measure_arms(run, seeds=3, prepare=first.prepare, arms=first.arms())
    with (run.artefacts / "measures.jsonl").open("a") as file:
        file.write('{"arm": "ours", "se')  # a line torn by a kill
    second = World()
    rows = measure_arms(run, seeds=3, prepare=second.prepare, arms=second.arms()).rows
    assert second.prepared == [1, 2]
    assert second.measured == [(1, "ours"), (2, "base"), (2, "ours")]
    undisturbed = World()
    other = Run.start(run.path.parent / "other", "check", CheckOptions())
    assert rows == measure_arms(other, seeds=3, prepare=undisturbed.prepare, arms=undisturbed.arms()).rows
    assert rows[1] == {"arm": "ours", "seed": 0, "gold": 0.333333}
    assert read_rows(run.artefacts / "measures.jsonl") == rows


def test_a_finished_check_prepares_nothing(run: Run) -> None:
    world = World()
    rows = measure_arms(run, seeds=1, prepare=world.prepare, arms=world.arms())
    again = World()
    assert measure_arms(run, seeds=1, prepare=again.prepare, arms=again.arms()) == rows
    assert again.prepared == []
    assert seconds_spent(run) >= 0
    assert len(run.events("measured")) == 3


def test_a_metric_that_is_no_number_stops_the_check(run: Run) -> None:
    with pytest.raises(CoalignError, match="seed 0, ours: gold is not a finite number"):
        measure_arms(run, seeds=1, prepare=int, arms={"ours": lambda _: {"gold": float("nan"), "kl": 1.0}})
    assert read_rows(run.artefacts / "measures.jsonl") == []


def test_threads_are_given_back(run: Run) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []
    try:
        count = lambda _: seen.append(torch.get_num_threads())  # noqa: E731
        measure_arms(run, seeds=1, prepare=count, arms={"a": lambda _: {"x": 1.0}})
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_verdict_reads_its_rows_and_those_of_other_arms(run: Run) -> None:
    arms = {"base": lambda seed: {"gold": 0.5}, "ours": lambda seed: {"gold": 0.5 + seed}}
    rows = measure_arms(run, seeds=2, prepare=int, arms=arms)
    rows += measure_arms(run, seeds=1, prepare=int, arms={"other": lambda seed: {"kl": 1.0}})
    assert rows.values("gold", "ours") == {0: 0.5, 1: 1.5}
    assert rows.gaps("gold", "ours", "base") == {0: 0.0, 1: 1.0}
    assert (rows.mean("gold", ["base", "ours"]), rows.gap("gold", "ours", "base")) == (0.75, 0.5)
    verdict = rows.verdict(
        small_check, outcome="seen", summary={"kl": rows.mean("kl", "other")}, data="pairs.jsonl", n=2
    )
    assert (verdict.slug, verdict.rule) == ("act", "Seen: gold rises. Otherwise not seen.")
    assert verdict.setting == "pairs.jsonl: 2 records, held-out ones too."
    assert (verdict.claim, verdict.measures, verdict.summary) == (get("act").claim, rows.rows, {"kl": 1.0})
    assert verdict.seconds == seconds_spent(run)


def test_a_check_that_does_not_say_its_rule_or_its_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KeyError, match="n"):
        stated(small_check, data="pairs.jsonl")
    for doc, missing in (
        ("Up.\n\nRule:\n    r\n", "Setting"),
        ("Up.\n\nRule:\n\nSetting:\n    s\n", "Rule"),
        (None, "Rule"),
    ):
        monkeypatch.setattr(small_check, "__doc__", doc)
        with pytest.raises(ValueError, match=f"act.small_check: its docstring has no section {missing}"):
            stated(small_check)
