"""Reading test items and comparing answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.evaluation.regressions.tasks import Task, folded, last_number, read_task, scores
from coalign.measures.text_metrics import rouge_1
from tests.preference.tiny_runs import write

NUMBERS = {
    "She has 12 apples, so the answer is 1,234.50.": "1234.5",
    "#### 72": "72",
    "-3": "-3",
    "about .5": ".5",
}
NUMBERS |= {"100": "100", "7.00": "7", "none": None, "": None}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_rouge_1_counts_clipped_unigrams() -> None:
    assert rouge_1("the the the cat", "The cat sat.") == pytest.approx(2 * 2 / (4 + 3))
    assert rouge_1("same words", "Words same!") == 1
    assert rouge_1("", "words") == 0
    assert rouge_1("...", "...") == 0


def test_the_metric_follows_the_rows(tmp_path: Path) -> None:
    choice = write(tmp_path / "c.jsonl", [{"question": "q", "choices": ["a", "b"], "answer": 1}])
    number = write(tmp_path / "n.jsonl", [{"prompt": "2+2?", "completion": "2+2 = 4. #### 4"}])
    text = write(tmp_path / "t.jsonl", [{"prompt": "Sum up.", "completion": "A short text."}])
    found = [read_task(str(path)) for path in (choice, number, text)]
    assert [one.metric for one in found] == ["choice", "number", "rouge1"]
    assert [one.truths for one in found] == [["b"], ["4"], ["A short text."]]
    assert read_task(str(text), "exact").truths == ["a short text"]


def test_metrics_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    text = write(tmp_path / "t.jsonl", [{"prompt": "p", "completion": "no number"}])
    with pytest.raises(ConfigError, match="choices"):
        read_task(str(text), "choice")
    with pytest.raises(DataError, match=r"t\.jsonl:1: completion: holds no number"):
        read_task(str(text), "number")


def test_scores_of_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "4"}, {"prompt": "q", "completion": "5"}]
    items = read_task(str(write(tmp_path / "n.jsonl", rows)))
    assert scores(items, [folded("It is 4.0", "number"), ""]) == [1.0, 0.0]
    rouge = Task("rouge1", items.items)
    assert scores(rouge, ["4", "nothing"]) == [1.0, 0.0]
