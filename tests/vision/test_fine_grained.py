"""Elements of prompts, the fine-grained objective, questions, and what figures come of scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.vision.fine_grained.benchmark import ranking, summarise
from coalign.vision.fine_grained.elements import (
    category_of,
    element_accuracy,
    element_mask,
    find_tokens,
    phrase_of,
    prompt_variances,
)
from coalign.vision.fine_grained.losses import fine_grained_losses

TOKENS = st.lists(st.integers(1, 4), min_size=0, max_size=12)


@pytest.mark.parametrize(
    ("element", "phrase", "category"),
    [
        ("red (color)", "red", "color"),
        ("a dog (of bronze) (object)", "a dog (of bronze)", "object"),
        ("two cats", "two cats", ""),
        ("  on the left ( location ) ", "on the left", "location"),
        ("(animal)", "", "animal"),
    ],
)
def test_an_element_is_a_phrase_and_a_category(element: str, phrase: str, category: str) -> None:
    assert (phrase_of(element), category_of(element)) == (phrase, category)


@given(TOKENS, st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=100)
def test_a_part_is_found_at_its_first_place(tokens: list[int], part: list[int]) -> None:
    found = find_tokens(tokens, part)
    places = [i for i in range(len(tokens)) if tokens[i : i + len(part)] == part]
    assert found == (places[0] if places else None)


def test_a_phrase_at_the_very_beginning_is_found() -> None:
    """In the official code place 0 means that there is none, which loses it where no special token leads."""
    marked = element_mask([5, 6, 7], {"x (y)": [5]}, {"x (y)": 1.0})
    assert (marked.mask, marked.scores, marked.missing) == ([1, 0, 0], [1, 0, 0], ())


def test_tokens_of_several_elements_have_their_mean() -> None:
    marked = element_mask([9, 1, 2, 8], {"a": [1, 2], "b": [2], "c": [3]}, {"a": 1.0, "b": 0.0, "c": 1.0})
    assert marked.scores == [0, 1, 0.5, 0]
    assert marked.missing == ("c",)


def test_the_first_place_carries_the_overall_score_and_the_rest_is_cut_or_padded() -> None:
    marked = element_mask([9, 1, 2, 8], {"a": [2]}, {"a": 0.5})
    assert marked.framed(6, 3.0) == ([1, 0, 1, 0, 0, 0], [0.5, 0, 0.5, 0, 0, 0])
    assert marked.framed(2, 5.0) == ([1, 0], [1, 0])


def test_a_prompt_with_one_picture_has_no_variance() -> None:
    assert prompt_variances(["p", "q", "q"], [1.0, 2.0, 4.0]) == [0.0, 2.0, 2.0]


def test_accuracy_is_on_both_sides_of_the_threshold() -> None:
    assert element_accuracy([0.5, 0.49, 0.9], [0.5, 0.5, 0.1]) == pytest.approx(1 / 3)
    assert element_accuracy([], []) is None


@given(st.integers(1, 3), st.integers(0, 4))
@settings(deadline=None, max_examples=20)
def test_the_loss_does_not_depend_on_the_batch_or_its_order(size: int, shift: int) -> None:
    draw = torch.Generator().manual_seed(size)
    logits = torch.randn(size, 3 + 5, 2, generator=draw, dtype=torch.float64)
    marks, mask, tokens = (torch.rand(size, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    overall, variances = (torch.rand(size, generator=draw, dtype=torch.float64) for _ in range(2))
    given_ = (logits, marks, mask, tokens, overall, variances)
    whole = fine_grained_losses(*given_, queries=3)
    order = torch.roll(torch.arange(size), shift)
    torch.testing.assert_close(fine_grained_losses(*(one[order] for one in given_), queries=3), whole[order])
    for place in range(size):
        alone = fine_grained_losses(*(one[place : place + 1] for one in given_), queries=3)
        torch.testing.assert_close(alone, whole[place : place + 1])


def test_half_precision_does_not_stick_at_five() -> None:
    logits = torch.zeros(1, 2, 2, dtype=torch.bfloat16)
    logits[..., 1] = 6.0
    from coalign.vision.fine_grained.losses import match_probabilities, overall_scores

    overall = overall_scores(match_probabilities(logits), 2)
    assert overall.dtype == torch.float32
    assert 4.98 < float(overall) < 5


def test_the_variance_is_needed_where_it_weighs() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="needs the variance"):
        fine_grained_losses(torch.zeros(1, 3, 2), zeros, zeros, zeros, torch.zeros(1), queries=1)


def scored_rows() -> list[dict[str, Any]]:
    rows = []
    for number in range(12):
        good = number % 3
        rows.append(
            {
                "id": str(number),
                "prompt": f"a red cube {number}",
                "generator": "abc"[good],
                "score_result": 1.0 + 2 * good,
                "combined": 1.5 + 2 * good,
                "element_result": {"red (color)": good / 2, "cube (object)": 0.9},
                "human": 1.0 + 1.9 * good,
                "element_human": {"red (color)": good / 2, "cube (object)": 1.0},
            }
        )
    return rows


def test_figures_of_scores_that_agree() -> None:
    found = summarise(scored_rows())
    assert found["overall"]["srcc"] == pytest.approx(1)
    assert found["elements"]["accuracy"] == 1.0
    assert [one["category"] for one in found["elements"]["categories"]] == ["color", "object"]
    assert found["challenge"] == pytest.approx(0.25 + 0.25 * found["overall"]["plcc"] + 0.5)
    assert [one["generator"] for one in found["generators"]] == ["c", "b", "a"]
    assert found["generator_srcc"] == pytest.approx(1)


def test_items_without_people_are_ranked_alone() -> None:
    rows = [{key: value for key, value in row.items() if "human" not in key} for row in scored_rows()]
    found = summarise(rows)
    assert "overall" not in found
    assert found["generators"][0]["human"] is None
    assert "generator_srcc" not in found


def test_an_item_without_a_score_is_in_no_mean() -> None:
    rows = [*scored_rows(), {**scored_rows()[2], "id": "x", "score_result": None, "element_result": {}}]
    rows[-1].pop("combined")
    assert summarise(rows)["scored"] == 12
    assert ranking(rows)[0]["items"] == 4


def test_cross_entropy_does_not_stick_where_absolute_differences_do() -> None:
    """Of a model that says 1 everywhere the gradient towards a label of 0 vanishes under one and not under the other."""

    def pull(distance: Any) -> float:
        logits = torch.zeros(1, 3, 2, dtype=torch.float64)
        logits[..., 1] = 12.0
        logits.requires_grad_()
        zeros = torch.zeros(1, 2, dtype=torch.float64)
        losses = fine_grained_losses(
            logits,
            zeros + 0.5,
            zeros + 1,
            zeros,
            torch.ones(1),
            queries=1,
            variance_weight="none",
            distance=distance,
        )
        return float(torch.autograd.grad(losses.sum(), logits)[0].abs().max())

    assert pull("absolute") < 1e-3 < 0.1 < pull("cross-entropy")
