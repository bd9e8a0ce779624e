"""BCO: the loss, its bound on DPO, the running shift, and the weights by density ratios."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coalign.core.errors import DataError
from coalign.core.options import build
from coalign.data.records import Feedback
from coalign.preference.bco import bco_loss
from coalign.training.losses.density_ratio import (
    PROB_DESIRABLE,
    density_ratios,
    fit_classifier,
    with_prob_desirable,
)
from coalign.training.losses.reward_shift import RewardShift, implicit_rewards
from coalign.training.losses.running_moments import RunningMoments
from coalign.training.objective import ScoredBatch, get_objective
from tests.preference.batches import evaluate, naive_records, reordered, scored_batch, sigmoid
from tests.preference.fitting import fit_tiny
from tests.preference.processes import moments_of_two_processes

rewards_lists = st.lists(st.floats(-50, 50), min_size=1, max_size=12)


run = partial(evaluate, "bco")


def updated(batch: ScoredBatch, **constants: Any) -> ScoredBatch:
    """The batch with a fresh shift that has seen it."""
    one = get_objective("bco")
    shift = RewardShift()
    shift.update(batch, build(one.constants, constants))
    return replace(batch, state=shift)


# the loss


@given(labels=st.lists(st.booleans(), min_size=1, max_size=8), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_the_objective_equals_a_loop(labels: list[bool], seed: int) -> None:
    batch = updated(scored_batch([[float(label)] for label in labels], seed=seed))
    losses = run(batch)
    rewards = [0.1 * record[0]["h"] for record in naive_records(batch)]
    delta = sum(rewards) / len(rewards)
    naive = [
        -math.log(sigmoid(r - delta) if label else sigmoid(delta - r))
        for r, label in zip(rewards, labels, strict=True)
    ]
    assert losses.losses.tolist() == pytest.approx(naive)
    assert losses.metrics["rewards/shift"].tolist() == pytest.approx([delta] * len(labels))
    for name, side in (("rewards/chosen", True), ("rewards/rejected", False)):
        seen = [r for r in losses.metrics[name].tolist() if not math.isnan(r)]
        assert seen == pytest.approx([r for r, label in zip(rewards, labels, strict=True) if label is side])


@given(desirable=rewards_lists, undesirable=rewards_lists, delta=st.floats(-20, 20))
@settings(max_examples=60)
def test_the_shifted_terms_bound_the_dpo_loss_of_every_pair(
    desirable: list[float], undesirable: list[float], delta: float
) -> None:
    up, down = torch.tensor(desirable).double(), torch.tensor(undesirable).double()
    bound = bco_loss(up, torch.ones(len(up)), delta)[:, None] + bco_loss(down, torch.zeros(len(down)), delta)
    dpo = -F.logsigmoid(up[:, None] - down)
    assert bool((bound >= dpo - 1e-9).all())


def test_the_shift_tightens_the_bound() -> None:
    rewards, labels = torch.tensor([5.0, 3.0]).double(), torch.tensor([1, 0])
    assert bco_loss(rewards, labels, 4.0).sum() < bco_loss(rewards, labels, 0.0).sum()


@given(
    rewards=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), delta=st.floats(-1e6, 1e6), data=st.data()
)
@settings(max_examples=60)
def test_losses_stay_finite_and_gradients_have_the_right_sign(
    rewards: list[float], delta: float, data: st.DataObject
) -> None:
    labels = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(rewards), max_size=len(rewards))))
    values = torch.tensor(rewards, dtype=torch.float64, requires_grad=True)
    losses = bco_loss(values, labels, delta)
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    assert bool(losses.isfinite().all())
    assert bool((gradient[labels] <= 0).all())
    assert bool((gradient[~labels] >= 0).all())
    assert bool((gradient.abs() <= 1).all())


def test_neither_the_reference_nor_the_shift_nor_the_weights_get_a_gradient() -> None:
    tensors = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    policy, reference, delta, weights = tensors
    bco_loss(
        implicit_rewards(policy, reference, beta=0.1), torch.tensor([1, 0]), delta[0], weights
    ).sum().backward()
    assert policy.grad is not None
    assert [one.grad for one in (reference, delta, weights)] == [None] * 3


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_of_one_class_is_legal(label: float) -> None:
    losses = run(updated(scored_batch([[label]] * 3)))
    assert bool(losses.losses.isfinite().all())


def test_the_order_of_records_does_not_matter() -> None:
    batch = updated(scored_batch([[1.0], [0.0], [1.0], [0.0]]))
    order = [2, 0, 3, 1]
    moved = reordered(batch, order)
    torch.testing.assert_close(run(moved).losses, run(batch).losses[order])
    torch.testing.assert_close(run(updated(moved)).losses, run(moved).losses)


@pytest.mark.parametrize("values", [[[1.0, 0.0]], [[1.0], [0.0, 0.0]]])
def test_records_with_more_responses_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one response each"):
        run(replace(scored_batch(values), state=RewardShift()))


def test_without_a_running_shift_the_objective_refuses() -> None:
    with pytest.raises(ValueError, match="running reward shift"):
        run(scored_batch([[1.0]]))


# the running shift


@given(parts=st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), min_size=1, max_size=6))
@settings(max_examples=60)
def test_running_moments_equal_numpy(parts: list[list[float]]) -> None:
    running = RunningMoments()
    for part in parts:
        running = running.merge(RunningMoments.of(torch.tensor(part)))
    everything = torch.tensor([one for part in parts for one in part]).double().numpy()
    assert running.count == len(everything)
    if len(everything):
        assert running.mean == pytest.approx(float(np.mean(everything)), abs=1e-6)
        assert running.var == pytest.approx(float(np.var(everything)), rel=1e-6, abs=1e-6)


def test_the_shift_is_pooled_midpoint_or_none() -> None:
    shift = RewardShift()
    assert shift.delta("pooled") == shift.delta("midpoint") == 0.0
    shift.desirable = RunningMoments(3.0, 0.0, 1.0)
    assert shift.delta("midpoint") == 3.0
    shift.undesirable = RunningMoments(-1.0, 0.0, 3.0)
    assert shift.delta("pooled") == 0.0
    assert shift.delta("midpoint") == 1.0
    assert shift.delta("none") == 0.0


def test_the_shift_survives_a_checkpoint() -> None:
    first, second = scored_batch([[1.0], [0.0], [1.0]], seed=1), scored_batch([[0.0], [0.0]], seed=2)
    constants = build(get_objective("bco").constants, {})
    whole, resumed = RewardShift(), RewardShift()
    whole.update(first, constants)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    whole.update(second, constants)
    resumed.update(second, constants)
    assert resumed.state_dict() == whole.state_dict()
    assert whole.undesirable.count == 3


def test_the_loss_does_not_change_the_shift() -> None:
    batch = updated(scored_batch([[1.0], [0.0]]))
    assert isinstance(batch.state, RewardShift)
    before = batch.state.state_dict()
    run(batch)
    assert batch.state.state_dict() == before


def test_moments_are_those_of_all_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(moments_of_two_processes, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    everything = [1.0, 2.0, 6.0, 4.0, -3.0, 5.0]
    assert found[0] == found[1]
    assert found[0] == pytest.approx({"mean": np.mean(everything), "var": np.var(everything), "count": 6})


# density ratios


@given(probabilities=st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60)
def test_density_ratios_are_clipped_odds(probabilities: list[float]) -> None:
    ratios = density_ratios(torch.tensor(probabilities).double(), minimum=0.5, maximum=10.0)
    for p, ratio in zip(torch.tensor(probabilities).double().tolist(), ratios.tolist(), strict=True):
        odds = p / (1 - p) if p < 1 else math.inf
        assert ratio == pytest.approx(min(10.0, max(0.5, odds)), rel=1e-6)


def test_only_undesirable_records_are_weighted() -> None:
    batch = updated(scored_batch([[1.0], [0.0]]))
    plain = run(batch).losses
    weighted = replace(batch, extras={PROB_DESIRABLE: torch.tensor([0.9, 0.75])})
    losses = evaluate("bco_matched", weighted)
    torch.testing.assert_close(losses.losses, plain * torch.tensor([1.0, 3.0]))
    assert losses.metrics["density_ratio"][1] == pytest.approx(3.0)


def clusters(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 4 == 0).double()
    return torch.randn(n, 3, generator=draw, dtype=torch.float64) + labels[:, None], labels


def test_the_classifier_is_the_penalised_optimum() -> None:
    features, labels = clusters(80)
    fitted = fit_classifier(features, labels, penalty=0.7)
    positives = float(labels.sum())
    balance = torch.where(labels == 1, 80 / (2 * positives), 80 / (2 * (80 - positives)))
    errors = balance * (fitted.probabilities(features) - labels)
    torch.testing.assert_close(features.T @ errors, -0.7 * fitted.weights, atol=1e-6, rtol=1e-6)
    assert float(errors.sum()) == pytest.approx(0.0, abs=1e-6)


def test_the_classifier_balances_the_classes() -> None:
    labels = torch.tensor([1.0] + [0.0] * 9)
    probabilities = fit_classifier(torch.ones(10, 2), labels).probabilities(torch.ones(1, 2))
    assert probabilities.tolist() == pytest.approx([0.5], abs=1e-6)


def test_the_classifier_does_not_depend_on_the_order() -> None:
    features, labels = clusters(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    one, other = fit_classifier(features, labels), fit_classifier(features[order], labels[order])
    torch.testing.assert_close(one.weights, other.weights, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_is_refused(label: float) -> None:
    with pytest.raises(DataError, match="nothing to tell their prompts from"):
        fit_classifier(torch.randn(4, 2), torch.full((4,), label))


def feedback(topics: Sequence[str], labels: Sequence[bool]) -> list[Feedback]:
    return [
        Feedback(prompt=[{"role": "user", "content": topic}], completion="x", label=label, extra={"id": row})
        for row, (topic, label) in enumerate(zip(topics, labels, strict=True))
    ]


def test_prompts_are_embedded_once_and_told_apart() -> None:
    asked: list[list[str]] = []

    def embed(texts: Sequence[str]) -> Tensor:
        asked.append(list(texts))
        return torch.tensor([[float(text == "a"), float(text == "b")] for text in texts])

    records = feedback(["a"] * 8 + ["b"] * 2 + ["a"] * 2 + ["b"] * 8, [True] * 10 + [False] * 10)
    scored = with_prob_desirable(records, embed, sample_size=100)
    assert asked == [["a", "b"]]
    probabilities = {record.prompt[0]["content"]: record.extra[PROB_DESIRABLE] for record in scored}
    assert probabilities["a"] > 0.6 > 0.4 > probabilities["b"]
    assert [record.extra["id"] for record in scored] == list(range(20))
    assert PROB_DESIRABLE not in records[0].extra


def test_the_classifier_reads_a_sample_of_each_class() -> None:
    def embed(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text)] for text in texts])

    records = feedback([str(n) for n in range(20)], [n % 2 == 0 for n in range(20)])
    few = with_prob_desirable(records, embed, sample_size=2, seed=3)
    again = with_prob_desirable(records, embed, sample_size=2, seed=3)
    every = with_prob_desirable(records, embed, sample_size=20, seed=3)
    values = [[record.extra[PROB_DESIRABLE] for record in some] for some in (few, again, every)]
    assert values[0] == values[1] != values[2]


def test_no_records_are_refused() -> None:
    with pytest.raises(DataError, match="no records"):
        with_prob_desirable([], lambda texts: torch.zeros(len(texts), 2), sample_size=2)


# training


def test_training_with_density_ratios(tmp_path: Path) -> None:
    def embed(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(text))] for text in texts])

    records = feedback(["short", "a longer one"] * 3, [True, False, True, True, False, False])
    weighted = with_prob_desirable(records, embed, sample_size=10)
    result = fit_tiny(tmp_path, weighted, "bco_matched", max_steps=2)
    assert all(0.5 <= row["density_ratio"] <= 10 for row in result.history if "density_ratio" in row)
    rows = [row for row in result.history if "loss" in row]
    for row in rows:
        between = row["rewards/chosen"] - row["rewards/rejected"]
        assert row["rewards/margins"] == pytest.approx(between, nan_ok=True), "the margin of means"
    assert any(math.isfinite(row["logps/chosen"]) for row in rows)
    with pytest.raises(DataError, match="prob_desirable"):
        fit_tiny(tmp_path / "without", records, "bco_matched", max_steps=1)
