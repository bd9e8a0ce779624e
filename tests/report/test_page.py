"""The one frame: what stands around a system's sections, and where a report is written."""

import json
from pathlib import Path

import pytest

from coalign.core.runs import Run
from coalign.models.options import ModelOptions
from coalign.report.html import read_report
from coalign.report.model import Command, Headline, Report, Stage, TableSection
from coalign.report.page import publish, times, warning_section


def _publish(run: Run, **fields) -> Report:
    fields |= {
        "verdict": Headline("neutral", "Said."),
        "sections": [TableSection("Own", columns=["a"], rows=[[1]])],
    }
    return publish(run, ModelOptions(model="org/start"), title="t", **fields)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.start(tmp_path / "run", "act", ModelOptions())


def test_the_frame_around_the_sections(run: Run) -> None:
    run.log("warning", stage="train", key="stuck", text="It is stuck.", advice="Look.")
    spent = [{"stage": "fit", "round": 1, "seconds": 2.0, "peak_mb": 3.0}]
    report = _publish(
        run,
        notes=["2 records."],
        rounds=spent,
        limitations=["One model."],
        facts={"Seed": "0"},
        then=[Command("coalign chat", "talk")],
        figures={"a": 1},
    )
    titles = [section.title for section in report.sections]
    assert titles == [
        "Warnings", "Own", "Data", "Time and memory", "Limitations", "Configuration", "Environment",
    ]  # fmt: skip
    assert (report.method, report.arxiv) == ("act", "2403.06326")
    assert report.sections[0].paragraphs == ["It is stuck. Look."]  # type: ignore[union-attr]
    assert read_report(run.report).verdict == report.verdict
    assert run.report.exists()
    status = run.status()
    assert (status["headline"], status["figures"]) == ("Said.", {"a": 1})
    assert not run.model.exists()


def test_what_is_not_given_has_no_section(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "judge", ModelOptions())  # not in the catalogue
    report = _publish(run, headline="short")
    assert [section.title for section in report.sections] == ["Own", "Configuration", "Environment"]
    assert report.arxiv is None
    assert run.status()["headline"] == "short"
    assert "figures" not in run.status()


@pytest.mark.parametrize(
    ("adapter", "base", "library"),
    [({"base_model_name_or_path": "org/base"}, "org/base", "peft"), (None, "org/start", "transformers")],
)
def test_the_card_names_the_model_that_was_aligned(run: Run, adapter, base: str, library: str) -> None:
    run.model.mkdir()
    if adapter:
        (run.model / "adapter_config.json").write_text(json.dumps(adapter))
    _publish(run, trained_on="9 prompts.", limitations=["One seed."], method_title="Some method")
    card = (run.model / "README.md").read_text(encoding="utf-8")
    said = (f"base_model: {base}", f"library_name: {library}", "9 prompts.", "- One seed.", "Some method")
    assert [one for one in said if one not in card] == []


def test_stages_name_their_round_where_there_are_several() -> None:
    rows = [{"stage": "fit", "round": number, "seconds": 1.0, "peak_mb": 2.0} for number in (1, 2)]
    (section,) = times(rows)
    assert [*section.stages] == [Stage(f"fit, round {number}", 1.0, 2 * 2**20) for number in (1, 2)]
    (section,) = times(rows[:1])
    assert section.stages[0].name == "fit"
    assert times([]) == []


def test_warnings_name_their_stage_where_there_are_several(run: Run) -> None:
    assert warning_section(run) == []
    for stage in ("one", "two", "two"):  # told again after a resume
        run.log("warning", stage=stage, key="stuck", text="Stuck.", advice="Look.")
    (section,) = warning_section(run)
    assert section.paragraphs == ["one: Stuck. Look.", "two: Stuck. Look."]
