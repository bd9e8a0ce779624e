"""Check of `awp`: delay and errors of an online recogniser, in the world of token streams."""

from __future__ import annotations

import torch
from torch import Tensor

from coalign.checks.arms import measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.speech.token_streams import BLANK, Term, start, trained_on
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.speech.awp import AlignWithPurpose, Constants
from coalign.speech.ctc.vocabulary import Vocabulary

DECISIVE, STRONGER = 0.1, 0.3
"""Weights of the term: the first decides, the second is reported."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Low latency lowers the delay of an online recogniser of token streams at little cost in errors.

    Rule:
        Seen: the delay under weight 0.1 is lower by 0.3 frames or more in every seed, and the mean token error rate
        rises by at most 1.0 point. Not seen: a seed with a gain below 0.15 frames, or 2.0 points or more. Mixed:
        between.

    Setting:
        Token streams: 12 prototypes in 16 dimensions held for 6 to 9 frames, gaps of 0 to 3, noise 1.6, 90 frames; a
        GRU of 2 layers and width 64 that sees no future. 700 steps of CTC (1500 streams, batches of 32, Adam 3e-3),
        then 300 more (1e-3) with and without the term: 5 samples, margin 0.01. 300 test streams.
    """
    ours, stronger = (f"CTC + {weight:g} AWP" for weight in (DECISIVE, STRONGER))
    arms = {
        "CTC": trained_on,
        ours: lambda material: trained_on(material, _stream_term(DECISIVE)),
        stronger: lambda material: trained_on(material, _stream_term(STRONGER)),
    }
    rows = measure_arms(run, seeds=seeds, prepare=start, arms=arms)
    gains = {seed: -gap for seed, gap in rows.gaps("delay", ours, "CTC").items()}
    errors = rows.gap("token error rate", ours, "CTC")
    least = min(gains.values())
    return rows.verdict(
        check,
        outcome=decide(seen=least >= 0.3 and errors <= 0.01, not_seen=least < 0.15 or errors >= 0.02),
        summary={
            "smallest gain in frames": least,
            "mean gain in frames": mean_of(gains),
            "token error rate, AWP - CTC": errors,
            "mean gain in frames, weight 0.3": -rows.gap("delay", stronger, "CTC"),
            "token error rate, weight 0.3, AWP - CTC": rows.gap("token error rate", stronger, "CTC"),
        },
    )


def _stream_term(weight: float) -> Term:
    vocabulary = Vocabulary([str(label) for label in range(13)], BLANK)
    term = AlignWithPurpose("low-latency", Constants(weight=weight), vocabulary)

    def apply(logits: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        term.generator = generator
        return term(logits, lengths)

    return apply
