"""The worlds of rewarded tokens and of graded digit strings: what they say is true of what they draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coalign.checks.online import divergence, reinforced
from coalign.checks.tiny_models import tiny_transformer
from coalign.checks.worlds.graded.digits import (
    ANSWER,
    ASK,
    END,
    LENGTH,
    OPERATIONS,
    REFERENCE,
    VOCABULARY,
    compared_strings,
    digit_losses,
    graded_answers,
    noisy_grades,
    similarities,
    views_of,
)
from coalign.checks.worlds.rewarded import tokens as world_of_tokens
from coalign.checks.worlds.rewarded.curves import (
    at_divergences,
    exact_policies,
    mean_divergence,
    strength_for,
)
from coalign.core.errors import CoalignError
from tests.checks.test_verdicts import plus, rows_of, verdict_of


def test_rewards_are_linear_in_tokens_and_as_correlated_as_asked():
    world = world_of_tokens.token_world(3, spreads=(2.5, 1.0), correlation=-0.5)
    first, second = world.scores[:, :, 0].flatten(1)
    assert float(first.std() / second.std()) == pytest.approx(2.5, rel=0.25)
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) == pytest.approx(-0.5, abs=0.2)
    found = world.sample(world.base, 2, "x")
    rewards = world.rewards(found.tokens)
    assert rewards.shape == (2, world_of_tokens.PROMPTS, 2)
    by_hand = sum(
        world.scores[1, 5, place, found.tokens[5, 1, place]] for place in range(world_of_tokens.LENGTH)
    )
    assert float(rewards[1, 5, 1]) == pytest.approx(float(by_hand), abs=1e-5)
    assert divergence(world.base, world.base, found) == 0


def test_a_policy_goes_up_its_utility_and_stays_near_under_a_strong_penalty():
    world = world_of_tokens.token_world(3)

    def utility(tokens: torch.Tensor) -> torch.Tensor:
        return world.rewards(tokens)[0]

    reached = {}
    for strength in (0.5, 50.0):
        policy = reinforced(
            world.base, world.base, world.prompts, utility, torch.Generator().manual_seed(0),
            strength=strength, n=8, length=world_of_tokens.LENGTH, steps=30, learning_rate=1e-2,
        )  # fmt: skip
        found = world.sample(policy, 64, "after")
        reached[strength] = (float(world.rewards(found.tokens).mean()), divergence(policy, world.base, found))
    start = float(world.rewards(world.sample(world.base, 64, "before").tokens).mean())
    assert reached[0.5][0] > start + 1
    assert reached[0.5][1] > 0.2 > reached[50.0][1]


def test_exact_tilts_lie_at_the_divergence_that_is_asked_for():
    utilities = np.random.default_rng(0).normal(size=(4, 64))
    assert mean_divergence(utilities, strength_for(utilities, 0.7)) == pytest.approx(0.7, abs=1e-3)
    policies = exact_policies(utilities, 0.7)
    np.testing.assert_allclose(policies.sum(1), 1)
    assert ((policies * utilities).sum(1) > utilities.mean(1)).all()


def test_measures_are_read_off_only_where_policies_went():
    points = [{"kl": 1.0, "x": 0.4}, {"kl": 3.0, "x": 0.8}]
    assert at_divergences(points, "x", (0.5, 2.0), 0.0).tolist() == pytest.approx([0.2, 0.6])
    with pytest.raises(CoalignError, match=r"reach a KL divergence of 3\.00"):
        at_divergences(points, "x", (4.0,), 0.0)


def test_graded_answers_are_as_good_as_they_say():
    answers = graded_answers(400, np.random.default_rng(1))
    for one in answers:
        assert one.operation is not None
        assert one.reference == OPERATIONS[list(OPERATIONS)[one.operation]](one.question)
        assert (one.answer == one.reference) == (one.quality == LENGTH)
        assert abs(len(one.answer) - LENGTH) <= LENGTH - one.quality
    quality = [one.quality for one in answers]
    for labels in (noisy_grades(answers, np.random.default_rng(2)), similarities(answers)):
        assert np.corrcoef(labels, quality)[0, 1] > 0.6
    (view, *_) = views_of(answers[:1], [7])
    assert view.more.ids[-2:] == view.less.ids[-2:] == [7, END]
    assert len(view.more.ids) == len(view.less.ids) + LENGTH + 1


def test_strings_to_compare_answer_no_question_and_digits_are_read_after_the_whole_request():
    rows = compared_strings(60, np.random.default_rng(1))
    for one in rows:
        assert (one.answer == one.reference) == (one.quality == LENGTH)
        assert one.request(reference=True) == [REFERENCE, *one.reference, ANSWER, *one.answer, ASK]
    model = tiny_transformer(VOCABULARY, 16, 1, 2, positions=64, spread=0.5).eval()
    digits = [one.quality for one in rows]
    together = digit_losses(model, rows, digits)
    alone = torch.cat([digit_losses(model, [one], [one.quality]) for one in rows])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("gaps", "divergence", "labels", "outcome"),
    [
        ([0.1, 0.12, 0.08, 0.1, 0.11], 0.0, [0.55] * 5, "seen"),
        ([0.1, 0.12, 0.08, 0.1, 0.11], 0.0, [0.55, 0.55, 0.55, 0.55, 0.9], "seen"),
        ([0.1, 0.12, 0.08, 0.1, 0.11], 0.0, [0.55, 0.55, 0.55, 0.9, 0.9], "not seen"),
        ([0.1, 0.12, 0.08, 0.1, 0.11], 0.01, [0.55] * 5, "not seen"),
        ([0.3, -0.1, 0.3, 0.0, 0.02], 0.0, [0.4] * 5, "not seen"),
        ([-0.1, -0.12, -0.08, -0.1, -0.11], 0.0, [0.3] * 5, "not seen"),
    ],
)
def test_what_self_j_says_follows_from_the_rows(
    gaps: list[float], divergence: float, labels: list[float], outcome: str, tmp_path: Path
):
    full = plus(0.5, gaps)
    curve = {"quality of the better half": 5.5, "quality of all": 4.5}
    correlations = {
        "without the reference": 0.5,
        "both requests": plus(divergence, full),
        "both and divergence": full,
        "similarity labels": labels,
        "grade labels": 0.2,
    }
    rows = rows_of({arm: {"correlation": one, **curve} for arm, one in correlations.items()})
    assert verdict_of("self-j", rows, tmp_path).outcome == outcome
