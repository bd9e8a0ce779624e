"""Trials on verdicts that are there already."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from coalign.checks.papers.evaluation.varco_arena import check_on_data
from coalign.cli.running.reproduce import CheckOptions
from coalign.core.errors import DataError
from coalign.core.files import write_rows
from coalign.core.runs import Run
from coalign.evaluation.arena.trials import read_judged_pairs, trial

NAMES = ("d", "a", "c", "b")


def match(prompt: str, first: str, second: str, share: float | None) -> dict[str, Any]:
    return {"prompt": prompt, "model_a": first, "model_b": second, "share_a": share}


def rows(prompts: int = 30, noise: float = 0.0) -> list[dict[str, Any]]:
    """Earlier letters are better; verdicts are turned round with probability `noise`."""
    draw = random.Random(0)
    made = []
    for x, (first, second) in itertools.product(range(prompts), itertools.combinations(NAMES, 2)):
        better = float((first < second) != (draw.random() < noise))
        made.append(match(f"p{x}", first, second, better))
    return made


def test_verdicts_are_read_in_both_directions_and_repeats_count_by_their_mean(tmp_path: Path) -> None:
    more = [match("p0", "a", "d", 0), match("p1", "a", "d", None), match("lone", "a", "b", 0.5)]
    write_rows(tmp_path / "m.jsonl", [*rows(3), *more])
    found = read_judged_pairs(tmp_path / "m.jsonl")
    assert found.models == ("a", "b", "c", "d")
    assert found.complete() == [0, 1, 2]
    assert found.shares[0][0, 3] == found.shares[0][3, 0] == 0.5
    assert found.shares[1][0, 3] == 1.0
    assert found.shares[3] == {(0, 1): 0.5, (1, 0): 0.5}
    assert list(found.ratings([1, 2]).argsort()) == [3, 2, 1, 0]


def test_sure_verdicts_give_the_true_order_and_trials_repeat(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", rows())
    found = read_judged_pairs(tmp_path / "m.jsonl")
    tournament, anchored = trial(found, list(range(20)), [4, 3, 2, 1], random.Random(1))
    assert tournament == pytest.approx(1)
    assert 0.5 < anchored < 1, "a fixed reference cannot order the models that all beat it"
    assert trial(found, list(range(20)), [4, 3, 2, 1], random.Random(1)) == (tournament, anchored)


def test_bad_rows_are_named_and_a_file_without_whole_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_rows(path, [*rows(1), match("p", "a", "b", 2), {"prompt": "p"}])
    with pytest.raises(DataError, match="2 rows are no judged pairs") as error:
        read_judged_pairs(path)
    assert f"{path}:7: share_a: is 2, expected as in matches.jsonl" in str(error.value)
    assert f"{path}:8: model_a: missing" in str(error.value)
    write_rows(path, rows(1)[:5])
    with pytest.raises(DataError, match="0 prompts on which every pair"):
        read_judged_pairs(path)


def test_the_check_reads_verdicts(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", rows(12, noise=0.2))
    run = Run.start(tmp_path / "run", "varco-arena", CheckOptions(), seed=0)
    verdict = check_on_data(run, seeds=1, data=tmp_path / "m.jsonl")
    assert {row["arm"] for row in verdict.measures} == {"5 prompts", "10 prompts"}
    assert "4 models, 12 prompts" in verdict.setting
    assert verdict.outcome in ("seen", "not seen", "mixed")
