"""Rounds of labelling: any stage may be killed, prompts are shared out, a round may have nothing to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError
from coalign.core.options import Count, build, option
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.data.records import PromptRecord
from coalign.loops import rounds as engine
from coalign.loops.labelling import Labelling, run_labelling
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.models.backends.options import PolicyBackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions
from tests.contract.artefacts import artefacts
from tests.models.stand_in import COMMAND, is_running
from tests.preference.tiny_runs import assert_same_weights

STAGES = ("baseline", "propose", "generate", "measure", "build", "filter", "fit", "evaluate")
OTHER_STAGES = [(1, "baseline"), *((2, one) for one in STAGES[1:] if one not in ("generate", "evaluate"))]
"""Where `act` is killed by the contract tests as well."""


@dataclass(kw_only=True)
class Config(ModelOptions, SamplingOptions, TrainingOptions):
    """Options of a loop."""

    rounds: Count = option(2, "rounds")


@pytest.fixture(scope="module")
def config(tiny_model: str) -> Config:
    options = {"max_new_tokens": 4, "learning_rate": 1e-2, "max_steps": 1, "device": "cpu"}
    return build(Config, {"model": tiny_model, **options})


def prompts(n: int, first: int = 0) -> list[PromptRecord]:
    return [
        PromptRecord(prompt=[{"role": "user", "content": f"say {i}"}], extra={"id": f"p{i}"})
        for i in range(first, first + n)
    ]


def best_against_rest(round: Round, rows: Any) -> list[Row]:
    return [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "chosen": row["responses"][row["scores"].index(max(row["scores"]))],
            "rejected": row["responses"][row["scores"].index(min(row["scores"]))],
        }
        for row in rows
        if len(set(row["scores"])) > 1
    ]


def loop_of(config: Config, **changes: Any) -> Labelling[PromptRecord]:
    """Letters that come early in the alphabet are wanted; each round has its own prompts."""

    def score(round: Round, tasks: Any, rows: Any) -> list[Row]:
        assert [one.id for one in tasks] == [row["id"] for row in rows]
        return [{**row, "scores": [-sum(map(ord, text)) for text in row["responses"]]} for row in rows]

    given: dict[str, Any] = {
        "config": config,
        "objective": get_objective("simpo"),
        "constants": get_objective("simpo").constants(),
        "training": prompts(4),
        "held_out": prompts(2, first=10),
        "evaluation": Sampling(max_new_tokens=4, temperature=0.0),
        "samples": 3,
        "score": score,
        "pair": best_against_rest,
        "nothing": CoalignError("All responses are worth the same."),
        "fresh": True,
    }
    return Labelling(**{**given, **changes})


def start(folder: Path, config: Config, **changes: Any) -> tuple[Run, list[Round]]:
    run = Run.start(folder, "act", config)
    return run, run_labelling(run, loop_of(config, **changes))


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("runs") / "whole", config)[0]


def test_every_stage_leaves_its_rows_and_every_round_its_model(whole: Run) -> None:
    first, second = Round(whole, 1), Round(whole, 2)
    assert second.previous == first
    assert all(one.is_done(stage) for one in (first, second) for stage in STAGES)
    asked = [[row["id"] for row in one.read("propose")] for one in (first, second)]
    assert asked == [["p0", "p1"], ["p2", "p3"]]
    assert all(len(row["responses"]) == len(row["scores"]) == 3 for row in first.read("measure"))
    assert read_records(first.path("filter")).kind == "preference"
    assert [row["id"] for row in second.read("heldout-after")] == ["p10", "p11"]
    for one in (first, second):
        assert (one.folder / "model").is_dir()
    assert first.read("generate")[0]["responses"] != second.read("generate")[0]["responses"]


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (1, "fit"),
        (2, "generate"),
        (2, "evaluate"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHER_STAGES),
    ],
)
def test_a_run_that_was_killed_in_any_stage_goes_on_to_the_same_result(
    stage: str, number: int, whole: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage = engine.run_stage

    def killed(round: Round, name: str, work: Callable[[Round], None]) -> None:
        if (round.number, name) == (number, stage):
            work(round)  # everything is written but that the stage is done
            raise KeyboardInterrupt
        run_stage(round, name, work)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_stage", killed)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run", config)
    run, _ = start(tmp_path / "run", config)
    assert artefacts(run.path) == artefacts(whole.path)
    assert_same_weights(run, whole)


def test_more_rounds_take_the_prompts_that_are_left_and_then_all_again(
    config: Config, tmp_path: Path
) -> None:
    run = Run.start(tmp_path / "run", "act", config)

    def nothing(round: Round, tasks: Any, rows: Any) -> list[Row]:
        return [{**row, "scores": [0, 0, 0]} for row in rows]

    given = {"score": nothing, "may_skip": True, "held_out": [], "training": prompts(5)}
    for count in (2, 4):
        with pytest.raises(CoalignError, match="worth the same"):
            run_labelling(run, loop_of(replace(config, rounds=count), **given))
    asked = [[row["id"][1:] for row in Round(run, n).read("propose")] for n in (1, 2, 3, 4)]
    assert asked == [["0", "1", "2"], ["3", "4"], ["0", "1", "2"], ["3", "4"]]


def test_a_round_with_nothing_to_learn_from_stops_or_keeps_its_model(config: Config, tmp_path: Path) -> None:
    def only_first(round: Round, rows: Any) -> list[Row]:
        return best_against_rest(round, rows) if round.number == 1 else []

    with pytest.raises(CoalignError, match="worth the same"):
        start(tmp_path / "stops", config, pair=only_first)
    run, rounds = start(tmp_path / "keeps", config, pair=only_first, may_skip=True)
    loop = loop_of(config)
    assert loop.policy(None) is config
    assert loop.policy(rounds[1]).model == str(rounds[0].folder / "model")
    assert run.model.is_dir()


def test_what_is_kept_depends_on_the_round_and_what_changed_is_handed_over(
    config: Config, tmp_path: Path
) -> None:
    seeds, compared = [], []

    def keep(rows: Any, seed: int) -> Any:
        seeds.append(seed)
        return rows[:1]

    def compare(round: Round, before: Any, after: Any) -> None:
        compared.append((round.number, [row["id"] for row in before], [row["id"] for row in after]))

    run, rounds = start(tmp_path / "run", config, keep=keep, compare=compare)
    assert seeds == [config.seed, config.seed + 1]
    assert [len(one.read("filter")) for one in rounds] == [1, 1]
    assert compared == [(n, ["p10", "p11"], ["p10", "p11"]) for n in (1, 2)]
    assert [event["kept"] for event in run.events("filtered")] == [1, 1]


@dataclass(kw_only=True)
class ServedConfig(PolicyBackendOptions, Config):
    """Options of a loop whose policy may answer on a server."""


def test_a_served_policy_answers_with_the_weights_of_its_round(tiny_model, tmp_path, stand_in):
    """Round 1 asks the start model, round 2 the model of round 1; the server ends with the loop."""
    options = {"max_new_tokens": 48, "learning_rate": 1e-2, "max_steps": 2, "device": "cpu"}
    served = {"backend": "vllm-server", "vllm_command": COMMAND}
    config = build(ServedConfig, {"model": tiny_model, **options, **served})
    _, rounds = start(tmp_path / "run", config, evaluation=Sampling(48, temperature=0.0))

    def weights_of(round: Round, stage: str) -> set[str]:
        return {text.split("|")[0] for row in round.read(stage) for text in row["responses"]}

    first, second = (weights_of(one, "generate") for one in rounds)
    assert weights_of(rounds[0], "baseline") == first
    assert weights_of(rounds[0], "evaluate") == second
    last = weights_of(rounds[1], "evaluate")
    assert [len(one) for one in (first, second, last)] == [1, 1, 1]
    assert len(first | second | last) == 3
    names = [one["lora_name"] for one in stand_in.asked("/v1/load_lora_adapter")]
    assert len(set(names)) == len(names)
    assert not any(is_running(one["started"]) for one in stand_in.starts())
