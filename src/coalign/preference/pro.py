"""PRO: alignment by plain supervised steps on prompts with n ranked responses.

Preference Ranking Optimization for Human Alignment (arXiv 2306.17492).

    coalign run pro --data rankings.jsonl --model default

Each step of the loss contrasts the best response left with all below it, then drops it; gaps in reward act as
inverse temperatures, so a reward scale of +-5 makes a very different loss than one of 0 to 1. A supervised term on
the best response keeps the language. Rankings may have any length, each record its own, and ties.

Differences from the official code: responses end with their own end-of-turn token, and padding never counts (there
a padded row is trained on one extra EOS). Records are sorted here, so files need not be; an unsorted list would give
negative temperatures and reward the wrong response. As in the code, and unlike the paper, the supervised term is a
sum over tokens weighted by `sft_weight (n - 1)^2`. `temperature = "none"` is the paper's plain form; there, tied
responses are not contrasted with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coalign.core.options import NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.training.learning import learn
from coalign.training.losses.listwise import (
    Temperature,
    pro_rank_losses,
    ranking_metrics,
    sorted_by_length,
)
from coalign.training.losses.supervised import nll_loss
from coalign.training.material import ObjectiveOptions, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


def pro_loss(
    policy_logps: Tensor,
    lengths: Tensor,
    rewards: Tensor,
    *,
    sft_weight: float = 0.05,
    temperature: Temperature = "reward",
    eps: float = 1e-10,
) -> Tensor:
    """`sum_k loss_k - sft_weight (n - 1)^2 S(y_1)`: the loss of rankings of one length.

    Args:
        policy_logps: [G, n] log-probabilities S summed over response tokens, best response first.
        lengths: [G, n] counted response tokens; 0 counts as 1.
        rewards: [G, n] non-increasing; constants.
        sft_weight: weight of the best response's summed log-likelihood.
        temperature, eps: see `pro_rank_losses`.

    Returns:
        [G] losses, not reduced.
    """
    scores = policy_logps / lengths.clamp(min=1)
    ranking = pro_rank_losses(scores, rewards, temperature=temperature, eps=eps).sum(dim=-1)
    weight = sft_weight * (policy_logps.shape[-1] - 1) ** 2
    return ranking + weight * nll_loss(policy_logps[:, 0], lengths[:, 0])


@dataclass(kw_only=True)
class Constants:
    """Constants of PRO."""

    __group__ = "Objective"

    sft_weight: NonNegative = option(
        0.05, "weight of the best response's likelihood, times (n - 1)^2", source="official code"
    )
    temperature: Temperature = option(
        "reward",
        "reward gaps as inverse temperatures, or none: the order alone counts",
        source="official code",
    )
    eps: NonNegative = option(1e-10, "added inside the logarithm", source="official code")


@objective(
    "pro",
    data="ranking",
    reference=False,
    constants=Constants,
    equation=r"-\sum_{k=1}^{n-1} \log \frac{e^{s_k/T_k^k}}{e^{s_k/T_k^k} + \sum_{i>k} e^{s_i/T_k^i}} - w_{sft} (n-1)^2 \log \pi_\theta(y_1|x), \quad T_k^i = \frac{1}{R_k - R_i},\ T_k^k = \min_{i>k} T_k^i",
    when="Several responses a prompt with rewards on a known scale; longer rankings help.",
)
def pro(batch: ScoredBatch, constants: Constants) -> Losses:
    """PRO (arXiv 2306.17492) on rankings of mixed lengths.

    Raises:
        ValueError: a response without a score.
    """
    if batch.values.isnan().any():
        raise ValueError("PRO needs a score for every response of a ranking, found NaN")
    logps, lengths = batch.policy.sums(), batch.policy.lengths
    losses = logps.new_zeros(batch.n_records)
    for records, rows in sorted_by_length(batch):
        of_length = pro_loss(
            logps[rows],
            lengths[rows],
            batch.values[rows],
            sft_weight=constants.sft_weight,
            temperature=constants.temperature,
            eps=constants.eps,
        )
        losses = losses.index_add(0, records, of_length)
    return Losses(losses, ranking_metrics(batch, batch.policy.means()))


@dataclass(kw_only=True)
class Config(Constants, ObjectiveOptions):
    """Options of `coalign run pro`."""

    epochs: Positive = option(2.0, "passes over the training records", source="official code")


def run(config: Config, run: Run) -> None:
    """Train PRO on rankings; pairs count as rankings of two, feedback on one prompt as a ranking of 1 and 0."""
    material = read_material(config, "ranking", run)
    scores = [score for record in material.training if isinstance(record, Ranking) for score in record.scores]
    text = f"Scores lie between {min(scores):g} and {max(scores):g}"
    if config.temperature == "reward":
        text += ": their gaps are inverse temperatures, so rescale them, or set --temperature none, if they are wide"
    material.notes.append(text)
    learn(config, get_objective("pro"), run, material=material)
