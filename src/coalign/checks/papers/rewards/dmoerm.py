"""Check of `dmoerm`: experts of single capabilities behind a router, against one reward model and an ensemble of three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import best_of, decide, gaps_between, mean_of, most_seeds
from coalign.checks.worlds.classifiers.capabilities import (
    POINTS,
    TASKS,
    CapabilityWorld,
    Pairs,
    Rewards,
    combined,
    expert,
    rewards_of,
    single,
)
from coalign.core.runs import Run
from coalign.core.verdict import Verdict

HUMAN, TEST, PROMPTS, CANDIDATES = 2000, 1000, 20, 256
EPOCHS, EXPERT_EPOCHS, AGGREGATOR_EPOCHS = 8, 3, 4
FIRST_WORLD = 1


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Experts of single capabilities, combined behind a router, agree with the truth more often than one reward model or an
    ensemble, when the overall labels are noisy.

    Rule:
        Seen: the consistency of DMoERM on the clean test pairs is above that of the better baseline of the seed (one
        reward model, mean of three) by 0.02 or more in the mean, and above it in at least 4 of 5 seeds. Not seen:
        otherwise. The ablations and the gold quality of the best of 256 are reported beside the rule.

    Setting:
        Three tasks over sequences of 16 tokens of 24, the task's marker first; overall quality is the sum of three
        capability scores, linear in token counts; qualities of two tasks have correlation -0.5. 2000 pairs a task with
        30 % flipped labels; 2000 a capability with 10 % flipped; 1000 clean test pairs a task. Transformers of 2 layers
        and width 64; bases 8 epochs on 60 % of a task's pairs, experts (rank 4 on q and v, with a head) 3 epochs, the
        aggregator 4 epochs on the other 40 %; single models 8 epochs on all pairs, the number that is best for them (of 4 to 32, in the worlds 100 and 101;
        after it they learn the noise); batches of 128, Adam 1e-3 (adapters 3e-3), falling. The marker tells the task, so the router is right. Best of 256 for 20 prompts a task: gold
        quality in standard deviations of a task's responses. Seed n is world n + 1: world 0 was looked at before the epochs
        were chosen.
    """
    arms = {
        "one reward model": lambda one: one.measured([one.singles[0]] * TASKS),
        "ensemble of three": lambda one: one.measured([one.ensemble] * TASKS),
        "DMoERM": lambda one: one.measured(one.mixtures),
        "DMoERM, no phase 2": lambda one: one.measured(one.without_experts),
        "DMoERM, no routing": lambda one: one.measured([one.unrouted] * TASKS),
    }
    rows = measure_arms(run, seeds=seeds, prepare=lambda seed: Material(seed + FIRST_WORLD), arms=arms)
    baselines = [rows.values("consistency", name) for name in ("one reward model", "ensemble of three")]
    ours = rows.values("consistency", "DMoERM")
    gaps = gaps_between(ours, best_of(baselines))
    above = {seed: gap > 0 for seed, gap in gaps.items()}
    return rows.verdict(
        check,
        outcome=decide(seen=mean_of(gaps) >= 0.02 and most_seeds(above)),
        summary={
            "consistency, DMoERM - better baseline": mean_of(gaps),
            "seeds above it": sum(above.values()),
            **{
                f"consistency, DMoERM - {name}": rows.gap("consistency", "DMoERM", f"DMoERM, {name}")
                for name in ("no phase 2", "no routing")
            },
            "gold of the best of 256, DMoERM - ensemble": rows.gap(
                "gold, best of 256", "DMoERM", "ensemble of three"
            ),
        },
    )


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share; models are trained when an arm first asks for them."""

    seed: int

    @cached_property
    def world(self) -> CapabilityWorld:
        return CapabilityWorld(self.seed)

    @cached_property
    def human(self) -> list[Pairs]:
        """By task the pairs with overall labels."""
        return [self.world.pairs(task, HUMAN, 0.3, "human") for task in range(TASKS)]

    @cached_property
    def capable(self) -> list[list[Pairs]]:
        """By task and capability the pairs with labels of the capability."""
        return [
            [self.world.pairs(task, HUMAN, 0.1, "capability", point) for point in range(POINTS)]
            for task in range(TASKS)
        ]

    @cached_property
    def singles(self) -> list[Rewards]:
        pooled = Pairs(torch.cat([one.ids for one in self.human]))
        return [_frozen(single(pooled, epochs=EPOCHS, seed=10 * self.seed + number)) for number in range(3)]

    @cached_property
    def ensemble(self) -> Rewards:
        models = self.singles
        return lambda ids: torch.stack([one(ids) for one in models]).mean(0)

    @cached_property
    def bases(self) -> list[Any]:
        return [single(one.part(0, 0.6), epochs=EPOCHS, seed=self.seed) for one in self.human]

    @cached_property
    def mixtures(self) -> list[Rewards]:
        return [
            self._aggregated(
                task,
                [
                    expert(self.bases[task], one, epochs=EXPERT_EPOCHS, seed=self.seed)
                    for one in self.capable[task]
                ],
            )
            for task in range(TASKS)
        ]

    @cached_property
    def without_experts(self) -> list[Rewards]:
        return [self._aggregated(task, [self.bases[task]]) for task in range(TASKS)]

    @cached_property
    def unrouted(self) -> Rewards:
        """One base on the pairs of all tasks, under it the experts of all capabilities and one aggregator."""
        first = Pairs(torch.cat([one.part(0, 0.6).ids for one in self.human]))
        second = Pairs(torch.cat([one.part(0.6, 1).ids for one in self.human]))
        base = single(first, epochs=EPOCHS, seed=self.seed)
        experts = [
            expert(base, one, epochs=EXPERT_EPOCHS, seed=self.seed) for each in self.capable for one in each
        ]
        return combined(experts, second, epochs=AGGREGATOR_EPOCHS, seed=self.seed)

    def _aggregated(self, task: int, experts: Sequence[Any]) -> Rewards:
        return combined(experts, self.human[task].part(0.6, 1), epochs=AGGREGATOR_EPOCHS, seed=self.seed)

    @torch.no_grad()
    def measured(self, rewards: Sequence[Rewards]) -> Measures:
        """Consistency on clean pairs and gold quality of the best of n, means over the tasks; `rewards` by task."""
        hits, gold = [], []
        for task, reward in enumerate(rewards):
            test = self.world.pairs(task, TEST, 0.0, "test")
            found = reward(test.ids.flatten(0, 1)).view(-1, 2)
            hits.append((found[:, 0] > found[:, 1]).float().mean())
            drawn = self.world.responses(task, PROMPTS * CANDIDATES, "best of n")
            truth = self.world.quality(drawn, task)
            best = reward(drawn).view(PROMPTS, CANDIDATES).argmax(1, keepdim=True)
            scaled = ((truth - truth.mean()) / truth.std()).view(PROMPTS, CANDIDATES)
            gold.append(scaled.gather(1, best).mean())
        return {
            "consistency": float(torch.stack(hits).mean()),
            "gold, best of 256": float(torch.stack(gold).mean()),
        }


def _frozen(model: Any) -> Rewards:
    return lambda ids: rewards_of(model, ids)
