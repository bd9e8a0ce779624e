"""D2O: the loss over self-samples and a negative, and the sampling of anchors."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.data.records import Feedback, Messages, Preference, Ranking
from coalign.models.types import Generation
from coalign.preference.d2o import d2o_loss
from coalign.preference.data.anchors import anchor, human_negatives
from coalign.preference.data.parts import due
from coalign.training.losses.pairwise import dpo_loss
from tests.preference.batches import evaluate, naive_records, reordered, scored_batch, sigmoid
from tests.preference.fitting import fit_tiny

run = partial(evaluate, "d2o")


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 999))
@settings(max_examples=40)
def test_the_objective_equals_a_loop_over_any_number_of_samples(sizes: list[int], seed: int) -> None:
    batch = scored_batch([[1.0] * k + [0.0] for k in sizes], seed=seed)
    losses = run(batch, alpha=0.3, beta=0.2)
    naive = []
    for *anchors, negative in naive_records(batch):
        z = 0.2 / len(anchors) * sum(one["h"] for one in anchors) - 0.3 * negative["h"]
        naive.append(-math.log(sigmoid(z)))
    assert losses.losses.tolist() == pytest.approx(naive)
    torch.testing.assert_close(
        losses.metrics["rewards/margins"],
        losses.metrics["rewards/chosen"] - losses.metrics["rewards/rejected"],
    )
    assert all(not values.requires_grad and len(values) == len(sizes) for values in losses.metrics.values())


def test_one_sample_and_equal_weights_are_dpo() -> None:
    anchors, negatives = torch.randn(5).double(), torch.randn(5).double()
    zeros = torch.zeros(5).double()
    torch.testing.assert_close(
        d2o_loss(anchors, negatives, alpha=0.1, beta=0.1),
        dpo_loss(anchors, negatives, zeros, zeros, beta=0.1),
    )


@given(anchor_ratio=st.floats(-1e6, 1e6), negative_ratio=st.floats(-1e6, 1e6))
@settings(max_examples=60)
def test_losses_stay_finite_and_gradients_push_apart(anchor_ratio: float, negative_ratio: float) -> None:
    ratios = torch.tensor([anchor_ratio, negative_ratio], dtype=torch.float64, requires_grad=True)
    loss = d2o_loss(ratios[:1], ratios[1:], alpha=0.1, beta=0.1).sum()
    (gradient,) = torch.autograd.grad(loss, ratios)
    assert bool(loss.isfinite())
    assert gradient[0] <= 0 <= gradient[1]


def test_the_order_of_records_and_of_samples_does_not_matter() -> None:
    batch = scored_batch([[1.0, 1.0, 0.0], [1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    torch.testing.assert_close(run(reordered(batch, [2, 0, 1])).losses, run(batch).losses[[2, 0, 1]])
    negative_first = scored_batch([[0.0, 1.0, 1.0]], seed=4)
    (record,) = naive_records(negative_first)
    z = 0.1 * (record[1]["h"] + record[2]["h"]) / 2 - 0.1 * record[0]["h"]
    assert run(negative_first).losses.tolist() == pytest.approx([-math.log(sigmoid(z))])


def test_the_reference_gets_no_gradient() -> None:
    batch = scored_batch([[1.0, 0.0]])
    assert batch.reference is not None
    frozen = batch.reference.token_logps.requires_grad_(True)
    run(batch).losses.sum().backward()
    assert frozen.grad is None


@pytest.mark.parametrize("values", [[[1.0, 1.0]], [[0.0, 0.0, 1.0]], [[0.0]], [[1.0, 0.0], [2.0, 3.0]]])
def test_records_without_one_negative_and_an_anchor_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one negative"):
        run(scored_batch(values))


# anchors


def said(*texts: list[str]) -> list[list[Generation]]:
    return [[Generation(text) for text in group] for group in texts]


def bad(answer: str, prompt: str = "q") -> Feedback:
    return Feedback(
        prompt=[{"role": "user", "content": prompt}], completion=answer, label=False, extra={"id": prompt}
    )


def test_negatives_are_rejected_sides_and_thumbs_down() -> None:
    prompt: Messages = [{"role": "user", "content": "q"}]
    pair = Preference(prompt=prompt, chosen="good", rejected="bad", extra={"id": 7}, plain=True)
    negatives = human_negatives([pair, bad("worse"), replace(bad("fine"), label=True)])
    assert [one.completion for one in negatives] == ["bad", "worse"]
    assert (negatives[0].extra, negatives[0].plain, negatives[0].label) == ({"id": 7}, True, False)


def test_anchors_stand_beside_the_negative_and_everything_left_out_is_counted() -> None:
    samples = said(["fine", "bad", " ", "fine"], ["rude ", "rude", "", "rude"])
    anchored = anchor([bad("bad"), bad("rude", "r")], samples)
    (record,) = anchored.records
    assert record.responses == ("fine", "fine", "bad")
    assert record.scores == (1.0, 1.0, 0.0)
    assert record.extra == {"id": "q"}
    assert (anchored.equal, anchored.empty, anchored.unfinished) == (4, 2, 0)
    assert "none of 4 samples" in str(anchored.dropped[0])


def test_samples_that_ran_out_of_tokens_are_kept_and_counted() -> None:
    anchored = anchor([bad("bad")], [[Generation("to be", finish_reason="length"), Generation("yes")]])
    assert (len(anchored.records[0].responses), anchored.unfinished) == (3, 1)


def test_samples_of_other_records_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        anchor([bad("bad")], [])


def test_resampling_starts_after_the_warm_up() -> None:
    assert [step for step in range(12) if due(step, warmup=3, every=4)] == [3, 7, 11]


def test_rankings_from_elsewhere_are_refused(tmp_path: Path) -> None:
    ranking = Ranking(prompt=[{"role": "user", "content": "q"}], responses=("a", "b"), scores=(3.0, 2.0))
    with pytest.raises(DataError, match="one negative"):
        fit_tiny(tmp_path, [ranking], "d2o", max_steps=1)


def test_training(tmp_path: Path) -> None:
    samples = said(["fine", "yes"], ["no", "well"], ["good"], ["so"])
    anchored = anchor([bad("rude", f"q{n}") for n in range(4)], samples)
    result = fit_tiny(tmp_path, anchored.records, "d2o", max_steps=3)
    margins = [row["rewards/margins"] for row in result.history if "rewards/margins" in row]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > margins[0]
