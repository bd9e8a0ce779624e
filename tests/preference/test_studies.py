"""Studies: cells, resumption, figures, reports, and the two systems that are studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build, to_dict
from coalign.core.runs import Run
from coalign.models.types import Generation, ResponseLogps
from coalign.preference import dpo_insights, ln_dpo
from coalign.preference.studies import cells as studies
from coalign.preference.studies.cells import Cell, best_row, draw
from coalign.preference.studies.examination import answer_metrics, pair_metrics
from coalign.preference.studies.figures import charts, line, sensitivity, sensitivity_findings, spread
from coalign.preference.studies.grids import combinations, parse_grid
from coalign.training.job import Job
from coalign.training.task import DivergedError
from tests.preference.tiny_runs import pairs

MEASURED = {"answers": 3, "answer_tokens": 4, "eval_fraction": 0.25, "max_steps": 1}
STUDY = {**MEASURED, "study": True, "seeds": 1}


def cells_of(run: Run) -> list[dict[str, Any]]:
    return read_rows(run.artefacts / "cells.jsonl")


def test_a_study_compares_objectives_over_sizes_and_starts(model: str, learn: Any) -> None:
    options = {
        **MEASURED, "instruct_model": model, "objectives": ["dpo", "kto"], "sizes": [4], "seeds": 1,
        "starts": ["fine-tuned", "instruction-tuned"],
        "questions": [{"question": f"{n}?", "choices": ["blue", "green"], "answer": "B"} for n in range(3)],
    }  # fmt: skip
    run = learn("dpo-insights", pairs(), **options)
    rows = cells_of(run)
    assert [row["objective"] for row in rows] == ["start", "start", *["dpo", "kto"] * 2]
    assert {row["start"] for row in rows} == {"fine-tuned", "instruction-tuned"}
    assert all(row["kl"] == 0 and row["reward_accuracy"] is None for row in rows[:2])
    assert all(0 <= row["choices"] <= 1 and row["length"] <= 4 for row in rows)
    assert (run.artefacts / "fine-tuned" / "config.json").exists(), "one whole model for all cells"
    assert any(run.model.glob("*.safetensors"))
    assert not list((run.artefacts / "cells").glob("*/model")), "only the best is kept, in the run's model"
    report = json.loads((run.path / "report.json").read_text())
    titles = [section["title"] for section in report["sections"]]
    assert {"Held-out pairs in the right order, by implicit reward", "From fine-tuned"} <= {*titles}
    assert "chosen responses of all" in json.dumps(report)
    assert report["verdict"]["text"].startswith("Best: ")
    assert run.status()["figures"]
    made = (run.artefacts / "cells.jsonl").stat().st_mtime_ns
    again = learn("dpo-insights", pairs(), **options)
    assert (again.artefacts / "cells.jsonl").stat().st_mtime_ns == made, "nothing is trained again"


def test_what_was_trained_before_a_kill_is_measured_and_not_trained_again(
    learn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**STUDY, "objectives": ["simpo"], "grid": ["beta=1", "simpo.gamma=0.5"], "keep": "all"}
    examine, measured = studies.examine, []

    def killed(*rest: Any) -> Any:
        measured.append(rest)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return examine(*rest)

    monkeypatch.setattr(studies, "examine", killed)
    with pytest.raises(KeyboardInterrupt):
        learn("ln-dpo", pairs(), **options)
    run = learn("ln-dpo", pairs(), **options)
    assert len(cells_of(run)) == 2, "the start model and one cell"
    assert len([event for event in run.events("train") if "loss" in event]) == 1
    assert len(list((run.artefacts / "cells").glob("*/model"))) == 1


def test_a_training_that_diverges_is_a_row(learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = studies.train

    def diverging(job: Job, *rest: Any) -> Any:
        if job.options.learning_rate == 1.0:
            raise DivergedError("The loss is NaN.")
        return train(job, *rest)

    monkeypatch.setattr(studies, "train", diverging)
    constraints = [{"verifier": "max_words", "n": 3}]
    prompts = [{"prompt": f"Say {n}.", "constraints": constraints} for n in range(3)]
    grid = ["dpo.beta=0.1", "learning_rate=1.0,1e-2"]
    run = learn("ln-dpo", pairs(), **STUDY, objectives=["dpo"], prompts=prompts, grid=grid)
    assert [row["diverged"] for row in cells_of(run)] == [False, True, False]
    text = (run.path / "report.json").read_text()
    assert "1 trainings diverged" in text
    assert "Constraints satisfied" in json.loads(text)["verdict"]["text"], "what programs check comes first"
    assert "dpo-start-6-beta=0.1-learning_rate=1.0-s0" in [event["cell"] for event in run.events("diverged")]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sizes": [600]}, ConfigError, "600 pairs are asked for, 6 are there"),
        ({"eval_fraction": 0.0}, DataError, "needs held-out pairs"),
        ({"constants": ["dpo.beta=-1"]}, ConfigError, "beta"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    changes: dict[str, Any], error: type[Exception], message: str, model: str, learn: Any, tmp_path: Path
) -> None:
    base = {"instruct_model": model, "starts": ["pretrained"], "eval_fraction": 0.25}
    with pytest.raises(error, match=message):
        learn("dpo-insights", pairs(), **{**base, **changes})
    assert not list(tmp_path.glob("*/artefacts/cells.jsonl"))


def test_a_configuration_of_a_study_reads_back() -> None:
    config = build(ln_dpo.Config, {"data": "x", "study": True, "grid": ["beta=1", "2"]})
    assert build(ln_dpo.Config, to_dict(config)) == config
    assert config.settings()["dpo"] == [{"beta": 1}, {"beta": 2}]


def test_grids() -> None:
    grid = parse_grid(["beta=0.1,1e-2", "dpo.learning-rate=1e-4", "2e-4"], ["dpo", "simpo"], where="grid")
    assert grid == {
        "dpo": {"beta": [0.1, 0.01], "learning_rate": [1e-4, 2e-4]},
        "simpo": {"beta": [0.1, 0.01]},
    }
    assert combinations(grid["dpo"])[:2] == [
        {"beta": 0.1, "learning_rate": 1e-4},
        {"beta": 0.1, "learning_rate": 2e-4},
    ]
    assert combinations({}) == [{}]
    flags = parse_grid(["ipo.length_normalised=true,false"], ["ipo"], where="grid")
    assert flags["ipo"]["length_normalised"] == [True, False]


def test_sizes_are_shares_of_the_pairs_by_default() -> None:
    assert build(dpo_insights.Config, {"data": "x", "model": "m"}).starts == [*dpo_insights.START_POINTS]
    config = build(dpo_insights.Config, {"data": "x", "seeds": 2, "seed": 7})
    assert config.starts == ["instruction-tuned"]
    cells = dpo_insights.grid(config, 80)
    assert list(dict.fromkeys(cell.size for cell in cells)) == [10, 20, 40, 80]
    assert {cell.seed for cell in cells} == {7, 8}
    assert len(cells) == 4 * 4 * 2


def test_a_larger_draw_begins_with_the_smaller_one() -> None:
    many: Any = list(range(20))
    assert draw(many, 5, 1) == draw(many, 9, 1)[:5]
    assert draw(many, 20, 1) != draw(many, 20, 2)
    assert sorted(draw(many, 20, 3)) == many


def test_ids_tell_cells_apart() -> None:
    plain = [Cell("dpo", *rest) for rest in (("a", 1, 0), ("a", 1, 1), ("b", 1, 0), ("a", 2, 0))]
    cells = [*plain, *(Cell("dpo", "a", 1, 0, {"beta": beta}) for beta in (1, 2))]
    assert len({one.id for one in cells}) == len(cells)


# measures


def scored(sums: list[float], lengths: list[int]) -> ResponseLogps:
    tokens = torch.cat([torch.full((n,), total / n) for total, n in zip(sums, lengths, strict=True)])
    return ResponseLogps(tokens, torch.tensor(lengths), torch.arange(len(lengths)))


def test_pair_metrics_by_hand() -> None:
    policy, start = (
        scored(sums, [1, 6, 3, 2]) for sums in ([-2.0, -6.0, -9.0, -4.0], [-3.0, -5.0, -10.0, -5.0])
    )
    found = pair_metrics(policy, start)
    assert found["logp_accuracy"] == 0.5
    assert found["mean_logp_accuracy"] == 0.0
    assert found["reward_accuracy"] == 0.5, "the second pair ties: +1 and +1"
    assert found["margin"] == pytest.approx(1.0)
    assert found["chosen_logp"] == pytest.approx(1.0)
    assert pair_metrics(policy, None)["reward_accuracy"] is None


def test_answer_metrics_by_hand() -> None:
    answers = [Generation("a", [1, 2, 3]), Generation("b", [1], finish_reason="length")]
    found = answer_metrics(answers, torch.tensor([2.0, 1.0]))
    names = ("kl", "length", "length_median", "length_deviation", "unfinished")
    assert found == dict(zip(names, (1.5, 2.0, 2.0, 1.0, 0.5), strict=True))


def row(objective: str, value: float | None, *, seed: int = 0, **settings: float) -> dict[str, Any]:
    measured = {} if value is None else {"reward_accuracy": value, "kl": value, "length": 10 * value}
    cell = {"objective": objective, "start": "start", "size": 5, "seed": seed, "settings": settings}
    return {"id": f"{objective}{settings}{seed}", **cell, "diverged": value is None, **measured}


def test_sensitivity_by_hand() -> None:
    rows = [
        row("dpo", 0.5, beta=0.1),
        row("dpo", 0.7, beta=0.1, seed=1),
        row("dpo", 0.9, beta=0.5),
        row("dpo", None, beta=0.5, seed=1),
        row("simpo", None, beta=1),
    ]
    dpo, simpo = sensitivity(rows, "reward_accuracy")
    assert (dpo["tried"], dpo["diverged"], dpo["settings"]) == (2, 1, "beta 0.5")
    assert (dpo["best"].mean, dpo["best"].n) == (0.9, 1)
    assert [dpo["mean"], dpo["worst"], dpo["spread"]] == pytest.approx([0.75, 0.6, 0.3])
    assert [dpo["mean_length"], dpo["length_spread"]] == pytest.approx([7.5, 3.0])
    assert simpo == {"objective": "simpo", "tried": 1, "diverged": 1}
    assert "2 trainings diverged" in sensitivity_findings(rows, "reward_accuracy")[-1]
    assert "all diverged" in sensitivity_findings(rows[-1:], "reward_accuracy")[0]
    best = best_row(rows, "reward_accuracy")
    assert best is not None
    assert best["id"] == rows[2]["id"]


def test_spreads_and_lines() -> None:
    rows = [row("dpo", 0.5), row("dpo", 0.7, seed=1)]
    found = spread(rows, "reward_accuracy")
    assert found is not None
    assert found.text("percent") == "60.0% ± 14.1%"
    assert spread(rows, "choices") is None
    drawn = line("dpo", rows, "reward_accuracy", lambda one: one["size"])
    assert drawn is not None
    assert drawn.low == [pytest.approx(0.6 - 0.02**0.5)]
    many = [line(str(n), rows, "kl", lambda one: one["size"]) for n in range(7)]
    assert [len(chart.series) for chart in charts("x", many, "pairs")] == [6, 1]
