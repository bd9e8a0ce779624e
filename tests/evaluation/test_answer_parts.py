"""Pieces of answers and their alignment: nothing lost, code whole, the optimum of a search over all splits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.evaluation.position_bias.parts import (
    common_parts,
    length_cuts,
    parts_of,
    pieces_of,
    semantic_cuts,
    similarity,
)

CODE = ["Do this:\n", "```python\nx = 1. \n\nprint('Hi. You.')\n```\n", "Then stop. ", "It works."]
SENTENCES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=4).map(" ".join),
    min_size=1,
    max_size=6,
)


def test_sentences_lists_and_code_stay_whole() -> None:
    assert pieces_of("One. Two is 3.14 long! Three?") == ["One. ", "Two is 3.14 long! ", "Three?"]
    assert pieces_of("1. First item. More.\n2. Second") == ["1. First item. ", "More.\n", "2. Second"]
    assert pieces_of("".join(CODE)) == CODE
    unclosed = ["Look:\n", "```\nfor x. in y.\nnever closed. at all."]
    assert pieces_of("".join(unclosed)) == unclosed
    assert pieces_of("") == [""]
    assert pieces_of("... !!") == ["... !!"]
    assert pieces_of("~~~\n```\na. b.\n~~~\nEnd.") == ["~~~\n```\na. b.\n~~~\n", "End."]


@given(st.text(alphabet="ab1.!? \n`-\t", max_size=80))
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text
    assert all(pieces_of(text)) or text == ""


def test_equal_lengths() -> None:
    assert length_cuts(["aaaa", "b", "c", "dddd"], 2) == (2,)
    assert length_cuts(["aa", "aa", "aa"], 2) == (1,), "the earlier of two equally near cuts"
    assert length_cuts(["a" * 100, "b", "c"], 3) == (1, 2), "every part keeps a piece"
    assert length_cuts(["a", "b"], 1) == ()
    assert common_parts(["a"], ["a", "b"], 3) == 1
    with pytest.raises(ValueError, match="at least 1"):
        common_parts(["a"], ["b"], 0)


def test_similarity() -> None:
    assert similarity("The cat", "the CAT sat") == pytest.approx(2 / 3)
    assert similarity("", "...") == 0


def brute_force(first: list[str], second: list[str], k: int) -> Any:
    best: Any = ((), (), -1.0)
    for one in itertools.combinations(range(1, len(first)), k - 1):
        for other in itertools.combinations(range(1, len(second)), k - 1):
            parts = zip(parts_of(first, one, joint=" "), parts_of(second, other, joint=" "), strict=True)
            total = sum(similarity(a, b) for a, b in parts)
            if total > best[2] + 1e-12:
                best = (one, other, total)
    return best


@settings(max_examples=150, deadline=None)
@given(SENTENCES, SENTENCES, st.integers(1, 4))
def test_the_best_pair_of_splits_is_found(first: list[str], second: list[str], k: int) -> None:
    k = common_parts(first, second, k)
    found = semantic_cuts(first, second, k)
    cuts_1, cuts_2, total = brute_force(first, second, k)
    assert found.total == pytest.approx(total)
    assert (found.first, found.second) == (cuts_1, cuts_2)


def test_long_answers_take_no_search_over_all_splits() -> None:
    first = [f"Sentence {n} about topic{n % 7} and word{n}." for n in range(40)]
    found = semantic_cuts(first, first[::-1], 4)
    assert len(found.first) == len(found.second) == 3
    assert semantic_cuts(first, first, 4).total == pytest.approx(4)
