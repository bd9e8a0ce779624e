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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.options import Count, OptionGroup, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Feedback
from coalign.preference.data.prompt_matching import with_matched_prompts
from coalign.training.learning import learn
from coalign.training.losses.density_ratio import PROB_DESIRABLE, density_ratios
from coalign.training.losses.reward_shift import RewardShift, Shift, labelled_metrics, single_rewards
from coalign.training.material import ObjectiveOptions, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


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
    losses = torch.nn.functional.softplus(torch.where(desirable, -logits, logits))
    return losses if weights is None else torch.where(desirable, losses, weights.detach() * losses)


@dataclass(kw_only=True)
class BCOConstants(OptionGroup):
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
        super().__post_init__()
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
    title="Matched BCO",
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
    seen = rewards.detach()
    metrics = {
        **labelled_metrics(labels, seen, batch.policy.sums().detach()),
        "rewards/accuracies": ((seen > delta) == labels).to(seen.dtype),
        "rewards/shift": torch.full_like(seen, delta),
    }
    if weights is not None:
        metrics["density_ratio"] = torch.where(labels, torch.nan, weights)
    return Losses(losses, metrics)


@dataclass(kw_only=True)
class Config(MatchedBCOConstants, ObjectiveOptions):
    """Options of `coalign run bco`."""

    __group__ = "Distribution matching"

    match_prompts: bool = option(
        False,
        "weight thumbs-down records so that their prompts match those of thumbs-up",
        source="paper, version 1",
    )
    encoder: str = option(
        "default-encoder", "sentence encoder of the prompts: hub id or folder", only_with="match_prompts"
    )
    prompt_sample_size: Count = option(
        1024,
        "records a class on which the prompt classifier is fitted",
        source="official code",
        only_with="match_prompts",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.match_prompts:
            self.refuse(("min_density_ratio", "max_density_ratio"), "without match_prompts")


def run(config: Config, run: Run) -> None:
    """Train BCO on thumbs-up and thumbs-down records, with density ratios on request."""
    material = read_material(config, "feedback", run)
    thumbs_up = sum(isinstance(one, Feedback) and one.label for one in material.training)
    material.notes.append(
        f"{thumbs_up} thumbs-up and {len(material.training) - thumbs_up} thumbs-down to train on"
    )
    if config.match_prompts:
        material = with_matched_prompts(material, config)
    learn(config, get_objective("bco_matched" if config.match_prompts else "bco"), run, material=material)
