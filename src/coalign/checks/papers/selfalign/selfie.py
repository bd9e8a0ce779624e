"""Check of `selfie`: a few noisy pairs, spread over bare prompts, in the world of classes and replies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.steps import example, frozen_logps, reference_logps, trained
from coalign.checks.tiny_models import TinyGRU, stream
from coalign.checks.worlds.replies.replies import Replies, ReplyWorld
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.loops.scoring import best_and_worst
from coalign.measures.statistics import sign_test
from coalign.models.types import Responses
from coalign.training.batches import Example
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.losses.self_refinement import Constants
from coalign.training.objective import get_objective

ROUNDS = (0.5, 0.25)
"""Strength of the extrapolation in each round."""
STEPS = 50
BATCH = 8


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Self-labelled pairs from 24 noisy seed pairs make the replies better than the seed pairs alone.

    SPA is compared with the model that the seed pairs gave, with SPA without label smoothing, and with training on the
    seed pairs for as many steps; the last two are reported and have no part in the rule. So it shows that the labels
    spread, and not that spreading them is better than reading the seed pairs more often.

    Rule:
        Seen: in at least 4 of 5 seeds the quality of SPA's replies is above that of the seed model's by 0.05 or more,
        and in both rounds more of its own labels are right than wrong (sign test, p below 0.01). Otherwise not seen.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 24 symbols, replies of 8, 6 good symbols shared by
        the classes; quality is the share of good symbols. 24 seed pairs of the base model, 20 % of them labelled the
        wrong way; DPO for 2 epochs in batches of 8, Adam 3e-4, beta 0.1. Two rounds of 400 fresh prompts, 2 samples at
        temperature 0.7, one epoch in batches of 8, Adam 2e-4, alpha 0.1, K 10 %, lambda 0.5 and 0.25. 300 prompts, 4
        samples each at temperature 1.
    """
    arms = {
        "base": lambda material: _measured(material, material.base),
        "seed pairs": lambda material: _measured(material, material.seeded),
        "SPA": partial(_spread, label_smoothing=0.1),
        "SPA without smoothing": partial(_spread, label_smoothing=0.0),
        "seed pairs, as many steps": lambda material: _measured(
            material, _on_seed_pairs(material, len(ROUNDS) * STEPS)
        ),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_material, arms=arms)
    over_seed = rows.gaps("quality", "SPA", "seed pairs")
    sure = [rows.values(f"labels above chance, round {one}", "SPA") for one in (1, 2)]
    hits = {seed: over_seed[seed] >= 0.05 and all(one[seed] for one in sure) for seed in over_seed}
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(hits)),
        summary={
            "seeds that hit": sum(hits.values()),
            "quality, SPA - seed pairs": mean_of(over_seed),
            "quality, SPA - SPA without smoothing": rows.gap("quality", "SPA", "SPA without smoothing"),
            "quality, SPA - seed pairs for as many steps": rows.gap(
                "quality", "SPA", "seed pairs, as many steps"
            ),
            "right labels, round 1": rows.mean("right labels, round 1", "SPA"),
            "right labels, round 2": rows.mean("right labels, round 2", "SPA"),
        },
    )


@dataclass(frozen=True)
class _Material:
    """What the arms of a seed share: world, base model, seed pairs, and the model that these gave."""

    world: ReplyWorld
    base: TinyGRU
    pairs: list[Example]
    seeded: nn.Module


def _material(seed: int) -> _Material:
    world = ReplyWorld(seed, content=24, temperature=0.7, shared=True)
    base = world.base_model()
    bare = _Material(world, base, _seed_pairs(world, base), base)
    return _Material(world, base, bare.pairs, _on_seed_pairs(bare, 0))


def _seed_pairs(world: ReplyWorld, base: nn.Module, n: int = 24, wrong: float = 0.2) -> list[Example]:
    """Pairs of samples of different quality, the better one chosen but for the share of wrong labels."""
    prompts = world.prompts(4 * n, "seed")
    replies = world.replies(base, prompts, 2, "seed")
    quality = world.good_shares(prompts, replies).tolist()
    told = [one for one in zip(prompts, replies, quality, strict=True) if one[2][0] != one[2][1]][:n]
    turned = set(_permutation(world, n)[: round(wrong * n)])
    pairs = []
    for place, (prompt, (first, second), (one, other)) in enumerate(told):
        better = (one > other) != (place in turned)
        pairs.append(example(prompt, [first, second] if better else [second, first], [1.0, 0.0]))
    return pairs


def _permutation(world: ReplyWorld, n: int) -> list[int]:
    return torch.randperm(n, generator=stream(world.seed, "seed/wrong")).tolist()


def _on_seed_pairs(material: _Material, more: int) -> nn.Module:
    """DPO from the base model on the seed pairs, for two epochs and so many steps more."""
    return trained(
        material.base,
        material.pairs,
        get_objective("dpo"),
        DPOConstants(beta=0.1),
        steps=2 * len(material.pairs) // BATCH + more,
        batch_size=BATCH,
        learning_rate=3e-4,
        generator=stream(material.world.seed, "seed/order"),
        reference=reference_logps(material.base, material.pairs),
    )


def _spread(material: _Material, *, label_smoothing: float) -> Measures:
    """The rounds of SPA from the seed model, with what its own labels are worth in each."""
    world, model = material.world, material.seeded
    measures: Measures = {}
    for number, strength in enumerate(ROUNDS, start=1):
        prompts = world.prompts(STEPS * BATCH, f"round {number}")
        replies = world.replies(model, prompts, 2, f"round {number}")
        rewards = _implicit_rewards(model, material.base, prompts, replies)
        labels = [best_and_worst(row) or (0, 0) for row in rewards.tolist()]
        quality = world.good_shares(prompts, replies).tolist()
        gaps = [row[best] - row[worst] for row, (best, worst) in zip(quality, labels, strict=True)]
        right, wrong = sum(one > 0 for one in gaps), sum(one < 0 for one in gaps)
        measures[f"right labels, round {number}"] = right / (right + wrong)
        measures[f"labels above chance, round {number}"] = float(
            right > wrong and sign_test(right, wrong) < 0.01
        )
        pairs = [
            example(prompt, [row[best], row[worst]], [1.0, 0.0])
            for prompt, row, (best, worst) in zip(prompts, replies, labels, strict=True)
            if row[0] != row[1]
        ]
        model = trained(
            model,
            pairs,
            get_objective("self_refinement"),
            Constants(label_smoothing=label_smoothing, extrapolation=strength),
            steps=len(pairs) // BATCH,
            batch_size=BATCH,
            learning_rate=2e-4,
            generator=stream(world.seed, f"round {number}/order"),
            reference=reference_logps(model, pairs),
        )
    return {**_measured(material, model), **measures}


def _implicit_rewards(
    model: nn.Module, base: nn.Module, prompts: list[list[int]], replies: Replies
) -> Tensor:
    """[P, n] log-probability of each reply under the model less that under the base model."""
    flat = Responses(
        prompts,
        [reply for row in replies for reply in row],
        [place for place, row in enumerate(replies) for _ in row],
    )
    return (frozen_logps(model, flat).sums() - frozen_logps(base, flat).sums()).view(len(prompts), -1)


def _measured(material: _Material, model: nn.Module) -> Measures:
    """Mean quality of samples to fresh prompts, at temperature 1."""
    world = replace(material.world, temperature=1.0)
    prompts = world.prompts(300, "evaluation")
    return {
        "quality": float(world.good_shares(prompts, world.replies(model, prompts, 4, "evaluation")).mean())
    }
