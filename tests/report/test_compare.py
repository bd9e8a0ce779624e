"""One report over runs: what they share, where they differ, curves by run, samples by prompt."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coalign.core.options import option
from coalign.core.runs import Run
from coalign.report import model as doc
from coalign.report.compare import comparison_report, print_comparison
from coalign.report.html import render_html, write_report


@dataclass(kw_only=True)
class Config:
    model: str = option("default", "model")
    beta: float = option(0.1, "beta")
    seed: int = option(0, "seed")


def make_run(path: Path, figures: dict[str, Any] | None = None, **changes: Any) -> Run:
    run = Run.start(path, "dpo", Config(**changes))
    if figures is not None:
        run.set_status(state="done", headline=f"headline of {path.name}", figures=figures)
    return run


def report_with(run: Run, answers: dict[str, tuple[str, float]], curves: bool = False) -> None:
    rows = [
        doc.Sample(
            prompt=prompt,
            outputs=[doc.Output(text="before", score=0.0), doc.Output(text=text, score=score)],
            tags=["t"],
        )
        for prompt, (text, score) in answers.items()
    ]
    sections: list[Any] = [doc.Samples(title="Samples", columns=["Before", "After"], rows=rows)]
    if curves:
        series = [doc.Series(name="r", steps=[1.0], values=[3.0])]
        sections.append(doc.Curves(title="Progress", charts=[doc.Chart(title="Reward", series=series)]))
    verdict = doc.Headline(outcome="neutral", text="x")
    write_report(doc.Report(title="t", method="dpo", verdict=verdict, sections=sections), run.report)


def section(report: doc.Report, title: str) -> Any:
    return next(one for one in report.sections if one.title == title)


def test_figures_and_differing_options(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"loss": 0.5, "nested": {"low": 1.0}, "note": "no number"}, beta=0.1)
    two = make_run(tmp_path / "two", {"loss": 0.25, "accuracy": 0.75}, beta=0.5)
    report = comparison_report([one, two])
    figures = section(report, "Figures")
    assert figures.columns == ["figure", "one", "two"]
    assert figures.rows == [["loss", 0.5, 0.25], ["nested.low", 1.0, None], ["accuracy", None, 0.75]]
    assert section(report, "Options that differ").rows == [["beta", "0.1", "0.5"]]
    assert section(report, "Options in common").items == {"model": "default", "seed": "0"}
    assert report.verdict.text == "2 runs of dpo. They differ in: beta."
    assert [row[3] for row in section(report, "Runs").rows] == ["headline of one", "headline of two"]


def test_equal_options_are_said_to_be_equal(tmp_path: Path) -> None:
    report = comparison_report([make_run(tmp_path / name) for name in ("a", "b")])
    assert isinstance(section(report, "Options that differ"), doc.Text)
    assert "no option" in report.verdict.text
    assert not any(isinstance(one, doc.TableSection) and one.title == "Figures" for one in report.sections)


def test_curves_lie_over_each_other_and_repeated_steps_count_once(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
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


def test_stages_of_a_loop_are_kept_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        for stage in ("round-1", "round-2"):
            run.log("train", stage=stage, step=1, loss=1.0)
    charts = section(comparison_report(runs), "Training").charts
    assert [chart.title for chart in charts] == ["Loss (round-1)", "Loss (round-2)"]


def test_curves_of_a_report_where_nothing_was_logged(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        report_with(run, {}, curves=True)
    (chart,) = section(comparison_report(runs), "Training").charts
    assert (chart.title, len(chart.series)) == ("Reward", 2)


def test_samples_side_by_side_where_prompts_agree(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two", "three")]
    report_with(runs[0], {"p": ("from one", 0.2), "q": ("only here", 0.1)})
    report_with(runs[1], {"p": ("from two", 0.9)})
    samples = section(comparison_report(runs), "Samples")
    assert samples.columns == ["one", "two"]
    (row,) = samples.rows
    assert (row.prompt, [one.text for one in row.outputs]) == ("p", ["from one", "from two"])
    assert samples.change(row) == "better"

    report_with(runs[1], {"other": ("x", 0.0)})
    assert not any(isinstance(one, doc.Samples) for one in comparison_report(runs).sections)


def test_equal_folder_names_are_told_apart(tmp_path: Path) -> None:
    report = comparison_report([make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")])
    assert len({row[0] for row in section(report, "Runs").rows}) == 2


def test_page_and_terminal(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", {"loss": 0.5}), make_run(tmp_path / "two", {"loss": 0.25}, seed=1)]
    report = comparison_report(runs)
    assert isinstance(report.sections[-1], doc.KeyValues)
    page = render_html(report)
    assert "Options that differ" in page
    text = io.StringIO()
    print_comparison(report, Console(file=text, width=100))
    shown = " ".join(text.getvalue().split())
    assert "loss 0.500 0.250" in shown
    assert "seed 0 1" in shown


@pytest.mark.parametrize("value", ["[bold]x", "\x1b[31mred"])
def test_nothing_that_a_run_holds_steers_the_terminal(tmp_path: Path, value: str) -> None:
    runs = [make_run(tmp_path / "one", model=value), make_run(tmp_path / "two")]
    text = io.StringIO()
    print_comparison(comparison_report(runs), Console(file=text, width=100))
    assert "\x1b" not in text.getvalue()
    assert value.lstrip("\x1b") in text.getvalue() or "U+001B" in text.getvalue()
