"""The world of copying: exact gold, preferences from gold with noise, and the same numbers under the same seed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from coalign.checks.preference_world import (
    END,
    SEPARATOR,
    PreferenceWorld,
    Start,
    training_arm,
    untrained_arm,
)
from coalign.checks.steps import reference_logps
from coalign.preference.pairwise import DPOConstants
from coalign.training.objective import get_objective


@pytest.fixture(scope="module")
def start() -> Start:
    world = PreferenceWorld(seed=0, label_noise=0.0, held_out=30)
    base = world.base_model(steps=8)
    pairs = world.pairs(base, n=64)
    return Start(world, base, {"": pairs}, {"": reference_logps(base, pairs)})


def test_gold_by_hand() -> None:
    prompts = [[5, 6, 7, SEPARATOR]]
    responses = [[[5, 6, 7, 9, END], [5, 7, 6, END], [6, 6, END], [5], [END]]]
    gold = PreferenceWorld(seed=0).gold(prompts, responses)
    assert gold.tolist() == [pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0])]


def test_demonstrations_are_noisy_copies_of_any_length() -> None:
    world = PreferenceWorld(seed=3)
    rows = [one.contexts[0] for one in world.demonstrations(3000, "x")]
    gold = world.gold([row.prompt_ids for row in rows], [row.response_ids for row in rows])
    assert float(gold.mean()) == pytest.approx(0.62 + 0.38 / 22, abs=0.02)
    lengths = torch.tensor([len(row.response_ids[0]) for row in rows])
    assert lengths.unique().tolist() == list(range(4, 15))
    assert all(row.response_ids[0][-1] == END and END not in row.response_ids[0][:-1] for row in rows)
    assert max(max(row.prompt_ids + row.response_ids[0]) for row in rows) < world.vocabulary


def test_without_noise_the_better_response_is_chosen(start: Start) -> None:
    for pair in start.panels[""]:
        (record,) = pair.contexts
        chosen, rejected = start.world.gold([record.prompt_ids], [record.response_ids])[0]
        assert chosen >= rejected
        assert record.values == [1.0, 0.0]


def test_labels_may_reward_length(start: Start) -> None:
    for pair in start.world.pairs(start.base, n=64, length_reward=100.0):
        chosen, rejected = pair.contexts[0].response_ids
        assert len(chosen) >= len(rejected)


def test_panels_share_prompts_and_candidates(start: Start) -> None:
    noisy = dataclasses.replace(start.world, label_noise=0.25)
    for plain, long in zip(
        noisy.pairs(start.base, 32), noisy.pairs(start.base, 32, length_reward=1.0), strict=True
    ):
        assert plain.contexts[0].prompt_ids == long.contexts[0].prompt_ids
        assert sorted(plain.contexts[0].response_ids) == sorted(long.contexts[0].response_ids)


def test_the_start_repeats_itself(start: Start) -> None:
    world = PreferenceWorld(seed=0, label_noise=0.0)
    base = world.base_model(steps=8)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), start.base.parameters(), strict=True))
    assert [one.contexts for one in world.pairs(base, n=64)] == [one.contexts for one in start.panels[""]]


def test_arms_leave_the_start_alone_and_repeat_themselves(start: Start) -> None:
    before = [one.clone() for one in start.base.parameters()]
    arm = training_arm(get_objective("dpo"), DPOConstants(beta=0.1), "", steps=5)
    first = arm(start)
    assert first == arm(start)
    assert set(first) == {"gold", "length", "kl"}
    assert first["kl"] != 0
    assert all(torch.equal(a, b) for a, b in zip(before, start.base.parameters(), strict=True))
    base = untrained_arm(start)
    assert base["kl"] == 0
    assert 1 <= base["length"] <= start.world.max_new_tokens
