"""Desk-scale check of `awp`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, paired_gaps
from coalign.checks.worlds.token_streams import (
    BLANK,
    StreamStart,
    Term,
    measure_streams,
    start,
    train_streams,
)
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.speech.awp import AlignWithPurpose, Constants
from coalign.speech.ctc.vocabulary import Vocabulary

CHECK_STEPS = 300


CHECK_WEIGHTS = (0.1, 0.3)
"""The first decides, the others are reported."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Low latency lowers the delay of an online recogniser of token streams at little cost in errors."""

    def arm(weight: float | None) -> Callable[[StreamStart], Measures]:
        def measure(material: StreamStart) -> Measures:
            model = train_streams(
                material.base,
                material.train,
                material.world.seed,
                "arms",
                steps=CHECK_STEPS,
                learning_rate=1e-3,
                term=None if weight is None else _stream_term(weight),
            )
            return measure_streams(model, material.test)

        return measure

    arms = {"CTC": arm(None), **{f"CTC + {weight:g} AWP": arm(weight) for weight in CHECK_WEIGHTS}}
    ours = f"CTC + {CHECK_WEIGHTS[0]:g} AWP"
    rows = measure_arms(run, seeds=seeds, prepare=start, arms=arms)
    gains = {seed: -gap for seed, gap in paired_gaps(rows, "delay", ours, "CTC").items()}
    errors = mean_of(paired_gaps(rows, "token error rate", ours, "CTC"))
    seen = all(gain >= 0.3 for gain in gains.values()) and errors <= 0.01
    not_seen = any(gain < 0.15 for gain in gains.values()) or errors >= 0.02
    stronger = f"CTC + {CHECK_WEIGHTS[1]:g} AWP"
    return Verdict(
        slug="awp",
        outcome=decide(seen=seen, not_seen=not_seen),
        claim=get("awp").claim,
        rule="Seen: the delay under weight 0.1 is lower by 0.3 frames or more in every seed, and the mean token error "
        "rate rises by at most 1.0 point. Not seen: a seed with a gain below 0.15 frames, or 2.0 points or more. Mixed: "
        "between.",
        setting="Token streams: 12 prototypes in 16 dimensions held for 6 to 9 frames, gaps of 0 to 3, noise 1.6, 90 "
        "frames; a GRU of 2 layers and width 64 that sees no future. 700 steps of CTC (1500 streams, batches of 32, Adam "
        "3e-3), then 300 more (1e-3) with and without the term: 5 samples, margin 0.01. 300 test streams.",
        measures=rows,
        summary={
            "smallest gain in frames": min(gains.values()),
            "mean gain in frames": mean_of(gains),
            "token error rate, AWP - CTC": errors,
            "mean gain in frames, weight 0.3": -mean_of(paired_gaps(rows, "delay", stronger, "CTC")),
            "token error rate, weight 0.3, AWP - CTC": mean_of(
                paired_gaps(rows, "token error rate", stronger, "CTC")
            ),
        },
        seconds=seconds_spent(run),
    )


def _stream_term(weight: float) -> Term:
    vocabulary = Vocabulary([str(label) for label in range(13)], BLANK)
    term = AlignWithPurpose("low-latency", Constants(weight=weight), vocabulary)

    def apply(logits: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        term.generator = generator
        return term(logits, lengths)

    return apply
