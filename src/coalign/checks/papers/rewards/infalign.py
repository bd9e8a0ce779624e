"""Check of `infalign`: rewards that are calibrated and transformed for best-of-4 and worst-of-4."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from coalign.checks.arms import Measures, keep_items, measure_arms
from coalign.checks.rules import best_of, decide, gaps_between, mean_of, most_seeds
from coalign.checks.worlds.rewarded.curves import at_divergences, exact_policies, strength_for, trained_curve
from coalign.checks.worlds.rewarded.tokens import PROMPTS, TokenWorld, token_world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.measures.reward_transforms import calibrated, exponential
from coalign.measures.win_rates import sampled_win_rates, win_rates

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from coalign.checks.tiny_models import TinyGRU

Array: TypeAlias = "NDArray[np.float64]"
N = 4
GRID = (0.4, 0.8)
TARGETS = (0.2, 0.45, 0.8, 1.3)
"""KL divergences of the exact optimum at the strengths that are trained."""
STEPS, FURTHER, SAMPLES = 300, 120, 16
TRANSFORMS: dict[str, float | None] = {
    "raw": None,
    "calibrated": 0.0,
    "exp(5 C)": 5.0,
    "exp(10 C)": 10.0,
    "-exp(-5 C)": -5.0,
    "-exp(-10 C)": -10.0,
}
TREATED = {"best of 4": ("exp(5 C)", "exp(10 C)"), "worst of 4": ("-exp(-5 C)", "-exp(-10 C)")}
PLAIN = ("raw", "calibrated")
EXACT_KL = 0.44


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        base_rewards: [P, K] of the samples that calibrate.
        compared: [P, S] of the base samples that win rates are measured against.
    """

    run: Run
    world: TokenWorld
    base_rewards: Array
    compared: Array

    def transformed(self, rewards: Array, t: float | None) -> Array:
        """[P, n] rewards to what is learnt from; None leaves them as they are."""
        if t is None:
            return rewards
        return exponential(calibrated(rewards, self.base_rewards[:, None, :]), t, normalise=True)

    def utility(self, t: float | None) -> Callable[[Tensor], Tensor]:
        return lambda tokens: torch.from_numpy(self.transformed(self._rewards(tokens), t)).float()

    def _rewards(self, tokens: Tensor) -> Array:
        return self.world.rewards(tokens)[0].double().numpy()

    def rates(self, policy: TinyGRU) -> dict[str, float]:
        """Win rates over the base, mean over prompts."""
        mine = self._rewards(self.world.sample(policy, 1024, "measure").tokens)
        found = [sampled_win_rates(*pair, N) for pair in zip(mine, self.compared, strict=True)]
        return dict(
            zip(("one sample", "best of 4", "worst of 4"), np.mean(found, axis=0).tolist(), strict=True)
        )


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Under best-of-4 and worst-of-4 the exponential transform of the calibrated reward, of the sign that fits, wins more
    at equal KL divergence than calibrated and raw rewards, in a world of tokens.

    Rule:
        Seen: for best-of-4 and for worst-of-4 alike, the win rate over the base averaged over KL 0.4 and 0.8, better
        exponential of the fitting sign minus better of raw and calibrated reward, is above 0.02 in the mean over seeds
        and above 0 in at least 4 of 5. Not seen: otherwise. Exact policies and single samples have no part in it.

    Setting:
        Ten of twelve tokens to 16 prompts; a random recurrent network of 16,044 weights as base; a reward linear in tokens,
        differently for every prompt, in which earlier places count more; 128 base samples calibrate. RLOO with 16 samples a
        prompt, Adam 3e-3, at four KL strengths an arm, those whose exact optimum over the base samples lies at KL 0.2, 0.45, 0.8
        and 1.3: 300 steps at the first, 120 more at each of the others; 1,024 samples a prompt of policy and base, all groups of
        4; linear between the strengths. Exact policies: tilts of 1,024 base samples a prompt at KL 0.44.
    """
    arms = {name: lambda material, name=name: _arm(material, name) for name in TRANSFORMS}
    rows = measure_arms(run, seeds=seeds, prepare=lambda seed: _prepare(run, seed), arms=arms)
    gaps = {decoded: _gaps(rows.values, decoded) for decoded in TREATED}
    seen = {
        decoded: mean_of(gap) > 0.02 and most_seeds({seed: one > 0 for seed, one in gap.items()})
        for decoded, gap in gaps.items()
    }
    summary: dict[str, float] = {}
    for decoded, gap in gaps.items():
        summary[f"{decoded}, fitting exponential - better of raw and calibrated"] = mean_of(gap)
        summary[f"{decoded}, seeds in which it is above"] = sum(one > 0 for one in gap.values())
    cost = rows.gap("one sample", "exp(10 C)", "calibrated")
    summary["one sample, exp(10 C) - calibrated"] = cost
    for name in TRANSFORMS:
        for decoded in TREATED:
            summary[f"exact policies at KL {EXACT_KL}, {decoded}, {name}"] = rows.mean(
                f"{decoded}, exact", name
            )
    return rows.verdict(check, outcome=decide(seen=all(seen.values())), summary=summary)


def _gaps(values: Callable[[str, str], Mapping[int, float]], decoded: str) -> dict[int, float]:
    """Seed to the better exponential of the fitting sign minus the better of the others."""
    treated, plain = (
        best_of([values(decoded, name) for name in names]) for names in (TREATED[decoded], PLAIN)
    )
    return gaps_between(treated, plain)


def _prepare(run: Run, seed: int) -> Material:
    world = token_world(seed, falling=True)
    base, compared = (
        world.rewards(world.sample(world.base, n, purpose).tokens)[0].double().numpy()
        for n, purpose in ((128, "calibration"), (1024, "base"))
    )
    return Material(run, world, base, compared)


def _arm(material: Material, name: str) -> Measures:
    world, t = material.world, TRANSFORMS[name]
    known = material.transformed(material.compared, t)
    strengths = [strength_for(known, kl) for kl in TARGETS]
    points = trained_curve(
        world,
        material.utility(t),
        strengths,
        material.rates,
        steps=STEPS,
        further=FURTHER,
        n=SAMPLES,
        samples=1024,
    )
    keep_items(material.run, name, world.seed, strengths=strengths, points=points)
    measures: Measures = {}
    for key in ("one sample", *TREATED):
        found = at_divergences(points, key, GRID, 0.5)
        measures[key] = float(found.mean())
        measures |= {f"{key}, KL {kl:g}": float(one) for kl, one in zip(GRID, found, strict=True)}
    uniform = np.full(material.compared.shape[1], 1 / material.compared.shape[1])
    policies = exact_policies(known, EXACT_KL)
    exact = [win_rates(policies[place], uniform, material.compared[place], N) for place in range(PROMPTS)]
    measures["best of 4, exact"] = float(np.mean([one.best_of_n for one in exact]))
    measures["worst of 4, exact"] = float(np.mean([one.worst_of_n for one in exact]))
    return measures
