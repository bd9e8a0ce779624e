"""Check of `reward-transform`: two rewards that disagree, summed as they are and as log-probabilities of being good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from coalign.checks.arms import Measures, keep_items, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.worlds.rewarded.curves import at_divergences, exact_policies, trained_curve
from coalign.checks.worlds.rewarded.tokens import TokenWorld, token_world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.measures.reward_transforms import joint_log_sigmoid, reference_quantile

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.checks.tiny_models import TinyGRU

GRID = (1.0, 2.0, 4.0)
STRENGTHS = {"raw sum": (12.0, 6.0, 3.0, 1.5), "log-sigmoid sum": (5.0, 2.5, 1.2, 0.6, 0.3)}
STEPS = 250


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        references: [K, P] the reference value of each reward and prompt.
    """

    run: Run
    world: TokenWorld
    references: Tensor

    def utility(self, arm: str) -> Callable[[Tensor], Tensor]:
        def of(tokens: Tensor) -> Tensor:
            rewards = self.world.rewards(tokens)
            if arm == "raw sum":
                return rewards.sum(0)
            references = self.references[..., None].expand_as(rewards)
            found = joint_log_sigmoid(*(one.movedim(0, -1).double().numpy() for one in (rewards, references)))
            return torch.from_numpy(found).float()

        return of

    def good(self, tokens: Tensor) -> Tensor:
        """[P, n] whether both rewards are above their references."""
        return (self.world.rewards(tokens) > self.references[..., None]).all(0)


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """At equal KL divergence the sum of log-sigmoid rewards makes more responses good in both respects than the sum of the
    rewards as they are, in a world of tokens.

    Rule:
        Seen: the share of samples with both rewards above their references, log-sigmoid sum minus raw sum, averaged over KL
        1, 2 and 4, is above 0.03 in the mean over seeds and above 0 in at least 4 of 5. Not seen: otherwise. The exact
        policies have no part in it.

    Setting:
        Ten of twelve tokens to 16 prompts; a random recurrent network of 16,044 weights as base; two rewards linear in token
        counts, differently for every prompt, correlation -0.5, the first with 2.5 times the spread of the second; references:
        Gaussian 85 % quantile of 64 base samples. RLOO with 8 samples a prompt, 250 steps, Adam 3e-3; KL strengths 12, 6, 3,
        1.5 (raw) and 5, 2.5, 1.2, 0.6, 0.3 (log-sigmoid); 128 fresh samples a prompt; linear between the strengths. Exact
        policies: tilts of 256 base samples a prompt at KL 1 and 2.
    """
    arms = {name: lambda material, name=name: _arm(material, name) for name in STRENGTHS}
    rows = measure_arms(run, seeds=seeds, prepare=lambda seed: _prepare(run, seed), arms=arms)
    treated, plain = "log-sigmoid sum", "raw sum"
    gaps = rows.gaps("both good", treated, plain)
    return rows.verdict(
        check,
        outcome=decide(
            seen=mean_of(gaps) > 0.03 and most_seeds({seed: gap > 0 for seed, gap in gaps.items()})
        ),
        summary={
            "both good over the KL grid, log-sigmoid - raw": mean_of(gaps),
            "seeds in which it is above": sum(gap > 0 for gap in gaps.values()),
            **{
                f"{name}, KL {kl:g}, log-sigmoid - raw": rows.gap(f"{name}, KL {kl:g}", treated, plain)
                for name in ("both good", "prompts mostly good")
                for kl in GRID
            },
            **{
                f"exact policies, both good, KL {kl}, log-sigmoid - raw": rows.gap(
                    f"both good, exact, KL {kl}", treated, plain
                )
                for kl in (1, 2)
            },
        },
    )


def _prepare(run: Run, seed: int) -> Material:
    world = token_world(seed, spreads=(2.5, 1.0), correlation=-0.5)
    samples = world.rewards(world.sample(world.base, 64, "references").tokens)
    return Material(run, world, torch.from_numpy(reference_quantile(samples.numpy(), 0.85)).float())


def _arm(material: Material, name: str) -> Measures:
    world, utility = material.world, material.utility(name)

    def measure(policy: TinyGRU) -> dict[str, float]:
        good = material.good(world.sample(policy, 128, "measure").tokens).double()
        return {
            "both good": float(good.mean()),
            "prompts mostly good": float((good.mean(1) > 0.5).double().mean()),
        }

    start = measure(world.base)
    points = trained_curve(world, utility, STRENGTHS[name], measure, steps=STEPS)
    keep_items(material.run, name, world.seed, points=points)
    found = {key: at_divergences(points, key, GRID, start[key]) for key in start}
    measures = {
        f"{key}, KL {kl:g}": float(value)
        for key, values in found.items()
        for kl, value in zip(GRID, values, strict=True)
    }
    tokens = world.sample(world.base, 256, "exact").tokens
    good = material.good(tokens).double().numpy()
    for kl in (1, 2):
        policies = exact_policies(utility(tokens).double().numpy(), kl)
        measures[f"both good, exact, KL {kl}"] = float((policies * good).sum(1).mean())
    return {"both good": float(np.mean(found["both good"])), **measures}
