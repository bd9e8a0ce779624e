"""BCO: align a chat model with thumbs-up and thumbs-down, without pairs.

Binary Classifier Optimization for Large Language Model Alignment (arXiv 2404.04656). The log-ratio of policy and
reference is the logit of a classifier that tells thumbs-up from thumbs-down; its cross-entropy is an upper bound of
the DPO loss, and a shift of the logits by their running mean tightens the bound.

    coalign run bco --data feedback.jsonl --model default

All records are weighted alike. With `--match-prompts` (the objective `bco_matched`) thumbs-down records are weighted
by the density ratio of their prompts (underlying distribution matching, in version 1 of the paper), for data in which
the two labels come from different mixes of prompts; in the world of the check it lowers quality, so compare both. Pairs are
read as two records each.

Differences from the paper and the official code (TRL). The paper's shift is the midpoint of the two class means, the
code's the mean over all records; they agree where the classes are balanced. The default is the code's, `shift` also
offers the midpoint. The classifier's training records are drawn without replacement. As in the code, the shift moves
with every forward pass: it counts the records of all processes, and with gradient accumulation the later
micro-batches of a step see a slightly later mean than the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.checks.arms import measure_arms, seconds_spent
from coalign.checks.rules import decide, exceeds, mean_of, most_seeds, paired_gaps
from coalign.checks.worlds.preference_world import training_arm, untrained_arm
from coalign.checks.worlds.thumbs_world import even_thumbs, uneven_thumbs
from coalign.core.catalogue import get
from coalign.core.options import Count, Positive, option, options_of
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Feedback
from coalign.preference.data.prompt_matching import with_matched_prompts
from coalign.training.learning import LearningOptions, learn, read_material
from coalign.training.losses.binary import kto as kto  # registers what the check compares with
from coalign.training.losses.density_ratio import PROB_DESIRABLE, density_ratios, fit_classifier
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.losses.reward_shift import RewardShift, Shift, single_rewards
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective


def bco_loss(
    rewards: Tensor, labels: Tensor, delta: Tensor | float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """[R] `-log sig(r - delta)` for desirable records, `-w log sig(-(r - delta))` for undesirable ones.

    The paper's binary cross-entropy with reward shift. Weighted losses are averaged over the number of records, not
    over the sum of the weights. Either class may be absent.

    Args:
        rewards: [R] see `implicit_rewards`.
        labels: [R] true (or 1) for desirable.
        delta: [] the reward shift, a constant.
        weights: [R] weights of undesirable records (`density_ratios`); desirable records always count 1.
    """
    desirable = labels.bool()
    logits = rewards - torch.as_tensor(delta, dtype=rewards.dtype, device=rewards.device).detach()
    losses = F.softplus(torch.where(desirable, -logits, logits))
    return losses if weights is None else torch.where(desirable, losses, weights.detach() * losses)


@dataclass(kw_only=True)
class BCOConstants:
    """Constants of BCO."""

    __group__ = "Objective"

    beta: Positive = option(
        0.1,
        "inverse temperature of the implicit reward; summed over long answers it saturates: the paper's runs took 0.01",
        source="official code",
    )
    shift: Shift = option(
        "pooled",
        "reward shift: pooled: running mean over all records; midpoint: of the two class means; none",
        source="official code; midpoint: paper",
    )


@dataclass(kw_only=True)
class MatchedBCOConstants(BCOConstants):
    """Constants of BCO with underlying distribution matching."""

    __group__ = "Distribution matching"

    min_density_ratio: Positive = option(
        0.5, "smallest weight of an undesirable record", source="official code"
    )
    max_density_ratio: Positive = option(
        10.0, "largest weight of an undesirable record", source="official code"
    )

    def __post_init__(self) -> None:
        if self.min_density_ratio > self.max_density_ratio:
            raise ValueError(
                f"min_density_ratio {self.min_density_ratio} is above max_density_ratio {self.max_density_ratio}"
            )


@objective(
    "bco",
    data="feedback",
    reference=True,
    constants=BCOConstants,
    equation=r"-\log \sigma(r - \delta) \text{ (desirable)}, \quad -\log \sigma(-(r - \delta)) \text{ (undesirable)}, \quad r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}",
    when="Thumbs-up and thumbs-down records without pairs, both labels over the same mix of prompts.",
    state=RewardShift,
)
def bco(batch: ScoredBatch, constants: BCOConstants) -> Losses:
    """BCO (arXiv 2404.04656): binary cross-entropy on shifted implicit rewards."""
    return _losses(batch, constants, None)


@objective(
    "bco_matched",
    data="feedback",
    reference=True,
    constants=MatchedBCOConstants,
    columns=(PROB_DESIRABLE,),
    equation=r"-\log \sigma(r - \delta) \text{ (desirable)}, \quad -w(x) \log \sigma(-(r - \delta)) \text{ (undesirable)}, \quad w(x) = \mathrm{clip}\left(\frac{p(x)}{1 - p(x)}\right)",
    when="Thumbs-up and thumbs-down records whose prompts differ between the labels: `coalign run bco --match-prompts`.",
    state=RewardShift,
)
def bco_matched(batch: ScoredBatch, constants: MatchedBCOConstants) -> Losses:
    """BCO with underlying distribution matching (arXiv 2404.04656, version 1)."""
    weights = density_ratios(
        batch.extras[PROB_DESIRABLE],
        minimum=constants.min_density_ratio,
        maximum=constants.max_density_ratio,
    )
    return _losses(batch, constants, weights)


def _losses(batch: ScoredBatch, constants: BCOConstants, weights: Tensor | None) -> Losses:
    shift: Any = batch.state
    if not isinstance(shift, RewardShift):
        raise ValueError("BCO needs its running reward shift in ScoredBatch.state")
    rewards, labels = single_rewards(batch, constants.beta), batch.values.bool()
    delta = shift.delta(constants.shift)
    losses = bco_loss(rewards, labels, delta, weights)
    seen, logps = rewards.detach(), batch.policy.sums().detach()
    metrics = {
        "rewards/chosen": torch.where(labels, seen, torch.nan),
        "rewards/rejected": torch.where(labels, torch.nan, seen),
        "logps/chosen": torch.where(labels, logps, torch.nan),
        "logps/rejected": torch.where(labels, torch.nan, logps),
        "rewards/accuracies": ((seen > delta) == labels).to(seen.dtype),
        "rewards/shift": torch.full_like(seen, delta),
    }
    if weights is not None:
        metrics["density_ratio"] = torch.where(labels, torch.nan, weights)
    return Losses(losses, metrics)


@dataclass(kw_only=True)
class Config(MatchedBCOConstants, LearningOptions):
    """Options of `coalign run bco`."""

    __group__ = "Distribution matching"

    match_prompts: bool = option(
        False,
        "weight thumbs-down records so that their prompts match those of thumbs-up",
        source="paper, version 1",
    )
    encoder: str = option("default-encoder", "sentence encoder of the prompts: hub id or folder")
    prompt_sample_size: Count = option(
        1024, "records a class on which the prompt classifier is fitted", source="official code"
    )

    def __post_init__(self) -> None:
        MatchedBCOConstants.__post_init__(self)
        LearningOptions.__post_init__(self)
        names = ("encoder", "prompt_sample_size", "min_density_ratio", "max_density_ratio")
        changed = [
            one.name
            for one in options_of(Config)
            if one.name in names and getattr(self, one.name) != one.default
        ]
        if changed and not self.match_prompts:
            raise ValueError(f"{changed[0]} has no effect without match_prompts")


def run(config: Config, run: Run) -> None:
    """Train BCO on thumbs-up and thumbs-down records, with density ratios on request."""
    material = read_material(config, "feedback", run)
    thumbs_up = sum(isinstance(one, Feedback) and one.label for one in material.training)
    material.notes.append(
        f"{thumbs_up} thumbs-up and {len(material.training) - thumbs_up} thumbs-down to train on"
    )
    if config.match_prompts:
        material = with_matched_prompts(
            material,
            encoder=config.encoder,
            device=config.device,
            sample_size=config.prompt_sample_size,
            minimum=config.min_density_ratio,
            maximum=config.max_density_ratio,
            seed=config.seed,
        )
    learn(config, get_objective("bco_matched" if config.match_prompts else "bco"), run, material=material)


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """From thumbs alone BCO learns as much as DPO from the same pairs, more with its reward shift, in a world of copying.

    A second panel, in which thumbs-up and thumbs-down come from different prompts, compares BCO with and without
    distribution matching; it is reported and has no part in the rule.
    """
    plain, unshifted = BCOConstants(), BCOConstants(shift="none")
    on_thumbs = partial(training_arm, batch_size=64)
    main = {
        "SFT": untrained_arm,
        "BCO": on_thumbs(get_objective("bco"), plain, "thumbs"),
        "BCE, no shift": on_thumbs(get_objective("bco"), unshifted, "thumbs"),
        "BCO, midpoint": on_thumbs(get_objective("bco"), BCOConstants(shift="midpoint"), "thumbs"),
        "KTO": on_thumbs(get_objective("kto"), None, "mismatched thumbs"),
        "DPO": training_arm(get_objective("dpo"), DPOConstants(beta=0.1), "pairs"),
    }
    main |= {
        "BCO, 32 thumbs a step": training_arm(get_objective("bco"), plain, "thumbs"),
        "BCE, no shift, 32 thumbs a step": training_arm(get_objective("bco"), unshifted, "thumbs"),
    }
    uneven = {
        "SFT, uneven prompts": untrained_arm,
        "BCO, uneven prompts": on_thumbs(get_objective("bco"), plain, "thumbs", steps=150),
        "BCO matched, uneven prompts": on_thumbs(
            get_objective("bco_matched"), MatchedBCOConstants(), "thumbs", steps=150
        ),
        "BCO, absolute marks": on_thumbs(get_objective("bco"), plain, "marked", steps=150),
        "BCO matched, absolute marks": on_thumbs(
            get_objective("bco_matched"), MatchedBCOConstants(), "marked", steps=150
        ),
    }
    even_start = partial(even_thumbs, compared=get_objective("kto"))
    uneven_start = partial(uneven_thumbs, column=PROB_DESIRABLE, probabilities=prompt_probabilities)
    rows = measure_arms(run, seeds=seeds, prepare=even_start, arms=main)
    uneven_rows = measure_arms(run, seeds=seeds, prepare=uneven_start, arms=uneven)
    gain = paired_gaps(rows, "gold", "BCO", "SFT")
    shift = paired_gaps(rows, "gold", "BCO", "BCE, no shift")
    behind = mean_of(paired_gaps(rows, "gold", "DPO", "BCO"))
    shift_helps = {seed: gap >= 0 for seed, gap in shift.items()}
    matched = paired_gaps(uneven_rows, "gold, class 1", "BCO matched, uneven prompts", "BCO, uneven prompts")
    matching_helps = {seed: gap > 0 for seed, gap in matched.items()}
    return Verdict(
        slug="bco",
        outcome=decide(seen=exceeds(gain) and most_seeds(shift_helps) and behind <= 0.05),
        claim=get("bco").claim,
        rule="Seen: gold of BCO above that of the starting model by more than 2 standard errors of the paired gaps, at "
        "least that of the same loss without reward shift in at least 4 of 5 seeds, and at most 0.05 below DPO's in the "
        "mean. Not seen: otherwise. The panel of uneven prompts has no part in it.",
        setting="Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold "
        "with noise, for thumbs taken apart into 2400 records; 300 steps of 32 pairs or 64 thumbs, Adam 3e-4, beta "
        "0.1. Uneven prompts: two classes, copied by demonstrations at 0.84 and 0.39; 1000 thumbs-up, 800 of them to "
        "the first class, and 1000 thumbs-down, 800 to the second; 150 steps; the classifier sees the class. 400 fresh "
        "prompts, 4 samples each.",
        measures=[*rows, *uneven_rows],
        summary={
            "gold, BCO - SFT": mean_of(gain),
            "gold, BCO - BCE without shift": mean_of(shift),
            "seeds in which the shift does not hurt": sum(shift_helps.values()),
            "gold, DPO - BCO": behind,
            "gold, BCO - KTO": mean_of(paired_gaps(rows, "gold", "BCO", "KTO")),
            "uneven prompts: gold on the disliked class, matched - plain": mean_of(matched),
            "uneven prompts: seeds in which matching helps it": sum(matching_helps.values()),
            "uneven prompts: effect of matching": decide(seen=most_seeds(matching_helps)),
        },
        tried=_tried(rows, uneven_rows),
        seconds=seconds_spent(run),
    )


def prompt_probabilities(features: Tensor, labels: Tensor, asked: Tensor) -> list[float]:
    """For each row of `asked` the probability of label 1, by a classifier of `features` and `labels`."""
    return fit_classifier(features, labels).probabilities(asked).tolist()


def _tried(rows: Sequence[Mapping[str, Any]], uneven_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was tried after the verdict, in words."""
    few = "32 thumbs a step"
    shift = paired_gaps(rows, "gold", f"BCO, {few}", f"BCE, no shift, {few}")
    behind = mean_of(paired_gaps(rows, "gold", "DPO", f"BCO, {few}"))
    marked = paired_gaps(uneven_rows, "gold, class 1", "BCO matched, absolute marks", "BCO, absolute marks")
    return [
        (
            f"{few}, half as many records as DPO's: gold, BCO - BCE without shift {mean_of(shift):+.3f}, not below in "
            f"{sum(gap >= 0 for gap in shift.values())} of {len(shift)} seeds; DPO - BCO {behind:+.3f}."
        ),
        (
            "Uneven prompts with absolute marks (thumbs up where the score reaches 0.83, so few for the second class): "
            f"gold on the second class, matched - plain {mean_of(marked):+.3f}, above in "
            f"{sum(gap > 0 for gap in marked.values())} of {len(marked)} seeds."
        ),
    ]
