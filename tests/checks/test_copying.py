"""The world of copying: exact gold, preferences from gold with noise, and the same numbers under the same seed."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from coalign.checks.starts import Start, start_with, training_arm, untrained_arm
from coalign.checks.steps import best_only, example, reference_logps
from coalign.checks.worlds.copying.copying import END, SEPARATOR, Candidates, CopyingWorld, pair_changes
from coalign.training.batches import Example
from coalign.training.losses.pairwise import DPOConstants


@pytest.fixture(scope="module")
def start() -> Start[CopyingWorld]:
    world = CopyingWorld(seed=0, label_noise=0.0, held_out=30)
    base = world.base_model(steps=8)
    pairs = world.pairs(base, n=64)
    return start_with(world, base, {"": pairs}, compared=[""])


def gold_of(world: CopyingWorld, rows: list[Example]) -> torch.Tensor:
    records = [row.contexts[0] for row in rows]
    return world.gold([one.prompt_ids for one in records], [one.response_ids for one in records])


def test_gold_by_hand() -> None:
    prompts = [[5, 6, 7, SEPARATOR]]
    responses = [[[5, 6, 7, 9, END], [5, 7, 6, END], [6, 6, END], [5], [END]]]
    gold = CopyingWorld(seed=0).gold(prompts, responses)
    assert gold.tolist() == [pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0])]


def test_demonstrations_are_noisy_copies_of_any_length() -> None:
    world = CopyingWorld(seed=3)
    examples = world.demonstrations(3000, "x")
    rows = [one.contexts[0] for one in examples]
    assert float(gold_of(world, examples).mean()) == pytest.approx(0.62 + 0.38 / 22, abs=0.02)
    lengths = torch.tensor([len(row.response_ids[0]) for row in rows])
    assert lengths.unique().tolist() == list(range(4, 15))
    assert all(row.response_ids[0][-1] == END and END not in row.response_ids[0][:-1] for row in rows)
    assert max(max(row.prompt_ids + row.response_ids[0]) for row in rows) < world.vocabulary


def test_without_noise_the_better_response_is_chosen(start: Start[CopyingWorld]) -> None:
    gold = gold_of(start.world, start.panels[""])
    assert bool((gold[:, 0] >= gold[:, 1]).all())
    assert all(one.contexts[0].values == [1.0, 0.0] for one in start.panels[""])


def test_labels_may_reward_length(start: Start[CopyingWorld]) -> None:
    for pair in start.world.pairs(start.base, n=64, length_reward=100.0):
        chosen, rejected = pair.contexts[0].response_ids
        assert len(chosen) >= len(rejected)


def test_panels_share_prompts_and_candidates(start: Start[CopyingWorld]) -> None:
    noisy = dataclasses.replace(start.world, label_noise=0.25)
    for plain, long in zip(
        noisy.pairs(start.base, 32), noisy.pairs(start.base, 32, length_reward=1.0), strict=True
    ):
        assert plain.contexts[0].prompt_ids == long.contexts[0].prompt_ids
        assert sorted(plain.contexts[0].response_ids) == sorted(long.contexts[0].response_ids)


def test_the_start_repeats_itself(start: Start[CopyingWorld]) -> None:
    world = CopyingWorld(seed=0, label_noise=0.0)
    base = world.base_model(steps=8)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), start.base.parameters(), strict=True))
    assert [one.contexts for one in world.pairs(base, n=64)] == [one.contexts for one in start.panels[""]]


def test_arms_leave_the_start_alone_and_repeat_themselves(start: Start[CopyingWorld]) -> None:
    before = [one.clone() for one in start.base.parameters()]
    arm = training_arm("dpo", DPOConstants(beta=0.1), "", steps=5)
    first = arm(start)
    assert first == arm(start)
    assert set(first) == {"gold", "length", "kl"}
    assert first["kl"] != 0
    assert all(torch.equal(a, b) for a, b in zip(before, start.base.parameters(), strict=True))
    base = untrained_arm(start)
    assert base["kl"] == 0
    assert 1 <= base["length"] <= start.world.max_new_tokens


# classes of prompts


def test_the_last_token_of_a_prompt_names_its_class() -> None:
    world = CopyingWorld(seed=1, copy_rates=(1.0, 0.0))
    prompts = world.prompts(6, "x")
    assert [prompt[-1] for prompt in prompts] == [SEPARATOR, 24] * 3
    assert world.classes(prompts) == [0, 1] * 3
    one_class = CopyingWorld(seed=1).prompts(6, "x")
    assert [prompt[:3] for prompt in prompts] == [prompt[:3] for prompt in one_class]
    assert world.untrained_model().config.vocab_size == 25


def test_demonstrations_copy_at_the_rate_of_their_class_or_of_their_row() -> None:
    world = CopyingWorld(seed=1, copy_rates=(1.0, 0.0))
    by_class = gold_of(world, world.demonstrations(1000, "x"))[:, 0]
    assert bool((by_class[::2] == 1).all())
    assert float(by_class[1::2].mean()) == pytest.approx(1 / 22, abs=0.02)
    by_row = gold_of(world, world.demonstrations(1000, "x", torch.arange(1000) / 500 % 1))[:, 0]
    assert float(by_row[:500].mean()) == pytest.approx(0.5 + 0.5 / 22, abs=0.03)


def test_gold_is_told_by_class_where_there_are_several(start: Start[CopyingWorld]) -> None:
    world = CopyingWorld(seed=0, copy_rates=(0.9, 0.1), held_out=30)
    measures = world.measure(world.untrained_model(), world.untrained_model())
    assert measures["gold"] == pytest.approx((measures["gold, class 0"] + measures["gold, class 1"]) / 2)
    assert set(start.world.measure(start.base, start.base)) == {"gold", "length", "kl"}


# records from candidates


@pytest.fixture(scope="module")
def candidates(start: Start[CopyingWorld]) -> Candidates:
    world = dataclasses.replace(start.world, copy_rates=(0.62, 0.62))
    return world.candidates(world.base_model(steps=2), n=40, samples=4)


def test_pairs_rankings_and_thumbs_tell_of_the_same_samples(candidates: Candidates) -> None:
    pairs, scored = candidates.pairs(), candidates.pairs(scored=True)
    rankings = [one.contexts[0] for one in candidates.rankings()]
    thumbs = [one.contexts[0] for one in candidates.thumbs()]
    assert len(thumbs) == 2 * len(pairs) == 80
    for row, ranking in enumerate(rankings):
        (pair,), (with_scores,) = pairs[row].contexts, scored[row].contexts
        assert ranking.values == pytest.approx(candidates.scores[row].tolist())
        assert with_scores.values[0] >= with_scores.values[1]
        assert pair.response_ids == with_scores.response_ids
        for text, score in zip(with_scores.response_ids, with_scores.values, strict=True):
            assert (text, score) in zip(ranking.response_ids, ranking.values, strict=True)
        for text, label in zip(pair.response_ids, (1.0, 0.0), strict=True):
            assert any(
                (one.prompt_ids, one.response_ids, one.values) == (pair.prompt_ids, [text], [label])
                for one in thumbs
            )


def test_thumbs_are_shuffled(candidates: Candidates) -> None:
    labels = [one.contexts[0].values[0] for one in candidates.thumbs()]
    assert 10 < sum(labels[:40]) < 30


def test_thumbs_of_uneven_prompts_carry_their_columns(candidates: Candidates) -> None:
    column = [float(row) for row in range(40)]
    thumbs = candidates.thumbs(up=(8, 2), down=(2, 8), prob_desirable=column)
    found = Counter(
        (candidates.world.classes([one.contexts[0].prompt_ids])[0], one.contexts[0].values[0])
        for one in thumbs
    )
    assert found == {(0, 1.0): 8, (1, 1.0): 2, (0, 0.0): 2, (1, 0.0): 8}
    for one in thumbs:
        (row,) = one.extras["prob_desirable"]
        assert candidates.prompts[int(row)] == one.contexts[0].prompt_ids


def test_marks_are_absolute(candidates: Candidates) -> None:
    records = candidates.marked(0.5, weight=[float(row) for row in range(40)])
    assert len(records) == 80
    for number, one in enumerate(records):
        row = int(one.extras["weight"][0])
        place = (candidates.chosen if number % 2 == 0 else candidates.rejected)[row]
        assert one.contexts[0].response_ids == [candidates.responses[row][place]]
        assert one.contexts[0].values == [float(candidates.scores[row, place] >= 0.5)]
    labels = [one.contexts[0].values[0] for one in records]
    assert all(better >= worse for better, worse in zip(labels[::2], labels[1::2], strict=True))


def test_best_only_keeps_the_highest_value() -> None:
    ranking = example([5, 1], [[2], [3], [4]], [0.1, 0.9, 0.9])
    assert [one.contexts[0].response_ids for one in best_only([ranking])] == [[[3]]]


def test_changes_are_those_of_summed_log_probabilities(start: Start[CopyingWorld]) -> None:
    other = start.world.untrained_model()
    changes = pair_changes(start, other, "")
    before, after = start.reference[""], reference_logps(other, start.panels[""])
    chosen = [len(one.contexts[0].response_ids[0]) for one in start.panels[""]]
    moved = [
        float(new[:count].sum() - old[:count].sum())
        for old, new, count in zip(before, after, chosen, strict=True)
    ]
    assert changes["chosen, change"] == pytest.approx(sum(moved) / len(moved), rel=1e-4)
    unchanged = pair_changes(start, start.base, "")
    assert unchanged == {"chosen, change": 0.0, "rejected, change": 0.0}


def test_an_arm_may_measure_something_else(start: Start[CopyingWorld]) -> None:
    arm = training_arm("dpo", None, "", steps=1, measure=lambda material, policy: {"n": len(material.panels)})
    assert arm(start) == {"n": 1}
