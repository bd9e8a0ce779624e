"""I-SHEEP on a tiny base model that writes, answers and grades."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.report.html import read_report
from coalign.selfalign import i_sheep
from tests.contract.small import MODELS, SMALL
from tests.preference.tiny_runs import run_system, write
from tests.selfalign.writer import SEEDS


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("writer") / "writer"
    MODELS["writer"](folder)
    return str(folder)


def start(model: str, folder: Path, seeds: list[dict[str, Any]] = SEEDS, **changes: Any) -> Run:
    data = str(write(folder.parent / "seeds.jsonl", seeds))
    options = {**SMALL["i-sheep"].options, "model": model, "data": data, "rounds": 1}
    return run_system("i-sheep", i_sheep, folder, **{**options, **changes})


def test_every_round_is_trained_from_the_base_model_and_rounds_may_be_added(
    writer: str, tmp_path: Path
) -> None:
    run = start(writer, tmp_path / "run")
    first = json.loads((run.artefacts / "checkpoints.json").read_text())
    assert [*first] == ["M0", "M1"]
    weights = next(run.model.glob("*.safetensors")).read_bytes()
    run = start(writer, tmp_path / "run", rounds=2)
    names = json.loads((run.artefacts / "checkpoints.json").read_text())
    assert [*names] == ["M0", "M1", "M2"]
    for name in ("M1", "M2"):
        adapter = json.loads((Path(names[name]) / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == writer
    assert next(run.model.glob("*.safetensors")).read_bytes() != weights, "the last model is published"
    found = read_records(str(run.path), kind="demonstration")
    assert read_records(str(run.path)).kind == "demonstration", "no column is taken for something else"
    rows = read_rows(run.artefacts / "round-2/tasks/kept.jsonl")
    assert [one.completion for one in found.records] == [row["completion"] for row in rows]
    assert all(min(row["made_of"]["grades"].values()) > 6 for row in rows)
    titles = [one.title for one in read_report(run.report).sections]
    assert {"Rounds", "Before and after", "Round 2: quality", "Round 2: kept and rejected"} <= {*titles}
    assert run.status()["figures"]["kept"] == len(rows)


def test_the_manifest_says_who_graded_what(writer: str, tmp_path: Path) -> None:
    run = start(writer, tmp_path / "run", grader="current", draw="inverse-perplexity", first_round="chat")
    folder = run.artefacts / "round-1/tasks"
    found = read_rows(folder / "manifest.jsonl")
    assert found
    for one in found:
        notes = {note["step"]: note for note in one["steps"]}
        assert notes["quality"]["judge"] == "quality by the model of the round"
        assert {"score", "prompt_hash"} <= notes["following"].keys()
        assert notes["tasks"]["model"] == writer


def test_seeds_without_answers_claim_nothing(writer: str, tmp_path: Path) -> None:
    seeds = [{name: value for name, value in one.items() if name != "output"} for one in SEEDS]
    run = start(writer, tmp_path / "run", seeds)
    report = read_report(run.report)
    assert report.verdict.outcome == "neutral"
    assert "nothing is claimed" in report.verdict.text
    with pytest.raises(DataError, match="needs an answer"):
        start(writer, tmp_path / "other", seeds, draw="inverse-perplexity")


def test_a_model_that_writes_no_task_is_told_why(writer: str, tmp_path: Path) -> None:
    message = r"Round 1: no record is left to train on\. Most fell for: tasks: no whole task \(3\)"
    with pytest.raises(CoalignError, match=message):
        start(writer, tmp_path / "run", requests=3, max_new_tokens=2)
    assert len(read_rows(tmp_path / "run/artefacts/round-1/tasks/rejects.jsonl")) == 3
