"""DPO on pairs that a model labelled itself: the labels that are in doubt are smoothed, the others taken as they are.

Doubt is judged by a guess at the model trained further, whose logits go on from the reference past the model in training,
and by the margins of the pairs seen last (Spread Preference Annotation, arXiv 2406.04412, equations 9 to 12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from coalign.core.options import Fraction, NonNegative, Positive, option
from coalign.training.losses.pairs import implicit_rewards, pair_metrics, reference_pairs
from coalign.training.losses.pairwise import logistic_loss
from coalign.training.objective import Losses, ScoredBatch, objective
from coalign.training.processes import gathered

if TYPE_CHECKING:
    from torch import Tensor


def doubt_threshold(margins: Sequence[float], share: float) -> float:
    """The margin at or below which a pair is doubtful: `(v[k] + v[k + 1]) / 2`, v in ascending order, k = int(n share).

    So a little more than `share` of the margins lie below it (official code). For k = n - 1 the largest margin.

    Args:
        margins: n >= 1 margins of the pairs seen last.
    """
    values = sorted(margins)
    place = min(int(len(values) * share), len(values) - 1)
    return (values[place] + values[min(place + 1, len(values) - 1)]) / 2


def refined_loss(margins: Tensor, doubtful: Tensor, label_smoothing: float) -> Tensor:
    """[R] `-(1 - a u) log sig(m) - a u log sig(-m)`: the labels of doubtful pairs alone are smoothed.

    Args:
        margins: [R] m, margin of the implicit rewards of chosen and rejected response.
        doubtful: [R] u, true for pairs whose label is in doubt.
        label_smoothing: a, assumed share of wrong labels among these.
    """
    return logistic_loss(margins, label_smoothing * doubtful.to(margins.dtype))


@dataclass(kw_only=True)
class Refinement:
    """Constants of self-refinement, but for the strength of its extrapolation."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="paper, official code")
    label_smoothing: Fraction = option(
        0.1, "alpha, assumed share of wrong labels among doubtful pairs", source="paper, official code"
    )
    doubtful_share: Fraction = option(
        0.1, "K, share of the pairs that counts as doubtful", source="paper, official code"
    )
    smoothing_warmup: Fraction = option(
        0.2, "share of the steps before the first label is smoothed", source="official code"
    )
    margin_window: Annotated[int, Ge(2)] = option(
        50,
        "last margins that the threshold of doubt is taken from; 0 until there are so many",
        source="official code",
    )
    margins_of: Literal["pairs", "batches"] = option(
        "pairs",
        "these margins: of single pairs, or means of batches as in the official code (there of one pair)",
    )


@dataclass(kw_only=True)
class Constants(Refinement):
    """Constants of self-refinement."""

    __group__ = "Objective"

    extrapolation: NonNegative = option(
        0.5,
        "lambda: how far past the model the judge of doubt is guessed; 0 takes the model",
        source="paper, round 1",
    )


class RecentMargins:
    """The margins of the last pairs, and the threshold that those before the batch at hand give."""

    def __init__(self) -> None:
        self.margins: list[float] = []
        self.threshold = 0.0

    def update(self, batch: ScoredBatch, constants: Constants) -> None:
        full = len(self.margins) >= constants.margin_window
        self.threshold = doubt_threshold(self.margins, constants.doubtful_share) if full else 0.0
        new = gathered(judged_margins(batch, constants.beta).tolist())
        if constants.margins_of == "batches":
            new = [sum(new) / len(new)]
        self.margins = [*self.margins, *new][-constants.margin_window :]

    def state_dict(self) -> dict[str, float]:
        return {str(place): value for place, value in enumerate(self.margins)}

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        self.margins = [values[str(place)] for place in range(len(values))]


def judged_margins(batch: ScoredBatch, beta: float) -> Tensor:
    """[R] margins by which doubt is judged: of the extrapolated model (equation 12), without it of the policy itself."""
    chosen, rejected = batch.pairs()
    sums = (batch.extrapolated or batch.policy).sums().detach()
    reference = reference_pairs(batch)
    return beta * ((sums[chosen] - sums[rejected]) - (reference[0] - reference[1]))


@objective(
    "self_refinement",
    title="Self-refinement",
    data="preference",
    reference=True,
    constants=Constants,
    state=RecentMargins,
    extrapolation=lambda constants: constants.extrapolation,
    equation=r"-(1 - \alpha u) \log \sigma(m_\theta) - \alpha u \log \sigma(-m_\theta), \quad m = \beta (h_w - h_l),\ "
    r"u = 1[m_g \le \tau_K],\ \text{logits}_g = (1 + \lambda)\,\text{logits}_\theta - \lambda\,\text{logits}_{ref}",
    when="Pairs that a model labelled itself: labels that a guess at the model trained further doubts are smoothed.",
)
def self_refinement(batch: ScoredBatch, constants: Constants) -> Losses:
    """DPO whose labels are smoothed where they are in doubt (arXiv 2406.04412, equations 9 to 12).

    A pair is doubtful when the margin of the extrapolated model is at or below the threshold of the last margins.
    """
    chosen, rejected = implicit_rewards(batch, constants.beta)
    judged = judged_margins(batch, constants.beta)
    threshold = batch.state.threshold if isinstance(batch.state, RecentMargins) else 0.0
    doubtful = judged <= threshold
    smoothing = constants.label_smoothing if batch.progress >= constants.smoothing_warmup else 0.0
    metrics = {
        "doubtful": doubtful.to(judged.dtype),
        "rewards/judged_margins": judged,
        **pair_metrics(batch, chosen, rejected),
    }
    return Losses(refined_loss(chosen - rejected, doubtful, smoothing), metrics)
