"""Held-out prompts answered before and after a training with an objective, and what the report makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.data.readers import read_records
from coalign.report.html import read_report
from coalign.report.model import Curves, Samples
from coalign.training import material
from coalign.training.learning import learner
from coalign.training.watch.answers import questions_of
from tests.preference.tiny_runs import pairs, run_system, write

PAIRS = [{"prompt": f"Say {n}", "chosen": f"{n}, gladly.", "rejected": "no"} for n in range(16)]


def trained(tiny_model: str, folder: Path, objective: str = "kto", **options: Any) -> Any:
    data = write(folder / "pairs.jsonl", PAIRS)
    given = {"save_steps": 0, "max_length": 200, "batch_size": 4, "epochs": 1.0, **options}
    return run_system(
        objective, learner(objective), folder / "run", model=tiny_model, data=str(data), **given
    )


def test_sixteen_pairs_train_with_the_default_share_and_are_answered_before_and_after(
    tiny_model: str, tmp_path: Path
) -> None:
    run = trained(tiny_model, tmp_path, tuning="full", learning_rate=0.05)
    before, after = (read_rows(run.artefacts / "answers" / f"{when}.jsonl") for when in ("before", "after"))
    assert len(before) == len(after) == 2
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    assert [row["responses"] for row in before] != [row["responses"] for row in after]
    report = read_report(run.report)
    assert report.title.startswith("KTO on ")
    shown = next(one for one in report.sections if isinstance(one, Samples))
    assert [[one.text for one in row.outputs] for row in shown.rows] == [
        [one["responses"][0], other["responses"][0]] for one, other in zip(before, after, strict=True)
    ]
    curves = next(one for one in report.sections if isinstance(one, Curves))
    loss = next(one for one in curves.charts if one.title == "Loss")
    held_out = next(one for one in loss.series if one.name == "held out")
    assert held_out.steps[0] == 0
    kept = json.loads((run.artefacts / "train.json").read_text())
    assert held_out.values[0] == pytest.approx(kept["before"]["loss"])


def test_no_answers_are_made_where_none_are_asked_for(tiny_model: str, tmp_path: Path) -> None:
    run = trained(tiny_model, tmp_path, "sft", show_answers=0, max_steps=1)
    assert not (run.artefacts / "answers").exists()
    assert not any(isinstance(one, Samples) for one in read_report(run.report).sections)


def test_prompts_that_cannot_be_answered_are_a_warning_of_the_report(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise CoalignError("prompts[0]: no room.", hint="Shorten it.")

    monkeypatch.setattr("coalign.models.generation.generator.TransformersGenerator.generate", refuse)
    run = trained(tiny_model, tmp_path, "sft", max_steps=1)
    (said,) = [one for one in read_report(run.report).sections if one.title == "Warnings"]
    assert "Held-out prompts are not answered here: prompts[0]: no room. Shorten it." in str(said)
    assert run.state == "done"


def test_questions_are_different_prompts_of_text_alone(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "response": "1"},
        {"prompt": "a", "response": "2"},
        {"prompt": "b", "response": "1"},
        {"prompt": "c", "response": "1"},
        {"prompt": "d", "response": "1"},
    ]
    records = read_records(write(tmp_path / "rows.jsonl", rows)).records
    records[2] = replace(records[2], tools=[{"type": "function", "function": {"name": "f"}}])
    assert [one.prompt[-1]["content"] for one in questions_of(records, 2)] == ["a", "c"]


def test_few_prompts_are_all_trained_on_unless_a_share_is_given(tiny_model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "three.jsonl", PAIRS[:3])
    given = {"save_steps": 0, "max_length": 200, "max_steps": 1, "show_answers": 2}
    run = run_system("dpo", learner("dpo"), tmp_path / "run", model=tiny_model, data=str(data), **given)
    notes = [one["note"] for one in run.events("data")]
    assert any("nothing is held out of 3 different prompts" in one for one in notes)
    assert "Nothing was held out, so nothing is claimed" in read_report(run.report).verdict.text
    one = run_system(
        "dpo", learner("dpo"), tmp_path / "one", model=tiny_model, data=str(data), eval_fraction=0.3, **given
    )
    assert len(read_rows(one.artefacts / "answers" / "before.jsonl")) == 1


def test_of_many_prompts_no_more_are_held_out_than_it_takes_unless_a_share_is_given(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "MOST_HELD_OUT", 2)
    data = write(tmp_path / "many.jsonl", pairs(60))
    given = {"save_steps": 0, "max_length": 200, "max_steps": 1, "show_answers": 0}

    def held_out(name: str, **more: float) -> int:
        run = run_system(
            "dpo", learner("dpo"), tmp_path / name, model=tiny_model, data=str(data), **given, **more
        )
        said = [one["note"] for one in run.events("data")]
        assert any("2 of 60 different prompts are held out" in one for one in said) == (not more)
        (counted,) = run.events("plan")
        return counted["held_out"]

    assert held_out("default") == 2
    assert held_out("share", eval_fraction=0.1) == 6


def test_a_study_answers_nothing() -> None:
    from coalign.preference import ln_dpo

    with pytest.raises(ConfigError, match="show_answers has no effect"):
        build(ln_dpo.Config, {"data": "x", "study": True, "show_answers": 3})
