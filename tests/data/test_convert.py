from __future__ import annotations

from coalign.data.convert import convert
from coalign.data.records import Feedback, Ranking


def test_feedback_on_one_prompt_becomes_a_ranking() -> None:
    said = [("p", "wrong", False), ("q", "alone", True), ("p", "right", True), ("p", "right", True)]
    said += [("r", "a", True), ("r", "a", False), ("r", "b", True)]
    rows = [
        Feedback(prompt=[{"role": "user", "content": p}], completion=c, label=good) for p, c, good in said
    ]
    first, second = convert(rows, "feedback", "ranking")
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert (first.responses, first.scores) == (("right", "wrong"), (1.0, 0.0))
    assert (second.responses, second.scores) == (("b", "a"), (1.0, 0.0)), "one thumb down is enough"
