"""CREAM on a tiny model: which models judge, what is believed, and what a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.loops.readings import told
from coalign.loops.rounds import Round
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.implicit_reward import sequence_logps
from coalign.selfalign import cream
from tests.preference.tiny_runs import demonstrations, run_system, save_tiny_model, write

OPTIONS: dict[str, Any] = {
    "samples": 3,
    "max_new_tokens": 6,
    "seed_epochs": 1,
    "rounds": 2,
    "eval_fraction": 0.0,
}
rewards = st.lists(st.integers(-5, 5), min_size=2, max_size=6)


def start(model: str, folder: Path, **changes: Any) -> Run:
    prompts = write(folder.with_suffix(".jsonl"), [{"id": f"p{n}", "prompt": f"Say {n}."} for n in range(6)])
    seed = write(folder.with_name("seed.jsonl"), demonstrations(4))
    options = {"prompts": str(prompts), "seed_data": str(seed), "model": model, **OPTIONS, **changes}
    return run_system("cream", cream, folder, **options)


@pytest.fixture(scope="module")
def whole(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tiny_model, tmp_path_factory.mktemp("cream") / "run", consistency="sample")


def logps(run: Run, model: str, rows: list[Any]) -> list[list[float]]:
    found = sequence_logps(
        load_model(model, training=False),
        load_tokenizer(model),
        [row["prompt"] for row in rows],
        [row["responses"] for row in rows],
    )
    return found.means() if run is None else found.sums


def test_the_judges_are_the_models_that_the_paper_names(whole: Run) -> None:
    """Round 1: M1 against M0, and M0's likelihood a token. Round 2: M2 against M0, and M1 against M0."""
    models = json.loads((whole.artefacts / "checkpoints.json").read_text())
    for number in (1, 2):
        rows = Round(whole, number).read("measure")
        m = {name: logps(whole, models[name], rows) for name in ("M0", f"M{number}", f"M{number - 1}")}
        for place, row in enumerate(rows):
            first, now = m["M0"][place], m[f"M{number}"][place]
            assert row["reward"] == pytest.approx([a - b for a, b in zip(now, first, strict=True)], abs=1e-3)
            before = [a - b for a, b in zip(m[f"M{number - 1}"][place], first, strict=True)]
            if number == 1:
                before = logps(None, models["M0"], rows)[place]  # type: ignore[arg-type]
            assert row["previous_reward"] == pytest.approx(before, abs=1e-3)


def test_pairs_are_best_and_worst_and_believed_as_far_as_both_agree(whole: Run) -> None:
    for number in (1, 2):
        rows = {row["id"]: row for row in Round(whole, number).read("measure")}
        for pair in Round(whole, number).read("filter"):
            row = rows[pair["id"]]
            assert pair["chosen"] == row["responses"][row["reward"].index(max(row["reward"]))]
            assert pair["rejected"] == row["responses"][row["reward"].index(min(row["reward"]))]
            assert pair["confidence"] == row["consistency"]
        rates = [row["consistency"] for row in rows.values()]
        assert told(Round(whole, number))["consistency"] == pytest.approx(sum(rates) / len(rates))


def test_training_sees_the_tokens_that_were_scored(whole: Run) -> None:
    """One batch a round: the mean log-probability of the chosen answers before the step is that of the judge."""
    models = json.loads((whole.artefacts / "checkpoints.json").read_text())
    pairs = Round(whole, 2).read("filter")
    texts = [{"prompt": one["prompt"], "responses": [one["chosen"]]} for one in pairs]
    expected = [one[0] for one in logps(whole, models["M2"], texts)]
    found = Round(whole, 2).read("history")[0]["logps/chosen"]
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-2)


@pytest.mark.parametrize(
    ("level", "believed"), [("set", [0.5, 0.5]), ("sample", [1.0, 0.0]), ("off", [1.0, 1.0])]
)
def test_levels(level: str, believed: list[float], tmp_path: Path) -> None:
    config = build(cream.Config, {"prompts": "x", "seed_data": "y", "consistency": level})
    round = Round(Run.start(tmp_path / "run", "cream", config), 1)
    shared = {"prompt": [], "responses": ["x", "y"], "finish_reasons": ["stop", "stop"], "reward": [1.0, 2.0]}
    rows = [
        {"id": name, **shared, "previous_reward": other}
        for name, other in (("a", [1.0, 2.0]), ("b", [2.0, 1.0]))
    ]
    pairs = cream.make_pairs(round, cream.rate_agreement(round, rows, "order"), config)
    assert [one["confidence"] for one in pairs] == believed


def test_all_weights_are_trained_against_the_start_of_the_round(tiny_model: str, tmp_path: Path) -> None:
    run = start(tiny_model, tmp_path / "run", tuning="full", rounds=1)
    round = Round(run, 1)
    assert not (round.folder / "model" / "adapter_config.json").exists()
    assert round.read("history")[0]["kl/policy_reference"] == pytest.approx(0, abs=1e-5)


