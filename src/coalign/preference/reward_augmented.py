"""Reward-augmented data: tell the model which score its reply should reach, and train DPO as ever.

Reward-Augmented Data Enhances Direct Preference Alignment of LLMs (arXiv 2410.08067). Every pair with scores gives
two: under the goal of the better score the better response is preferred, under the goal of the worse score the other
one. The model learns the whole scale instead of unlearning good responses that happened to lose; at inference one
asks for the highest score.

    coalign run reward-augmented --data scored_pairs.jsonl --model default

The loss is DPO with label smoothing (`cdpo`) on the conditioned prompts; the reference sees the same prompts.

Differences from the official code. Its script for templates without a system role does not swap the responses of the
second row, so that row contradicts its goal; here both placements follow the paper's rule. Pairs of equal scores or
equal responses are left out and counted (the code keeps them). The goal text has our own wording. Held-out pairs are
relabelled too, so that accuracies are measured under goals. Not offered: goals from implicit rewards, goals of
several attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.options import Fraction, Positive, option
from coalign.preference.pairwise import CDPOConstants

OBJECTIVE = "cdpo"
"""The objective that is trained on the relabelled pairs."""


@dataclass(kw_only=True)
class RewardAugmentedConstants(CDPOConstants):
    """DPO's constants in the official recipes."""

    beta: Positive = option(0.01, "inverse temperature of the implicit reward", source="official recipes")
    label_smoothing: Fraction = option(
        0.0,
        "assumed share of swapped labels, below 0.5; the recipes for Qwen2 and Gemma-2 take 0.3",
        source="official recipes (Mistral)",
    )
