"""Advantages, surrogates, divisors and KL estimators against derivations of their own: enumeration, loops, autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coalign.training.losses.policy_gradient import (
    best_and_worst,
    clipped_surrogate,
    clipped_value_loss,
    equal_groups,
    generalised_advantages,
    group_advantages,
    importance_ratios,
    kl_estimates,
    per_token,
    response_weights,
    token_sums,
    whiten,
)

NAN = math.nan
LOSS_TYPES = ("grpo", "dapo", "dr_grpo", "sequence")
rewards_of_groups = st.integers(2, 5).flatmap(
    lambda n: st.lists(
        st.lists(st.one_of(st.just(NAN), st.floats(-3, 3, width=32)), min_size=n, max_size=n), min_size=1, max_size=4
    )
)  # fmt: skip


def doubles(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_leave_one_out_is_each_reward_less_the_mean_of_the_others():
    rewards = doubles([[1.0, 4.0, 2.5], [0.0, 0.0, 3.0]])
    expected = [[row[i] - (sum(row) - row[i]) / 2 for i in range(3)] for row in rewards.tolist()]
    torch.testing.assert_close(group_advantages(rewards, baseline="leave_one_out"), doubles(expected))


@given(rewards_of_groups)
def test_a_response_that_does_not_count_is_in_no_mean_deviation_or_divisor(table: list[list[float]]):
    rewards = doubles(table)
    for baseline in ("mean", "leave_one_out"):
        for scale in ("group", "none"):
            got = group_advantages(rewards, baseline=baseline, scale=scale)
            assert not got[rewards.isnan()].any()
            for row, found in zip(rewards, got, strict=True):
                kept = ~row.isnan()
                if kept.sum() >= 2:
                    alone = group_advantages(row[kept][None], baseline=baseline, scale=scale)
                    torch.testing.assert_close(found[kept], alone[0])
                else:
                    assert not found.any()


def test_scales_are_those_of_their_papers():
    rewards = doubles([[0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    centred = rewards - rewards.mean(1, keepdim=True)
    by_group = group_advantages(rewards, scale="group")
    torch.testing.assert_close(by_group[0], centred[0] / (rewards[0].std() + 1e-4))
    assert not by_group[1].any()
    torch.testing.assert_close(group_advantages(rewards, scale="batch"), centred / (rewards.std() + 1e-4))


def test_leave_one_out_has_the_expected_gradient_of_the_reward():
    """Over all pairs of samples from a small policy the estimator's mean is the exact gradient."""
    logits = doubles([0.3, -0.7, 1.1]).requires_grad_()
    values = doubles([1.0, -2.0, 0.5])
    log_policy = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((log_policy.exp() * values).sum(), logits, retain_graph=True)
    total = torch.zeros_like(exact)
    for first in range(3):
        for second in range(3):
            advantages = group_advantages(values[[first, second]][None], baseline="leave_one_out")[0]
            surrogate = (advantages * log_policy[[first, second]]).mean()
            (gradient,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
            total += (log_policy[first] + log_policy[second]).exp().detach() * gradient
    torch.testing.assert_close(total, exact)


def test_kl_in_a_reward_and_in_a_loss_give_the_gradients_that_the_docstring_says():
    logits = doubles([0.5, -0.2, 1.4, -1.0]).requires_grad_()
    reference = doubles([0.1, 0.4, -0.3, 0.2]).log_softmax(0)
    policy = logits.log_softmax(0)
    p = policy.exp()
    d = policy - reference

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    reverse, forward = gradient((p * d).sum()), gradient(-(reference.exp() * d).sum())
    second = gradient((p * d.square()).sum() / 2)

    def in_reward(name: str) -> Tensor:
        return gradient((p.detach() * kl_estimates(policy, reference, name).detach() * policy).sum())  # type: ignore[arg-type]

    def in_loss(name: str) -> Tensor:
        return gradient((p.detach() * kl_estimates(policy, reference, name)).sum())  # type: ignore[arg-type]

    torch.testing.assert_close(in_reward("k1"), reverse)
    torch.testing.assert_close(in_reward("k2"), second - reverse)
    torch.testing.assert_close(in_reward("k3"), reverse - forward)
    torch.testing.assert_close(in_loss("k1"), torch.zeros_like(reverse), atol=1e-15, rtol=0)
    torch.testing.assert_close(in_loss("k2"), reverse)
    torch.testing.assert_close(in_loss("k3"), forward)


def test_kl_estimates_have_the_divergence_as_their_mean():
    policy, reference = doubles([0.5, -0.2, 1.4]).log_softmax(0), doubles([0.1, 0.4, -0.3]).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    for name in ("k1", "k3"):
        torch.testing.assert_close((policy.exp() * kl_estimates(policy, reference, name)).sum(), exact)
    assert bool((kl_estimates(policy, reference, "k3") >= 0).all())


def _by_hand(
    loss_type: str, lengths: list[int], counted: list[bool], losses: list[Tensor], longest: int
) -> Tensor:
    rows = [one for one, keep in zip(losses, counted, strict=True) if keep]
    if loss_type == "grpo":
        return torch.stack([one.mean() for one in rows]).mean()
    if loss_type == "dapo":
        return torch.cat(rows).mean()
    total = torch.stack([one.sum() for one in rows]).sum()
    return total / (len(rows) * longest) if loss_type == "dr_grpo" else total / len(rows)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(data=st.data())
def test_weights_give_the_published_mean_under_any_split(loss_type: str, data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    counted = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)).filter(any))
    losses = [doubles([(i + 1) * 0.37 + t * 0.11 for t in range(n)]) for i, n in enumerate(lengths)]
    sizes = torch.tensor(lengths)
    weights = response_weights(sizes, torch.tensor(counted), loss_type, longest=7)  # type: ignore[arg-type]
    expected = _by_hand(loss_type, lengths, counted, losses, 7)
    parts = [weight * loss.sum() for weight, loss in zip(weights, losses, strict=True)]
    order = data.draw(st.permutations(range(len(parts))))
    cut = data.draw(st.integers(0, len(parts)))
    first, second = order[:cut], order[cut:]
    total = sum(parts[i] for i in first) + sum(parts[i] for i in second)
    torch.testing.assert_close(total, expected)


