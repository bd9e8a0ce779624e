"""Win rates as between answers of equal length."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.length_control import length_controlled_win_rate

WINS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30)


@given(WINS, st.integers(1, 50))
def test_equal_lengths_leave_the_win_rate_as_it_is(wins: list[float], length: int) -> None:
    lengths = [length] * len(wins)
    assert length_controlled_win_rate(wins, lengths, lengths) == pytest.approx(sum(wins) / len(wins))


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=30,
    )
)
def test_the_other_side_has_what_is_left(rows: list[tuple[float, int, int]]) -> None:
    wins, mine, others = zip(*rows, strict=True)
    found = length_controlled_win_rate(wins, mine, others)
    assert 0 <= found <= 1
    turned = length_controlled_win_rate([1 - one for one in wins], others, mine)
    assert found + turned == pytest.approx(1, abs=1e-6)


def test_wins_of_longer_answers_count_less() -> None:
    """Wins drawn from the model itself: what comes back is its win rate without the length."""
    draw = np.random.default_rng(0)
    lead = draw.normal(30, 40, 4000)
    logits = 0.2 + 1.5 * np.tanh(lead / lead.std())
    wins = (draw.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    found = length_controlled_win_rate(wins, 100 + lead, np.full(4000, 100.0))
    assert found == pytest.approx(1 / (1 + math.exp(-0.2)), abs=0.03)
    assert wins.mean() > found + 0.1


def test_a_longer_answer_that_always_wins_by_length_alone_is_not_infinitely_far() -> None:
    found = length_controlled_win_rate([1, 1, 0, 0], [20, 20, 5, 5], [10, 10, 10, 10])
    assert found == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("wins", "mine", "message"),
    [([], [], "at least one"), ([1.0], [1, 2], "as many"), ([2.0], [1], "0 to 1")],
)
def test_what_cannot_be_used_is_refused(wins: list[float], mine: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(wins, mine, mine[:1])
