"""Checks on given records: what is read, what is scored, and whole verdicts under a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coalign.checks import real_text
from coalign.checks.options import CheckOptions
from coalign.checks.real_text import drawn, mean_logps, misplaced, read_answers, read_groups, share_above
from coalign.core.errors import DataError
from coalign.core.runs import Run
from coalign.preference import poft, pro
from tests.preference.tiny_runs import save_tiny_model, write


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def model(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_text, "MODEL", tiny)


def solutions(n: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {i}?",
            "ground_truth": f"A: {i}",
            "small": {"solution": f"It is {i}.", "is_correct": True},
            "large": {"solution": f"No, {i + 1}.", "is_correct": i % 3 == 0},
        }
        for i in range(n)
    ]


def test_example_solutions_and_rankings_are_read(tmp_path: Path) -> None:
    groups = read_groups(write(tmp_path / "solutions.jsonl", solutions(6)))
    assert len(groups) == 4, "two questions have right solutions alone"
    assert (groups[0].responses, groups[0].scores) == (("It is 1.", "No, 2."), (1.0, 0.0))
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [2, 1, 1]}]
    (ranking,) = read_groups(write(tmp_path / "rankings.jsonl", rows))
    assert ranking.scores == (2.0, 1.0, 1.0)
    with pytest.raises(DataError, match="no ranking whose scores differ"):
        read_groups(write(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]))


def test_answers_are_read_and_misplaced(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"a{i}"} for i in range(10)]
    answers = read_answers(write(tmp_path / "answers.jsonl", rows))
    moved, count = misplaced(answers, 0.3)
    assert count == 3
    assert [one.completion for one in moved[:4]] == ["a1", "a2", "a0", "a3"]
    assert [one.prompt for one in moved] == [one.prompt for one in answers]
    with pytest.raises(DataError, match="1 prompts with an answer"):
        read_answers(write(tmp_path / "one.jsonl", rows[:1]))


def test_every_seed_draws_its_own() -> None:
    records = list(range(50))
    assert drawn(records, 5, 0) == drawn(records, 5, 0) != drawn(records, 5, 1)
    assert sorted(drawn(records, 99, 3)) == records


def test_area_under_the_curve_by_hand() -> None:
    assert share_above([3.0, 1.0], [2.0, 1.0]) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


@pytest.mark.usefixtures("model")
def test_prompts_without_room_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "word " * 300, "completion": "a"}, {"prompt": "p", "completion": "b"}]
    with pytest.raises(DataError, match="1 prompts have 512 tokens or more"):
        mean_logps(read_answers(write(tmp_path / "answers.jsonl", rows)))


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("system", "rows"),
    [(pro, solutions(30)), (poft, [{"prompt": f"p{i}", "completion": f"answer {i}"} for i in range(30)])],
    ids=["pro", "poft"],
)
def test_a_check_on_given_records(system: ModuleType, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "check", CheckOptions())
    data = write(tmp_path / "rows.jsonl", rows)
    verdict = system.check(run, seeds=2, data=data)
    assert verdict.outcome in ("seen", "not seen", "mixed")
    assert "rows.jsonl" in verdict.setting
    (metric,) = set(verdict.measures[0]) - {"arm", "seed"}
    assert all(0 <= row[metric] <= 1 for row in verdict.measures)
    assert len(verdict.measures) == 2
    assert json.dumps(verdict.summary)
