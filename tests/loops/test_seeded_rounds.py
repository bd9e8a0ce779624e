"""Rounds that grow: a training before them, several judges, a memory, a reference, a probe, more rounds later."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import RunError
from coalign.core.runs import Run
from coalign.data.records import Demonstration
from coalign.loops import rounds as engine
from coalign.loops.labelling import SeedStage, run_labelling
from coalign.loops.readings import told
from coalign.loops.report import rounds_table
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.models.files.loading import load_model
from coalign.training.objective import get_objective
from tests.contract.artefacts import artefacts
from tests.loops.test_labelling import Config, best_against_rest, config, loop_of, prompts
from tests.preference.tiny_runs import assert_same_weights

assert config  # the fixture of the plain loop


def by_letters(round: Round, tasks: Any, rows: Any) -> list[Row]:
    return [{**row, "scores": [-sum(map(ord, text)) for text in row["responses"]]} for row in rows]


def grown(config: Config, asked: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """A loop with a seed stage, two judges that note when they are asked, and a memory of the prompts seen."""

    def judge(name: str, sign: int) -> Any:
        def ask(round: Round, tasks: Any, rows: Any) -> list[Row]:
            if asked is not None:
                asked.append(f"{name} {round.number}")
            return [{**row, name: [sign * len(text) for text in row["responses"]]} for row in rows]

        return ask

    def pairs(round: Round, rows: Any) -> list[Row]:
        before = round.previous.memory if round.previous else []
        round.remember([*before, *({"id": row["id"]} for row in rows)][-3:])
        return best_against_rest(round, rows)

    shown = [Demonstration(prompt=one.prompt, completion="abc") for one in prompts(3, first=20)]
    return {
        "objective": get_objective("dpo"),
        "constants": get_objective("dpo").constants(),
        "judges": {"long": judge("long", 1), "short": judge("short", -1)},
        "score": by_letters,
        "assess": lambda round, tasks, rows: rows,
        "pair": pairs,
        "probe": lambda tasks, rows: [
            [-float(sum(map(ord, text))) for text in row["responses"]] for row in rows
        ],
        "seed": SeedStage(objective=get_objective("sft"), records=shown, options=config),
        **changes,
    }


def start(folder: Path, config: Config, **changes: Any) -> tuple[Run, list[Round]]:
    run = Run.start(folder, "act", config)
    return run, run_labelling(run, loop_of(config, **grown(config, **changes)))


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("runs") / "whole", config)[0]


def test_the_models_are_m0_to_mn(whole: Run, config: Config) -> None:
    models = json.loads((whole.artefacts / "checkpoints.json").read_text())
    assert [*models] == ["M0", "M1", "M2", "M3"]
    assert models["M0"] == config.model
    assert models["M1"].endswith("round-0/model")
    weights = [
        torch.cat([one.flatten() for one in load_model(name, training=True).state_dict().values()])
        for name in models.values()
    ]
    assert not any(torch.equal(one, other) for one, other in pairwise(weights))
    first = Round(whole, 1).previous
    assert first is not None
    assert first.previous is None
    assert [*map(Round.is_done, [first] * 3, ("baseline", "fit", "evaluate"))] == [True] * 3
    assert not Round(whole, 1).path("baseline").exists(), "M0 answers before the seed stage"


def test_the_reference_is_the_model_that_the_round_starts_from(whole: Run) -> None:
    for number in (1, 2):
        first = Round(whole, number).read("history")[0]
        assert first["kl/policy_reference"] == pytest.approx(0, abs=1e-5), "M0 would be far away"
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_another_reference_can_be_asked_for(config: Config, tmp_path: Path) -> None:
    run, _ = start(tmp_path / "run", replace(config, rounds=1), reference=lambda round: config)
    assert abs(Round(run, 1).read("history")[0]["kl/policy_reference"]) > 1e-3


def test_what_judges_and_memory_leave(whole: Run) -> None:
    second = Round(whole, 2)
    assert [{*row} >= {"long"} for row in second.read("measure-long")] == [True, True]
    assert [{*row} >= {"long", "short", "scores", "truth"} for row in second.read("measure")] == [True, True]
    assert [row["id"] for row in second.memory] == ["p1", "p2", "p3"]
    assert [row["id"] for row in Round(whole, 1).memory] == ["p0", "p1"]


def test_labels_are_held_against_the_truth(whole: Run, config: Config, tmp_path: Path) -> None:
    assert told(Round(whole, 1))["label accuracy"] == 1.0
    assert told(Round(whole, 1)).keys() >= {"length", "unfinished", "built", "kept", "held-out measure"}
    assert "before: held-out measure" in told(Round(whole, 0))
    wrong = {
        "probe": lambda tasks, rows: [
            [float(sum(map(ord, text))) for text in row["responses"]] for row in rows
        ]
    }
    run, _ = start(tmp_path / "run", replace(config, rounds=1), **wrong)
    assert told(Round(run, 1))["label accuracy"] == 0.0
    (warning,) = [one for one in run.events("warning") if one["key"] == "label accuracy"]
    assert "0 is below 0.5" in warning["text"]


def test_the_table_of_rounds_has_a_row_a_model(whole: Run, config: Config) -> None:
    loop = loop_of(config, **grown(config))
    table = rounds_table(loop, whole, [Round(whole, 1), Round(whole, 2)], note="", units={})
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["model"] for row in rows] == ["M0", "M1", "M2", "M3"]
    assert [row["made by"] for row in rows] == [None, "seed data", "round 1", "round 2"]
    assert all(row["held-out measure"] is not None for row in rows)
    assert rows[0]["seconds"] is None
    assert rows[2]["kept"] == rows[2]["trained on"] == 2


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (0, "fit"),
        (2, "measure"),
        *(pytest.param(0, one, marks=pytest.mark.slow) for one in ("baseline", "evaluate")),
    ],
)
def test_killed_in_the_seed_stage_or_between_judges(
    number: int, stage: str, whole: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage, asked = engine.run_stage, []

    def killed(round: Round, name: str, work: Any) -> None:
        if (round.number, name) == (number, stage):
            work(round)
            raise KeyboardInterrupt
        run_stage(round, name, work)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_stage", killed)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run", config, asked=asked)
    run, _ = start(tmp_path / "run", config, asked=asked)
    assert sorted(asked) == ["long 1", "long 2", "short 1", "short 2"], "no judge is asked twice"
    assert artefacts(run.path) == artefacts(whole.path)
    assert_same_weights(run, whole)


def test_more_rounds_later_are_what_as_many_at_once_are(config: Config, tmp_path: Path) -> None:
    fixed = {"per_round": 2, "training": prompts(6)}
    at_once, _ = start(tmp_path / "at once", replace(config, rounds=3), **fixed)
    for count in (1, 3):
        changed = replace(config, rounds=count)
        type(changed).__may_change__ = ("rounds",)  # type: ignore[attr-defined]
        later, _ = start(tmp_path / "later", changed, **fixed)
        assert later.config()["rounds"] == count
    assert artefacts(later.path) == artefacts(at_once.path)
    assert_same_weights(later, at_once)
    with pytest.raises(RunError, match="begun more than 1 rounds"):
        start(tmp_path / "later", replace(config, rounds=1), **fixed)
