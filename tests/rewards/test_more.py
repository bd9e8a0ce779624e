"""MORE: weights of data sets, their groups, the moving average over a kill, and the shortest vector between gradients."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.checks.worlds.classifiers.tastes import FeatureInputs, FeatureRewards, learnt, linear_tastes
from coalign.core.errors import DataError, ModelError
from coalign.measures.min_norm import min_norm_weights
from coalign.rewards.more import Config, MoreTask
from coalign.training.reward_models.groups import groups_of
from coalign.training.reward_models.task import RewardExample

vectors = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=k, max_size=k)
)


@settings(deadline=None)
@given(vectors)
def test_the_weights_are_a_mixture_that_is_shorter_than_any_vector(data) -> None:
    weights = min_norm_weights(data)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    shortest = min(float(np.linalg.norm(one)) for one in data)
    assert np.linalg.norm(weights @ np.array(data)) <= shortest + 1e-2 + 1e-3 * max(map(np.linalg.norm, data))


@settings(deadline=None)
@given(vectors)
def test_no_vector_points_against_the_mixture(data) -> None:
    """What the shortest vector is for: a step along it makes no task worse."""
    step = min_norm_weights(data) @ np.array(data)
    scale = 1 + max(float(np.linalg.norm(one)) for one in data) ** 2
    assert min(float(np.dot(one, step)) for one in data) >= float(step @ step) - 0.02 * scale


@pytest.mark.parametrize("wrong", [[], [[float("nan"), 1.0]], [1.0, 2.0]])
def test_what_has_no_shortest_vector_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="vectors"):
        min_norm_weights(wrong)


def pair(tag: str, number: int = 0) -> RewardExample:
    draw = torch.Generator().manual_seed(number + 100 * ord(tag))
    return RewardExample(f"{tag}{number}", tag, tuple(torch.randn(2, 4, generator=draw)), (1.0, 0.0))


def test_groups_hold_one_record_of_every_data_set_and_lose_none_of_the_smallest() -> None:
    examples = [pair("a", n) for n in range(3)] + [pair("b", n) for n in range(7)]
    groups = groups_of(examples, None, seed=0)
    assert [tuple(one.tag for one in group) for group in groups] == [("a", "b")] * 7
    assert {group[0].id for group in groups} == {"a0", "a1", "a2"}
    assert len({group[1].id for group in groups}) == 7
    assert len(groups_of(examples, 2, seed=0)) == 2
    assert groups_of(examples, None, seed=0) == groups != groups_of(examples, None, seed=1)
    with pytest.raises(DataError, match="are of one"):
        groups_of(examples[:3], None, seed=0)


def task(**options: Any) -> MoreTask:
    return MoreTask(FeatureInputs(), Config(data="tastes.jsonl", **options), ["a", "b", "c"])


def test_uniform_weights_are_the_mixture_and_evaluation_weighs_nothing() -> None:
    torch.manual_seed(0)
    model, examples = FeatureRewards(4), [pair(tag) for tag in "abc"]
    batch = task().collate([tuple(examples)])
    uniform = task(weights="uniform").loss(model.train(), batch, cast(Any, None))
    evaluated = task().loss(model.eval(), batch, cast(Any, None))
    torch.testing.assert_close(uniform.losses, evaluated.losses)
    assert "weight/a" in uniform.metrics
    assert "weight/a" not in evaluated.metrics


def test_the_gradients_of_the_head_are_those_of_the_whole_loss() -> None:
    torch.manual_seed(0)
    model, chosen = FeatureRewards(4).train(), task(grad_ema_new_weight=1.0)
    batch = chosen.collate([tuple(pair(tag) for tag in "abc"), tuple(pair(tag, 1) for tag in "abc")])
    chosen.loss(model, batch, cast(Any, None))
    losses = task(weights="uniform").loss(model, batch, cast(Any, None)).losses
    for place in range(3):
        mine = losses[batch["tags"] == place].mean()
        (expected,) = torch.autograd.grad(mine, model.score.weight, retain_graph=True)
        assert chosen.smoothed is not None
        torch.testing.assert_close(chosen.smoothed[place].float(), expected[0])


def test_the_moving_average_goes_on_from_a_checkpoint(tmp_path) -> None:
    torch.manual_seed(0)
    model = FeatureRewards(4).train()
    batches = [[tuple(pair(tag, n) for tag in "abc")] for n in range(3)]
    whole, first, second = (task(grad_ema_new_weight=0.3) for _ in range(3))
    for batch in batches:
        whole.loss(model, whole.collate(batch), cast(Any, None))
    for batch in batches[:2]:
        first.loss(model, first.collate(batch), cast(Any, None))
    first.save(tmp_path)
    second.load(tmp_path)
    second.loss(model, second.collate(batches[2]), cast(Any, None))
    assert torch.equal(cast(Any, whole.smoothed), cast(Any, second.smoothed))


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = FeatureRewards(4).train()
    model.score = cast(Any, torch.nn.Sequential(model.score))
    chosen = task()
    with pytest.raises(ModelError, match="linear head"):
        chosen.loss(model, chosen.collate([tuple(pair(tag) for tag in "abc")]), cast(Any, None))


@pytest.mark.slow
def test_the_world_of_tastes_is_learnt() -> None:
    found = learnt(
        linear_tastes(7), lambda inputs, tags: MoreTask(inputs, Config(data="tastes.jsonl"), tags), epochs=2
    )
    assert found["accuracy"] > 0.6
    assert 0 < found["least weight"] < 0.2