def test_dr_grpo_needs_a_length():
    with pytest.raises(ValueError, match="constant length"):
        response_weights(torch.tensor([2]), torch.tensor([True]), "dr_grpo")


def test_ratios_of_tokens_and_of_sequences():
    lengths = torch.tensor([2, 3])
    policy, old = doubles([-1.0, -2.0, -0.5, -1.5, -1.0]), doubles([-1.2, -1.5, -0.5, -1.0, -2.0])
    d = policy - old
    torch.testing.assert_close(importance_ratios(policy, old, lengths), d.exp())
    sums = [d[:2].sum(), d[2:].sum()]
    expected = torch.stack([(sums[0] / 2).exp()] * 2 + [(sums[1] / 3).exp()] * 3)
    torch.testing.assert_close(importance_ratios(policy, old, lengths, "sequence"), expected)
    expected = torch.stack([sums[0].exp()] * 2 + [sums[1].exp()] * 3)
    torch.testing.assert_close(importance_ratios(policy, old, lengths, "sum"), expected)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=8),
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.9),
)
def test_a_token_has_no_gradient_exactly_where_the_clip_decides(
    rows: list[tuple[float, float]], low: float, high: float
):
    logps = doubles([one for one, _ in rows]).requires_grad_()
    advantages = doubles([one for _, one in rows])
    losses, off = clipped_surrogate(logps.exp(), advantages, low=low, high=high)
    losses.sum().backward()
    assert logps.grad is not None
    ratios = logps.detach().exp()
    torch.testing.assert_close(logps.grad, torch.where(off, 0.0, -advantages * ratios))
    for ratio, advantage, loss in zip(ratios.tolist(), advantages.tolist(), losses.tolist(), strict=True):
        bounded = min(max(ratio, 1 - low), 1 + high)
        assert loss == pytest.approx(-min(ratio * advantage, bounded * advantage))


def test_a_ceiling_bounds_the_loss_of_bad_responses():
    losses, off = clipped_surrogate(
        doubles([50.0, 50.0]), doubles([-1.0, 1.0]), low=0.2, high=0.3, ceiling=4.0
    )
    assert losses.tolist() == [4.0, -1.3]
    assert off.tolist() == [True, True]


def test_on_policy_the_surrogate_has_the_gradient_of_reinforce():
    logps = doubles([-0.3, -1.2, -0.7]).requires_grad_()
    advantages = doubles([1.0, -2.0, 0.5])
    losses, off = clipped_surrogate(importance_ratios(logps, logps, torch.tensor([1, 2])), advantages)
    losses.sum().backward()
    assert not off.any()
    torch.testing.assert_close(logps.grad, -advantages)


def test_advantages_over_tokens_are_those_of_a_loop_and_reset_at_every_response():
    rewards, values = doubles([0.1, -0.2, 1.0, 0.5]), doubles([0.3, 0.1, -0.4, 0.2])
    advantages, returns = generalised_advantages(
        rewards, values, torch.tensor([3, 1]), discount=0.9, trace=0.8
    )
    d2 = 1.0 - (-0.4)
    d1 = -0.2 + 0.9 * -0.4 - 0.1
    d0 = 0.1 + 0.9 * 0.1 - 0.3
    a2, a1 = d2, d1 + 0.72 * d2
    expected = [d0 + 0.72 * a1, a1, a2, 0.3]
    torch.testing.assert_close(advantages, doubles(expected))
    torch.testing.assert_close(returns, advantages + values)


def test_with_trace_one_the_return_is_the_sum_of_what_follows():
    rewards, values = doubles([0.0, 0.0, 2.0, -1.0]), doubles([0.7, 0.1, -0.4, 3.0])
    _, returns = generalised_advantages(rewards, values, torch.tensor([3, 1]), trace=1.0)
    torch.testing.assert_close(returns, doubles([2.0, 2.0, 2.0, -1.0]))


def test_value_loss_takes_the_worse_of_both():
    values, old, returns = doubles([1.0, 0.1]), doubles([0.0, 0.0]), doubles([1.0, 2.0])
    assert clipped_value_loss(values, old, returns, 0.2).tolist() == pytest.approx([0.5 * 0.64, 0.5 * 1.9**2])
    assert clipped_value_loss(values, old, returns, None).tolist() == pytest.approx([0.0, 0.5 * 1.9**2])


def test_the_pair_of_a_group_and_groups_without_one():
    rewards = doubles([[1.0, NAN, 3.0, 0.0], [2.0, 2.0, NAN, 2.0], [NAN, NAN, NAN, 1.0]])
    best, worst, usable = best_and_worst(rewards)
    assert (best[0], worst[0]) == (2, 3)
    assert usable.tolist() == [True, False, False]
    assert equal_groups(rewards).tolist() == [False, True, True]


def test_sums_and_copies_over_ragged_tokens():
    lengths = torch.tensor([2, 0, 1])
    assert token_sums(doubles([1.0, 2.0, 5.0]), lengths).tolist() == [3.0, 0.0, 5.0]
    assert per_token(doubles([1.0, 9.0, 4.0]), lengths).tolist() == [1.0, 1.0, 4.0]
    assert whiten(doubles([3.0])).tolist() == [3.0]
    assert whiten(doubles([1.0, 3.0])).mean() == 0
