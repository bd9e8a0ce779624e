"""Sweeps: what stands in the expanded pipeline, which stages are shared, what is best, and a sweep from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coalign.cli.main import coalign
from coalign.core.errors import ConfigError
from coalign.core.runs import Run
from coalign.platform.pipeline.description import pipeline_of, stage_folder
from coalign.platform.pipeline.grid import Cell, Point, best_of, cells_of, expanded, points_of
from coalign.platform.pipeline.sweep import SweepOptions, method_pipeline, plan_sweep
from coalign.platform.pipeline.sweep_report import verdict_text

CHAIN = {
    "settings": {"model": "default", "beta": 0.1, "steps": 3},
    "stages": {
        "tuned": {"run": "sft", "options": {"model": "${model}", "data": "a.jsonl"}},
        "preferred": {"run": "dpo", "options": {"model": "${tuned}", "beta": "${beta}", "data": "b.jsonl"}},
        "measured": {"run": "honesty", "options": {"model": "${preferred}"}, "after": ["tuned"]},
        "longer": {
            "run": "sft",
            "options": {"model": "${tuned}", "max_steps": "${steps}", "data": "a.jsonl"},
        },
    },
}


def test_stages_that_the_settings_do_not_reach_are_shared():
    whole, cells = expanded(
        pipeline_of(CHAIN, "p.yaml"), cells_of({"beta": [0.1, 0.5], "steps": [3]}, None, 0)
    )
    names = [one.name for one in whole.stages]
    assert names.count("tuned") == 1
    assert sorted(name.partition("-")[0] for name in names) == [
        "longer", "measured", "measured", "preferred", "preferred", "tuned"
    ]  # fmt: skip
    first, second = cells
    assert first.stages["tuned"] == second.stages["tuned"]
    assert first.stages["longer"] == second.stages["longer"]
    assert first.stages["measured"] != second.stages["measured"]
    by_name = {one.name: one for one in whole.stages}
    measured = by_name[second.stages["measured"]]
    assert measured.options["model"] == f"${{{second.stages['preferred']}}}"
    assert measured.after == ("tuned",)
    assert by_name[second.stages["preferred"]].options["beta"] == 0.5


def test_a_grid_that_grows_keeps_the_names_of_what_it_had():
    pipeline = pipeline_of(CHAIN, "p.yaml")
    small = expanded(pipeline, cells_of({"beta": [0.5]}, None, 0))[1]
    large = expanded(pipeline, cells_of({"beta": [0.1, 0.5, 1.0]}, None, 0))[1]
    assert small[0].stages == large[1].stages


@given(st.integers(1, 20), st.integers(0, 5))
def test_a_budget_draws_different_choices(most, seed):
    grid = {"a": [1, 2, 3], "b": ["x", "y", "z"]}
    found = cells_of(grid, most, seed)
    assert len(found) == min(most, 9)
    assert len({tuple(one.values()) for one in found}) == len(found)
    assert found == cells_of(grid, most, seed)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"bta": [1]}, "has no setting 'bta' to vary. Did you mean beta"),
        ({"unread": [1]}, "no stage reads the setting unread"),
    ],
)
def test_settings_that_are_not_there_or_not_read_are_refused(grid, words):
    given = {**CHAIN, "settings": {**CHAIN["settings"], "unread": 1}}
    with pytest.raises(ConfigError) as raised:
        expanded(pipeline_of(given, "p.yaml"), cells_of(grid, None, 0))
    assert words in str(raised.value)


def points(*figures: list[float]) -> list[Point]:
    return [
        Point({"beta": index}, one, [Cell({"beta": index, "seed": seed}, {}) for seed in range(len(one))])
        for index, one in enumerate(figures)
    ]


def test_the_best_is_that_of_the_best_mean_and_a_lead_within_the_spread_is_said():
    found = points([0.4, 0.8], [0.7, 0.66], [])
    best = best_of(found, lower=False)
    assert best is found[1]
    assert best_of(found, lower=True) is found[0]
    assert verdict_text(found, "accuracy", False).endswith("That is within the spread over seeds.")
    clear = verdict_text(points([0.1, 0.12], [0.9, 0.92]), "accuracy", False)
    assert clear.startswith("Best by accuracy: beta 1 with 0.91 ± 0.014 over 2 seeds. Next: beta 0")
    assert "within" not in clear
    assert verdict_text(points([0.5], [0.5]), "accuracy", False).startswith("No choice is ahead")
    assert verdict_text(points([], []), "accuracy", False) == "Nothing is done yet."


def test_figures_come_from_runs_that_are_done(tmp_path):
    pipeline = method_pipeline("sft", {"data": "a.jsonl"}, {"seed": [0, 1], "max_steps": [2, 4]})
    config = SweepOptions(file=Path("sft"), grid={"seed": [0, 1], "max_steps": [2, 4]}, by="loss")
    _, cells, stage = plan_sweep(pipeline, config)
    for cell, loss in zip(cells, (1.0, 3.0, 2.0, None), strict=True):
        folder = stage_folder(tmp_path, cell.stages[stage])
        folder.mkdir(parents=True)
        state = {"state": "failed"} if loss is None else {"state": "done", "figures": {"loss": loss}}
        (folder / "status.json").write_text(json.dumps({"method": "sft", **state}))
    found = points_of(cells, tmp_path, stage, "loss")
    assert [(one.values, one.figures) for one in found] == [
        ({"max_steps": 2}, [1.0, 2.0]),
        ({"max_steps": 4}, [3.0]),
    ]
    with pytest.raises(ConfigError, match=r"has no figure 'los'\. Did you mean loss"):
        points_of(cells, tmp_path, stage, "los")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dpo", "--grid", "beta"], "'beta' is not usable, expected NAME=VALUE"),
        (["dpo", "--grid", "beta=0.1,0.1"], "has a value twice"),
        (["dpo", "--grid", "beta=0.1", "--grid", "beta=0.2"], "beta is given twice"),
        (["dpo", "--grid", "beta=0.1,-1", "--data", "a.jsonl"], "beta: -1 is not usable"),
        (["dpo", "--grid", "bta=0.1", "--data", "a.jsonl"], "bta: is not an option"),
        (["p.yaml", "--grid", "beta=1", "--data", "a"], "a pipeline takes no options of a method"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_starts(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("{}\n")
    result = CliRunner().invoke(coalign, ["sweep", *arguments, "--by", "loss"])
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert not Path("runs").exists()


def test_a_sweep_from_the_command_line(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("COALIGN_PROGRESS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(12)]
    data.write_text("".join(json.dumps(one) + "\n" for one in rows))
    words = [
        "sweep", "dpo", "--model", tiny_model, "--data", str(data), "--max-steps", "1", "--batch-size", "2",
        "--grid", "beta=0.05,0.5", "--by", "loss", "--lower", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(coalign, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Best by loss: beta" in result.output
    run = Run(tmp_path / "out")
    assert run.status()["headline"].startswith("Best by loss: beta")
    assert len(list((tmp_path / "out" / "stages").iterdir())) == 2
