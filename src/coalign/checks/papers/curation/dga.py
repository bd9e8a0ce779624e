"""Check of `dga`: domain weights by gradient alignment against fixed mixtures, over Markov domains of few tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words.markov import (
    DOMAINS,
    WANTED,
    MarkovDomains,
    bigram_model,
    pair_gradient,
    pair_loss,
)
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.dga import updated_weights
from coalign.curation.mixing.task import inner_product

STEPS, BATCH, LEARNING_RATE = 1500, 64, 3e-3
EVERY, TARGET_BATCH, DOMAIN_BATCH = 10, 128, 64
MEASURED = 50
"""Steps between two looks at the test loss."""
UNIFORM = np.full(DOMAINS, 1 / DOMAINS)
TRUE_SHARES = np.array([*WANTED, *[0.0] * (DOMAINS - len(WANTED))])
PLENTY = ", 2000 tokens a domain"


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share: the domains with few tokens and with many."""

    seed: int

    @cached_property
    def few(self) -> MarkovDomains:
        return MarkovDomains(self.seed)

    @cached_property
    def many(self) -> MarkovDomains:
        return MarkovDomains(self.seed, tokens=2000)


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Weights by gradient alignment end below a uniform mixture and below importance sampling when each domain has few tokens.

    Rule:
        Seen: the last test loss with moving average is below that of the uniform mixture and of importance sampling in every
        seed, in the mean by 0.05 and 0.10 or more, and its lowest test loss of the run is below theirs in the mean. Not seen:
        in the mean its last loss is above that of the uniform mixture less 0.02. Mixed: between. The same with ten times the
        tokens, where importance sampling knows the mixture, is reported beside the rule.

    Setting:
        Eight Markov domains over 24 tokens, 35 % of each transition matrix common to all; 200 tokens a domain; the specific
        distribution is the first three in shares 0.6, 0.3, 0.1: 300 tokens for gradients, 6000 fresh ones to test.
        Embedding 32, a tanh layer of 64; 1500 steps of 64 pairs, Adam 3e-3; importance sampling has the true shares.
        Weights anew every 10 steps from 128 specific pairs and 64 of each domain: step size 3 with a moving average of 0.1,
        step size 1 without.
    """
    arms: dict[str, Arm[Material]] = {
        "uniform": lambda one: _trained(one.few, UNIFORM),
        "importance sampling": lambda one: _trained(one.few, TRUE_SHARES),
        "DGA": lambda one: _trained(one.few, UNIFORM, step_size=1.0),
        "DGA, moving average": lambda one: _trained(one.few, UNIFORM, step_size=3.0, average=0.1),
        f"importance sampling{PLENTY}": lambda one: _trained(one.many, TRUE_SHARES),
        f"DGA{PLENTY}": lambda one: _trained(one.many, UNIFORM, step_size=1.0),
    }
    rows = measure_arms(run, seeds=seeds, prepare=Material, arms=arms)
    ours = "DGA, moving average"
    over_uniform, over_importance = (
        rows.gaps("last loss", other, ours) for other in ("uniform", "importance sampling")
    )
    best = [rows.gap("lowest loss", other, ours) for other in ("uniform", "importance sampling")]
    always = all(gap > 0 for gaps in (over_uniform, over_importance) for gap in gaps.values())
    wide = mean_of(over_uniform) >= 0.05 and mean_of(over_importance) >= 0.10
    return rows.verdict(
        check,
        outcome=decide(
            seen=always and wide and min(best) > 0,
            not_seen=mean_of(over_uniform) < 0.02,
        ),
        summary={
            "last loss, uniform - DGA": mean_of(over_uniform),
            "last loss, importance sampling - DGA": mean_of(over_importance),
            "lowest loss, uniform - DGA": best[0],
            "lowest loss, importance sampling - DGA": best[1],
            "lowest loss, importance sampling - DGA, ten times the tokens": rows.gap(
                "lowest loss", f"importance sampling{PLENTY}", f"DGA{PLENTY}"
            ),
        },
    )


def _trained(
    world: MarkovDomains, weights: np.ndarray, step_size: float | None = None, average: float = 1.0
) -> Measures:
    """Train on a mixture; with a step size its weights follow the alignments."""
    model = bigram_model(world.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    rows, gradients = stream(world.seed, "rows"), stream(world.seed, "gradients")

    def drawn(pairs: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
        return pairs[torch.randint(len(pairs), (count,), generator=draw)]

    losses = []
    for step in range(1, STEPS + 1):
        owners = torch.multinomial(torch.tensor(weights), BATCH, replacement=True, generator=rows)
        counts = torch.bincount(owners, minlength=DOMAINS).tolist()
        batch = [drawn(one, count, rows) for one, count in zip(world.domains, counts, strict=True)]
        optimizer.zero_grad()
        pair_loss(model, torch.cat(batch)).backward()
        optimizer.step()
        if step_size is not None and step % EVERY == 0:
            target = pair_gradient(model, drawn(world.wanted, TARGET_BATCH, gradients))
            alignments = [
                inner_product(pair_gradient(model, drawn(one, DOMAIN_BATCH, gradients)), target)
                for one in world.domains
            ]
            _, weights = updated_weights(weights, alignments, step_size, average)
        if step % MEASURED == 0:
            with torch.no_grad():
                losses.append(float(pair_loss(model, world.tested)))
    return {
        "last loss": losses[-1],
        "lowest loss": min(losses),
        "weight of the wanted domains": float(np.asarray(weights)[: len(WANTED)].sum()),
    }
