from __future__ import annotations

from coalign.data.convert import convert
from coalign.data.records import Feedback, Ranking


def _feedback(prompt: str, completion: str, label: bool) -> Feedback:
    return Feedback(prompt=[{"role": "user", "content": prompt}], completion=completion, label=label)


def test_feedback_on_one_prompt_becomes_a_ranking() -> None:
    rows = [
        _feedback("p", "wrong", False),
        _feedback("q", "alone", True),
        _feedback("p", "right", True),
        _feedback("p", "right", True),
        _feedback("r", "a", True),
        _feedback("r", "a", False),
        _feedback("r", "b", True),
    ]
    first, second = convert(rows, "feedback", "ranking")
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert (first.responses, first.scores) == (("right", "wrong"), (1.0, 0.0))
    assert (second.responses, second.scores) == (("b", "a"), (1.0, 0.0)), "one thumb down is enough"
