"""Divergences over the likeliest tokens of a reference: against the whole divergence, with ties, and inside the online methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.training.losses import policy_gradient as pg
from coalign.training.losses.likely_tokens import LikelyTokens, divergences, kept_mass, likely_tokens
from coalign.training.online.known import know
from coalign.training.online.methods import GrpoOptions, RlooOptions
from coalign.training.online.policy_gradient import Cut, Known, Rollout
from coalign.training.online.ppo import PpoOptions
from tests.models.tiny import float64_norms
from tests.training.test_policy_gradient import gradient_of_steps, models, rollout_of


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with float64_norms():
        yield


def logits_of(seed: int, rows: int = 4, vocabulary: int = 11) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64) * 3


@given(st.integers(0, 50), st.integers(11, 20))
def test_over_all_tokens_it_is_the_divergence(seed, k):
    policy, reference = logits_of(seed), logits_of(seed + 100)
    found = divergences(policy, likely_tokens(reference, k))
    whole = kl_div(reference.log_softmax(-1), policy.log_softmax(-1), log_target=True, reduction="none").sum(
        -1
    )
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(kept_mass(policy, likely_tokens(reference, k)), torch.ones(4).double())


@given(st.integers(0, 50), st.integers(1, 11))
def test_over_some_it_is_that_of_both_renormalised(seed, k):
    policy, reference = logits_of(seed), logits_of(seed + 100)
    likely = likely_tokens(reference, k)
    assert likely.ids.tolist() == [sorted(row.argsort(descending=True)[:k].tolist()) for row in reference]
    p, q = (one.gather(1, likely.ids).softmax(-1) for one in (policy, reference))
    torch.testing.assert_close(divergences(policy, likely), (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(kept_mass(policy, likely), policy.softmax(-1).gather(1, likely.ids).sum(-1))
    torch.testing.assert_close(divergences(reference, likely), torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_of_equals_the_lower_ids_are_taken():
    tied = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert likely_tokens(tied, 2).ids.tolist() == [[1, 2], [0, 1]]
    assert likely_tokens(tied, 4).ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_gradients_flow_through_the_policy_alone():
    policy, reference = logits_of(0).requires_grad_(), logits_of(1).requires_grad_()
    divergences(policy, likely_tokens(reference, 5)).sum().backward()
    assert reference.grad is None
    assert policy.grad is not None
    untouched = policy.grad == 0  # what the reference finds unlikely is not looked at
    assert untouched.sum().item() == 4 * 6


def known_of(rollout: Rollout, top_k: int | None, in_loss: bool) -> Known:
    policy, _, reference = models()

    return know(
        rollout,
        policy,
        reference=lambda: contextlib.nullcontext(reference),
        old=True,
        top_k=top_k,
        diverged=top_k is not None and not in_loss,
        batch_tokens=20,
    )


def test_what_is_known_of_a_rollout_has_the_divergences_of_whole_distributions():
    rollout = rollout_of()
    policy, _, reference = models()
    known = known_of(rollout, 7, False)
    assert known.divergences is not None
    assert known.likely is not None
    for row, ids in enumerate(rollout.response_ids):
        prompt = rollout.prompt_ids[row // 3]
        whole = torch.tensor([prompt + ids])
        ours, theirs = (model(whole).logits[0, len(prompt) - 1 : -1] for model in (policy, reference))
        expected = divergences(ours, likely_tokens(theirs, 7)).detach()
        torch.testing.assert_close(known.divergences[row], expected)


@pytest.mark.parametrize("kl_in", ["reward", "advantage", "loss"])
def test_the_estimate_and_the_divergence_over_all_tokens_agree_where_they_must(kl_in):
    """With every token the divergence has no choice left: by hand from the logits."""
    rollout = rollout_of()
    policy, _, reference = models()
    constants = GrpoOptions(beta=0.3, kl_in=kl_in, kl_top_k=97)
    known = known_of(rollout, 97, kl_in == "loss")
    found = gradient_of_steps("grpo", constants, rollout, known, policy, Cut(responses=4))

    whole = []
    for row, ids in enumerate(rollout.response_ids):
        prompt = rollout.prompt_ids[row // 3]
        tokens = torch.tensor([prompt + ids])
        ours, theirs = (
            model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (policy, reference)
        )
        logps = ours.gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        whole.append((logps, (ours.exp() * (ours - theirs)).sum(-1)))
    rewards = rollout.rewards.clone()
    if kl_in == "reward":
        sums = torch.stack([one[1].sum().detach() for one in whole])
        rewards = rewards - 0.3 * sums.reshape(rewards.shape)
    advantages = pg.group_advantages(rewards, baseline="mean", scale="group").flatten()
    kept = [row for row in range(9) if not rewards.flatten()[row].isnan()]
    losses = []
    for row in kept:
        logps, apart = whole[row]
        advantage = advantages[row] - (0.3 * apart.detach() if kl_in == "advantage" else 0.0)
        loss = -(logps - logps.detach()).exp() * advantage
        losses.append(loss + 0.3 * apart if kl_in == "loss" else loss)
    policy.zero_grad()
    torch.cat(losses).mean().backward()
    expected = torch.cat([one.grad.flatten() for one in policy.parameters() if one.grad is not None])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


def test_pieces_of_a_rollout_are_joined_in_order():
    pieces = [LikelyTokens(torch.full((n, 2), n), torch.zeros(n, 2)) for n in (1, 3)]
    assert LikelyTokens.joined(pieces).ids[:, 0].tolist() == [1, 3, 3, 3]
    assert replace(Known(), likely=tuple(pieces)).likely is not None


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (GrpoOptions, {"kl_top_k": 5}, "kl_top_k has no effect without beta"),
        (
            GrpoOptions,
            {"beta": 0.1, "kl_top_k": 5, "kl_estimator": "k2"},
            "kl_estimator has no effect with kl_top_k",
        ),
        (RlooOptions, {"beta": 0, "kl_in": "advantage"}, "kl_in has no effect without beta"),
        (PpoOptions, {"kl_in": "advantage"}, "kl_in: advantage is for methods without a value head"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, values, words):
    with pytest.raises(ConfigError, match=words):
        build(kind, values)


def test_one_pass_over_a_part_gives_log_probabilities_and_divergences():
    """With the divergence in the loss a part is scored once, as with an estimate."""
    rollout = rollout_of()
    policy, _, _ = models()
    forward, calls = policy.forward, []
    policy.forward = lambda *args, **more: calls.append(1) or forward(*args, **more)
    counts = []
    for top_k in (7, None, 7):  # at its first use a model is probed
        known = known_of(rollout, top_k, True)
        constants = GrpoOptions(beta=0.3, kl_in="loss", kl_top_k=top_k)
        calls.clear()
        gradient_of_steps("grpo", constants, rollout, known, policy, Cut(responses=9))
        counts.append(len(calls))
    assert counts[1:] == [1, 1]
