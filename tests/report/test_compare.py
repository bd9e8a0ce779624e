"""One report over runs: what they share, where they differ, curves by run, samples by prompt."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coalign.core.options import option
from coalign.core.runs import Run
from coalign.report.compare import comparison_report, print_comparison
from coalign.report.html import render_html, write_report
from coalign.report.model import Curves, KeyValues, Report, Samples, Text
from tests.report.build import chart, report_of, sample, samples


@dataclass(kw_only=True)
class Config:
    model: str = option("default", "model")
    beta: float = option(0.1, "beta")
    seed: int = option(0, "seed")


Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run in a folder of this name, done where it has figures."""

    def call(name: str, figures: dict[str, Any] | None = None, **changes: Any) -> Run:
        run = Run.start(tmp_path / name, "dpo", Config(**changes))
        if figures is not None:
            run.set_status(state="done", headline=f"headline of {name}", figures=figures)
        return run

    return call


def answered(run: Run, *sections: Any, **answers: tuple[str, float]) -> None:
    """Write a run's report: these answers by prompt, and sections."""
    rows = [sample(("before", 0.0), one, prompt=prompt, tags=["t"]) for prompt, one in answers.items()]
    write_report(report_of(samples(*rows) if rows else Text(title="x", paragraphs=[]), *sections), run.report)


def printed(report: Report) -> str:
    text = io.StringIO()
    print_comparison(report, Console(file=text, width=100))
    return " ".join(text.getvalue().split())


def section(report: Report, title: str) -> Any:
    return next(one for one in report.sections if one.title == title)


def test_options_that_no_run_has_are_left_out(make: Make, tmp_path: Path) -> None:
    """One run has the option without a value, the other's method does not have it: both are shown by a dash."""
    one, two = make("one", {}), make("two", {})
    file = one.path / "config.yaml"
    file.write_text(file.read_text() + "never: null\n")
    report = comparison_report([one, two])
    assert not any("never" in str(row) for part in report.sections for row in getattr(part, "rows", []))


def test_figures_and_differing_options(make: Make) -> None:
    one = make("one", {"loss": 0.5, "nested": {"low": 1.0}, "note": "no number"}, beta=0.1)
    two = make("two", {"loss": 0.25, "accuracy": 0.75}, beta=0.5)
    report = comparison_report([one, two])
    figures = section(report, "Figures")
    assert figures.columns == ["figure", "one", "two"]
    assert figures.rows == [["loss", 0.5, 0.25], ["nested.low", 1.0, None], ["accuracy", None, 0.75]]
    assert section(report, "Options that differ").rows == [["beta", "0.1", "0.5"]]
    assert section(report, "Options in common").items == {"model": "default", "seed": "0"}
    assert report.verdict.text == "2 runs of dpo. They differ in: beta."
    assert [row[3] for row in section(report, "Runs").rows] == ["headline of one", "headline of two"]
    assert isinstance(report.sections[-1], KeyValues)
    assert "Options that differ" in render_html(report)
    assert "loss 0.500 0.250" in printed(report)
    assert "beta 0.1 0.5" in printed(report)


def test_equal_options_are_said_to_be_equal_and_equal_names_told_apart(make: Make) -> None:
    report = comparison_report([make("a/run"), make("b/run")])
    assert isinstance(section(report, "Options that differ"), Text)
    assert "no option" in report.verdict.text
    assert "Figures" not in [one.title for one in report.sections]
    assert len({row[0] for row in section(report, "Runs").rows}) == 2


def test_curves_lie_over_each_other_and_repeated_steps_count_once(make: Make) -> None:
    one, two = make("one"), make("two")
    for step, loss in ((1, 0.9), (2, 0.8), (3, 0.7), (2, 0.6)):  # resumed from step 1
        one.log("train", stage="train", step=step, loss=loss)
    one.log("train", stage="train", step=3, eval_loss=0.5)
    two.log("train", stage="train", step=1, loss=0.4, **{"rewards/margins": 1.0})
    charts = {chart.title: chart for chart in section(comparison_report([one, two]), "Training").charts}
    assert list(charts) == ["Loss", "Loss, held out", "Reward margin"]
    assert [series.name for series in charts["Loss"].series] == ["one", "two"]
    assert charts["Loss"].series[0].steps == [1, 2, 3]
    assert charts["Loss"].series[0].values == [0.9, 0.6, 0.7]
    assert [series.name for series in charts["Reward margin"].series] == ["two"]


def test_curves_by_stage_or_of_a_report_where_nothing_was_logged(make: Make) -> None:
    runs = [make("one"), make("two")]
    for run in runs:
        answered(run, Curves(title="Progress", charts=[chart([3.0], title="Reward")]))
    (reward,) = section(comparison_report(runs), "Training").charts
    assert (reward.title, len(reward.series)) == ("Reward", 2)
    for run in runs:
        for stage in ("round-1", "round-2"):
            run.log("train", stage=stage, step=1, loss=1.0)
    charts = section(comparison_report(runs), "Training").charts
    assert [one.title for one in charts] == ["Loss (round-1)", "Loss (round-2)"]


def test_samples_side_by_side_where_prompts_agree(make: Make) -> None:
    runs = [make("one"), make("two"), make("three")]
    answered(runs[0], p=("from one", 0.2), q=("only here", 0.1))
    answered(runs[1], p=("from two", 0.9))
    found = section(comparison_report(runs), "Samples")
    assert found.columns == ["one", "two"]
    (row,) = found.rows
    assert (row.prompt, [one.text for one in row.outputs]) == ("p", ["from one", "from two"])
    assert found.change(row) == "better"

    answered(runs[1], other=("x", 0.0))
    assert not any(isinstance(one, Samples) for one in comparison_report(runs).sections)


@pytest.mark.parametrize("value", ["[bold]x", "\x1b[31mred"])
def test_nothing_that_a_run_holds_steers_the_terminal(make: Make, value: str) -> None:
    text = printed(comparison_report([make("one", model=value), make("two")]))
    assert "\x1b" not in text
    assert value.lstrip("\x1b") in text or "U+001B" in text
