"""The world of small functions: what sources write, what the judge says, and the outcome of its check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coalign.checks.papers.curation.codeultrafeedback import POOL, rated_pairs
from coalign.checks.worlds.programs.preferred import (
    END,
    LONGEST,
    PREFERENCES,
    TOKENS,
    ProgramWorld,
    Source,
    Task,
    is_right,
    rating,
    text_of,
    write,
)
from coalign.measures.texts.source_code import parse_python
from tests.checks.test_verdicts import Rows, no_training, plus, rows_of, verdict_of

assert no_training  # a fixture

TERSE = "def f(a, b):\n    return (a + b) * 3\n"
NEEDLESS = "def f(a, b):\n    return ((a + b)) * 3\n"
FULL = 'def combine(first, second):\n    """Combine two numbers."""\n    # Both first, then the number.\n    result = first + second\n    return result * 3\n'  # fmt: skip


@pytest.mark.parametrize(
    ("code", "ratings"),
    [
        (TERSE, (5, 1, 5, 2, 1)),
        (NEEDLESS, (5, 1, 3, 1, 1)),
        (FULL, (5, 5, 3, 5, 5)),
        (FULL.replace("*", "+"), (1, 5, 3, 5, 5)),
        ("def f(a, b):\n    return (a + b * 3\n", (1, 1, 1, 1, 1)),
        ("", (1, 1, 1, 1, 1)),
    ],
)
def test_ratings_by_preference(code: str, ratings: Sequence[int]) -> None:
    found = [rating(code, Task(name, " + ", " * ", "3")) for name in PREFERENCES]
    assert found == [*ratings]


def test_sources_write_as_they_should() -> None:
    world, task = ProgramWorld(0), Task("style", " - ", " * ", "2")
    for source in (POOL[0], POOL[-1], Source("sure", 1.0, 1.0)):
        draw = world.draw(source.name)
        tokens = [write(task, source, draw) for _ in range(400)]
        assert all(one[-1] == TOKENS[END] and len(one) < LONGEST for one in tokens)
        codes = [text_of(one) for one in tokens]
        right = sum(is_right(one, task) for one in codes) / 400
        assert right == pytest.approx(source.right, abs=0.08)
        if source.right == 1:
            assert all(parse_python(one) for one in codes)
            assert {rating(one, task) for one in codes} == {5}


def test_pairs_prefer_what_the_judge_likes() -> None:
    world = ProgramWorld(1)
    tasks = {tuple(one.prompt): one for one in world.tasks(1000, "instructions")}
    pairs = rated_pairs(world)
    assert 800 < len(pairs) < 1000
    gaps = [
        rating(text_of(one["chosen"]), tasks[tuple(one["prompt"])])
        - rating(text_of(one["rejected"]), tasks[tuple(one["prompt"])])
        for one in pairs
    ]
    assert sum(gap > 0 for gap in gaps) / len(gaps) > 0.9


def test_a_judge_without_doubts_is_read_as_it_rates() -> None:
    world, task = ProgramWorld(2, off=0.0, unclear=0.0), Task("style", " + ", " * ", "3")
    reply = world.reply(task, [TERSE, FULL], world.draw("reply"))
    assert "Rating: 2" in reply
    assert "Rating: 5" in reply


def _rows(score: Sequence[float], lot: Sequence[float], right: Sequence[float]) -> Rows:
    values = {
        "SFT": 3.5,
        "DPO": 3.4,
        "base": 3.0,
        "SFT + DPO": plus(3.0, score),
        "SFT + DPO, by lot": plus(3.0, lot),
    }
    passed = {"SFT": 0.7, "DPO": 0.5, "base": 0.5, "SFT + DPO": plus(0.5, right), "SFT + DPO, by lot": 0.6}
    return rows_of({arm: {"score": values[arm], "pass@1": passed[arm]} for arm in values})


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (_rows([1.0] * 5, [0.5] * 5, [0.1] * 5), "seen"),
        (_rows([1.0] * 4 + [0.0], [0.5] * 5, [0.1] * 4 + [-0.1]), "seen"),
        (_rows([1.0] * 5, [0.5] * 5, [0.1] * 3 + [0.0] * 2), "mixed"),
        (_rows([0.31] * 5, [0.2] * 5, [0.1] * 5), "not seen"),
        (_rows([0.29] * 5, [-0.2] * 5, [0.1] * 5), "not seen"),
        (_rows([1.0] * 3 + [0.2] * 2, [-0.5] * 5, [0.1] * 5), "not seen"),
    ],
)
def test_the_outcome_follows_from_the_rows(rows: Rows, outcome: str, tmp_path: Path) -> None:
    assert verdict_of("codeultrafeedback", rows, tmp_path).outcome == outcome
