"""The loop engine: order of stages, artefacts, and going on after a kill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from coalign.core.errors import RunError
from coalign.core.options import option
from coalign.core.runs import Run
from coalign.loops.rounds import Round, Stage, run_rounds, timings


@dataclass(kw_only=True)
class Config:
    seed: int = option(0, "seed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.start(tmp_path / "run", "act", Config())


def test_stages_run_in_the_engine_s_order_and_once(run: Run) -> None:
    calls: list[tuple[str, int]] = []

    def stage(name: str) -> Stage:
        return lambda round: calls.append((name, round.number))

    stages = {name: stage(name) for name in ("evaluate", "fit", "generate")}
    run_rounds(run, stages, rounds=2)
    run_rounds(run, stages, rounds=2)
    assert calls == [(name, n) for n in (1, 2) for name in ("generate", "fit", "evaluate")]


def test_a_torn_row_is_cut_off(run: Run) -> None:
    one = Round(run, 1)
    one.append("generate", [{"id": "a"}, {"id": "b"}])
    with one.path("generate").open("a") as file:
        file.write('{"id": "c", "resp')
    assert [row["id"] for row in one.read("generate")] == ["a", "b"]
    one.append("generate", [{"id": "c"}])
    assert [row["id"] for row in one.read("generate")] == ["a", "b", "c"]


def test_timings_and_facts(run: Run) -> None:
    rounds = run_rounds(run, {"fit": lambda round: None})
    (row,) = timings(rounds, ("generate", "fit"))
    assert row["stage"] == "fit"
    assert row["seconds"] >= 0
    assert row["peak_mb"] > 0


def test_unknown_stage(run: Run) -> None:
    with pytest.raises(RunError, match="unknown stages: train"):
        run_rounds(run, {"train": lambda round: None})


@dataclass(kw_only=True)
class Raised:
    __may_change__ = ("rounds",)
    rounds: int = option(1, "rounds")


def test_fewer_rounds_than_were_begun_leave_the_configuration_as_it_is(tmp_path: Path) -> None:
    stages = {"generate": lambda one: None}
    for asked, kept in ((2, 2), (1, 2), (3, 3)):
        run = Run.start(tmp_path / "run", "act", Raised(rounds=asked))
        if asked == kept:
            run_rounds(run, stages, rounds=asked)
        else:
            with pytest.raises(RunError, match="has begun more than 1 rounds"):
                run_rounds(run, stages, rounds=asked)
        assert run.config() == {"rounds": kept}