def test_an_oracle_ranks_and_is_believed(tiny_model: str, tmp_path: Path) -> None:
    run = start(
        tiny_model, tmp_path / "run", oracle=["max_characters:5"], measure=["max_characters:5"], rounds=1
    )
    round = Round(run, 1)
    assert not round.path("measure-previous").exists()
    assert not round.path("logps-M0").exists()
    assert {row["confidence"] for row in round.read("filter")} == {1.0}
    assert told(round)["label accuracy"] == 1.0


def test_m0_may_be_given(tiny_model: str, tmp_path: Path) -> None:
    base = str(save_tiny_model(tmp_path / "base", seed=9))
    run = start(tiny_model, tmp_path / "run", seed_data=None, seed_epochs=5.0, initial_model=base, rounds=1)
    models = json.loads((run.artefacts / "checkpoints.json").read_text())
    assert [*models] == ["M0", "M1", "M2"]
    assert (models["M0"], models["M1"]) == (base, tiny_model)
    rows = Round(run, 1).read("measure")
    first, now = (logps(run, models[name], rows) for name in ("M0", "M1"))
    assert rows[0]["reward"] == pytest.approx(
        [a - b for a, b in zip(now[0], first[0], strict=True)], abs=1e-3
    )


def test_answers_that_are_all_the_same_give_no_pair(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="same reward"):
        start(tiny_model, tmp_path / "run", temperature=0.0)
    rows = read_rows(tmp_path / "run" / "artefacts" / "round-1" / "measure.jsonl")
    assert {row["consistency"] for row in rows} == {0.5}
    told_of = told(Round(Run.open(tmp_path / "run"), 1))
    assert (told_of["identical answers"], told_of["without a pair"]) == (3, 3)


def test_two_models_are_needed(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--initial-model"):
        start(tiny_model, tmp_path / "run", seed_data=None, seed_epochs=5.0)


def test_seed_data_of_another_kind_is_refused(tiny_model: str, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "Say.", "response": "x", "judgment": "Bad."}])
    with pytest.raises(DataError, match="demonstration records are needed"):
        start(tiny_model, tmp_path / "run", seed_data=str(bad))


def test_a_missing_reward_is_not_scored_and_answers_without_an_end_can_be_left_out(tmp_path: Path) -> None:
    round = Round(Run.start(tmp_path / "run", "cream", cream.Config(prompts="x", seed_data="y")), 1)
    rows = [
        {"id": "a", "prompt": [], "responses": ["x", "y", "z"], "finish_reasons": ["length", "stop", "stop"],
         "reward": [3.0, 2.0, 1.0], "previous_reward": [1.0, 2.0, 3.0]},
        {"id": "b", "prompt": [], "responses": ["x", "y"], "finish_reasons": ["stop", "stop"],
         "reward": [None, None], "previous_reward": [1.0, 2.0]},
    ]  # fmt: skip
    rated = cream.rate_agreement(round, rows, "order")
    assert [row["consistency"] for row in rated] == [0.0, None]
    assert [one["key"] for one in round.run.events("warning")] == ["consistency"]
    config = cream.Config(prompts="x", seed_data="y")
    (pair,) = cream.make_pairs(round, rated, config)
    assert (pair["chosen"], pair["rejected"], pair["confidence"]) == ("x", "z", 0.0)
    config = cream.Config(prompts="x", seed_data="y", unfinished="leave out")
    (pair,) = cream.make_pairs(round, rated, config)
    assert (pair["chosen"], pair["rejected"]) == ("y", "z")


@given(first=rewards, data=st.data())
def test_agreement_is_symmetric_and_sees_order_alone(first: list[int], data: Any) -> None:
    second = data.draw(st.lists(st.integers(-5, 5), min_size=len(first), max_size=len(first)))
    for ties in ("order", "zero"):
        rate = cream.consistency(first, second, ties=ties)
        assert 0 <= rate <= 1
        assert rate == pytest.approx(cream.consistency(second, first, ties=ties))
        assert rate == cream.consistency(
            [math.exp(one) for one in first], [3.0 * one + 1 for one in second], ties=ties
        )
    if len({*first}) == len(first):
        assert cream.consistency(first, first, ties="zero") == 1
        assert cream.consistency(first, [-one for one in first], ties="zero") == 0


def test_extremes_are_the_first_of_equals() -> None:
    assert cream.best_and_worst([1.0, 3.0, 3.0, 0.0, 0.0]) == (1, 3)
    assert cream.best_and_worst([2.0, 2.0]) is None
    assert cream.best_and_worst(torch.tensor([1.0, 2.0]).tolist()) == (1, 0)
