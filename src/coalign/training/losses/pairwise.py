"""Objectives on pairs: DPO, cDPO, DPO on soft labels, IPO, hinge with reference; CPO, SimPO, ORPO, SLiC-HF without.

The loss functions are pure: they take [R] log-probabilities summed over response tokens (prompt not counted), and
[R] response lengths in tokens where they average, and return [R] losses, not reduced. Gradients flow through the
policy's log-probabilities; those of the reference are constants. S is a sum, a = S / |y| an average,
h = S_policy - S_reference, sig the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Lt

from coalign.core.options import NonNegative, Positive, option
from coalign.training.losses.numerics import log_odds, mean_logps
from coalign.training.losses.pairs import (
    implicit_rewards,
    mean_rewards,
    pair_lengths,
    pair_metrics,
    policy_pairs,
    reference_pairs,
)
from coalign.training.losses.supervised import Reduction, nll_loss
from coalign.training.objective import Column, Losses, ScoredBatch, objective

if TYPE_CHECKING:
    from torch import Tensor

Smoothing = Annotated[float, Ge(0), Lt(0.5)]
"""The assumed share of pairs whose labels are swapped."""


def logistic_loss(margins: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """[R] `-(1 - e) log sig(z) - e log sig(-z)`: each label is wrong with probability e.

    Args:
        label_smoothing: e, of all pairs or [R] of each; no gradient flows into it.
    """
    losses = -torch.nn.functional.logsigmoid(margins)
    if isinstance(label_smoothing, torch.Tensor):
        label_smoothing = label_smoothing.detach()
    if isinstance(label_smoothing, torch.Tensor) or label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * torch.nn.functional.logsigmoid(-margins)
    return losses


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """[R] `-log sig(beta (h_w - h_l))`: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    With `label_smoothing` e > 0 cDPO (Mitchell 2023): `-(1 - e) log sig(z) - e log sig(-z)`; [R] one for each pair.
    """
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    return logistic_loss(beta * (chosen - rejected), label_smoothing)


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    tau: float,
    length_normalised: bool = False,
) -> Tensor:
    """[R] `(h_w - h_l - 1 / (2 tau))^2`: Azar et al. 2023 (arXiv 2310.12036), equation 17.

    `length_normalised` divides each h by the length of its response, as TRL and HALOs do on the authors' advice;
    the target margin 1 / (2 tau) then is in nats per token.
    """
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    if length_normalised:
        chosen, rejected = mean_logps(chosen, chosen_lengths), mean_logps(rejected, rejected_lengths)
    return (chosen - rejected - 1 / (2 * tau)) ** 2


def hinge_ref_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
) -> Tensor:
    """[R] `max(0, 1 - beta (h_w - h_l))`: the hinge form of DPO (Liu et al. 2023, arXiv 2309.06657; TRL's `hinge`)."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    return torch.nn.functional.relu(1 - beta * (chosen - rejected))


def cpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """[R] `-log sig(beta (S_w - S_l))`: the preference term of CPO (Xu et al. 2024, arXiv 2401.08417).

    The whole objective adds the negative log-likelihood of the chosen response (`nll_loss`).
    """
    return logistic_loss(beta * (policy_chosen_logps - policy_rejected_logps), label_smoothing)


def simpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma: float,
) -> Tensor:
    """[R] `-log sig(beta (a_w - a_l) - gamma)`: Meng et al. 2024 (arXiv 2405.14734), equation 6."""
    chosen = mean_logps(policy_chosen_logps, chosen_lengths)
    rejected = mean_logps(policy_rejected_logps, rejected_lengths)
    return logistic_loss(beta * (chosen - rejected) - gamma)


def log_odds_ratio(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
) -> Tensor:
    """[R] `o_w - o_l` with `o = a - log(1 - exp(a))`, a clamped below -1e-7."""
    chosen = log_odds(mean_logps(policy_chosen_logps, chosen_lengths))
    return chosen - log_odds(mean_logps(policy_rejected_logps, rejected_lengths))


def orpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    odds_weight: float,
) -> Tensor:
    """[R] `-a_w - lambda log sig(o_w - o_l)`: Hong et al. 2024 (arXiv 2403.07691), equation 6.

    The likelihood term averages over response tokens only (TRL's also counts the prompt).
    """
    ratio = log_odds_ratio(policy_chosen_logps, policy_rejected_logps, chosen_lengths, rejected_lengths)
    return -mean_logps(policy_chosen_logps, chosen_lengths) + odds_weight * logistic_loss(ratio)


def slic_hf_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, delta: float, sft_weight: float
) -> Tensor:
    """[R] `max(0, delta - S_w + S_l) - lambda S_w`: Zhao et al. 2023 (arXiv 2305.10425), equation 1.

    The regularisation target is the chosen response.
    """
    calibration = torch.nn.functional.relu(delta - policy_chosen_logps + policy_rejected_logps)
    return calibration - sft_weight * policy_chosen_logps


@dataclass(kw_only=True)
class DPOConstants:
    """Constants of DPO."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="TRL, HALOs")


@dataclass(kw_only=True)
class AnchoredDPOConstants(DPOConstants):
    """Constants of DPO, with a term that keeps chosen responses likely."""

    __group__ = "Objective"

    nll_weight: NonNegative = option(
        0.0,
        "weight of the chosen response's negative log-likelihood, a mean over its tokens",
        source="0: paper",
    )


@objective(
    "dpo",
    data="preference",
    reference=True,
    constants=AnchoredDPOConstants,
    equation=r"-\log \sigma\left(\beta \left[\log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)} - \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right]\right)",
    when="The baseline on clean pairs, started from a model that could have written them.",
)
def dpo(batch: ScoredBatch, constants: DPOConstants) -> Losses:
    """DPO, Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with `nll_weight` plus that times the chosen response's negative
    log-likelihood per token (Pang et al. 2024, arXiv 2404.19733, equation 1).
    """
    found = _dpo(batch, beta=constants.beta)
    weight = getattr(constants, "nll_weight", 0.0)  # systems that declare DPO's constants alone have none
    if not weight:
        return found
    chosen, _ = batch.pairs()
    nll = nll_loss(batch.policy.sums()[chosen], batch.policy.lengths[chosen], reduction="mean")
    return Losses(found.losses + weight * nll, {**found.metrics, "nll": nll.detach()})


@dataclass(kw_only=True)
class CDPOConstants(DPOConstants):
    """Constants of cDPO."""

    __group__ = "Objective"

    label_smoothing: Smoothing = option(0.1, "assumed share of swapped labels, below 0.5")


@objective(
    "cdpo",
    title="cDPO",
    data="preference",
    reference=True,
    constants=CDPOConstants,
    equation=r"-(1-\epsilon) \log \sigma(z) - \epsilon \log \sigma(-z), \quad z = \beta (h_w - h_l)",
    when="DPO for pairs of which a known share is labelled the wrong way round.",
)
def cdpo(batch: ScoredBatch, constants: CDPOConstants) -> Losses:
    """Conservative DPO, Mitchell 2023 ("A note on DPO with noisy preferences")."""
    return _dpo(batch, beta=constants.beta, label_smoothing=constants.label_smoothing)


CONFIDENCE, WEIGHT = "confidence", "weight"
"""Columns of pairs: how probable it is that the order is right, and how much the pair counts."""


@objective(
    "soft_dpo",
    title="Soft DPO",
    data="preference",
    reference=True,
    constants=DPOConstants,
    columns=(Column(CONFIDENCE, low=0, high=1, default=1.0), Column(WEIGHT, low=0, default=1.0)),
    equation=r"w \left[-c \log \sigma(z) - (1 - c) \log \sigma(-z)\right], \quad z = \beta (h_w - h_l)",
    when="Each pair says how far its label is to be trusted (columns `confidence` and `weight`), as self-made ones do.",
)
def soft_dpo(batch: ScoredBatch, constants: DPOConstants) -> Losses:
    """DPO with a label smoothing and a weight for each pair: cDPO with e = 1 - confidence, times the weight.

    The mean is over the records, not over their weights.
    """
    confidence = batch.extras[CONFIDENCE]
    found = _dpo(batch, beta=constants.beta, label_smoothing=1 - confidence)
    return Losses(batch.extras[WEIGHT] * found.losses, {**found.metrics, "labels/confidence": confidence})


def _dpo(batch: ScoredBatch, *, beta: float, label_smoothing: float | Tensor = 0.0) -> Losses:
    pairs = (*policy_pairs(batch), *reference_pairs(batch))
    losses = dpo_loss(*pairs, beta=beta, label_smoothing=label_smoothing)
    return Losses(losses, pair_metrics(batch, *implicit_rewards(batch, beta)))


@dataclass(kw_only=True)
class IPOConstants:
    """Constants of IPO."""

    __group__ = "Objective"

    tau: Positive = option(0.1, "the target margin is 1 / (2 tau) nats", source="TRL, HALOs")
    length_normalised: bool = option(
        False, "margin per token instead of per response; take a larger tau then (0.5)", source="paper"
    )


@objective(
    "ipo",
    data="preference",
    reference=True,
    constants=IPOConstants,
    equation=r"\left(h_w - h_l - \frac{1}{2\tau}\right)^2, \quad h = \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}",
    when="Labels are nearly deterministic and DPO drifts ever further from the reference: the margin has a target.",
)
def ipo(batch: ScoredBatch, constants: IPOConstants) -> Losses:
    """IPO, Azar et al. 2023 (arXiv 2310.12036), equation 17."""
    normalised = constants.length_normalised
    pairs = (*policy_pairs(batch), *reference_pairs(batch), *pair_lengths(batch))
    losses = ipo_loss(*pairs, tau=constants.tau, length_normalised=normalised)
    rewards = implicit_rewards(batch, constants.tau, length_normalised=normalised)
    return Losses(losses, pair_metrics(batch, *rewards))


@objective(
    "hinge_ref",
    title="Hinge loss against the reference",
    data="preference",
    reference=True,
    constants=DPOConstants,
    equation=r"\max(0,\ 1 - \beta (h_w - h_l))",
    when="DPO that stops at a margin of 1 / beta nats instead of widening it without end.",
)
def hinge_ref(batch: ScoredBatch, constants: DPOConstants) -> Losses:
    """DPO's hinge form, Liu et al. 2023 (arXiv 2309.06657); `hinge` in TRL."""
    losses = hinge_ref_loss(*policy_pairs(batch), *reference_pairs(batch), beta=constants.beta)
    return Losses(losses, pair_metrics(batch, *implicit_rewards(batch, constants.beta)))


@dataclass(kw_only=True)
class CPOConstants:
    """Constants of CPO."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the summed log-probability", source="TRL")
    label_smoothing: Smoothing = option(0.0, "assumed share of swapped labels, below 0.5", source="TRL")
    nll_weight: NonNegative = option(1.0, "weight of the chosen response's likelihood", source="paper")
    nll_reduction: Reduction = option("sum", "likelihood over response tokens", source="paper")


@objective(
    "cpo",
    data="preference",
    reference=False,
    constants=CPOConstants,
    equation=r"-\log \sigma\left(\beta [\log \pi_\theta(y_w|x) - \log \pi_\theta(y_l|x)]\right) - w \log \pi_\theta(y_w|x)",
    when="No memory for a reference, and chosen responses good enough to imitate.",
)
def cpo(batch: ScoredBatch, constants: CPOConstants) -> Losses:
    """CPO, Xu et al. 2024 (arXiv 2401.08417): contrastive preference optimization."""
    chosen, rejected = policy_pairs(batch)
    losses = cpo_loss(chosen, rejected, beta=constants.beta, label_smoothing=constants.label_smoothing)
    nll = nll_loss(chosen, pair_lengths(batch)[0], reduction=constants.nll_reduction)
    metrics = pair_metrics(batch, constants.beta * chosen, constants.beta * rejected)
    return Losses(losses + constants.nll_weight * nll, {**metrics, "nll": nll.detach()})


@dataclass(kw_only=True)
class SimPOConstants:
    """Constants of SimPO."""

    __group__ = "Objective"

    beta: Positive = option(2.0, "inverse temperature of the averaged log-probability")
    gamma: NonNegative = option(1.2, "target margin, after beta")


@objective(
    "simpo",
    title="SimPO",
    data="preference",
    reference=False,
    constants=SimPOConstants,
    equation=r"-\log \sigma\left(\frac{\beta}{|y_w|} \log \pi_\theta(y_w|x) - \frac{\beta}{|y_l|} \log \pi_\theta(y_l|x) - \gamma\right)",
    when="No reference, and the reward should be what decoding maximises; robust over its constants.",
)
def simpo(batch: ScoredBatch, constants: SimPOConstants) -> Losses:
    """SimPO, Meng et al. 2024 (arXiv 2405.14734), equation 6."""
    pairs = (*policy_pairs(batch), *pair_lengths(batch))
    losses = simpo_loss(*pairs, beta=constants.beta, gamma=constants.gamma)
    return Losses(losses, pair_metrics(batch, *mean_rewards(batch, constants.beta)))


@dataclass(kw_only=True)
class ORPOConstants:
    """Constants of ORPO."""

    __group__ = "Objective"

    odds_weight: NonNegative = option(
        0.1, "lambda, weight of the odds-ratio term (`beta` in TRL)", source="TRL"
    )


@objective(
    "orpo",
    data="preference",
    reference=False,
    constants=ORPOConstants,
    equation=r"-a_w - \lambda \log \sigma(o_w - o_l), \quad a = \tfrac{1}{|y|}\log \pi_\theta(y|x),\ o = a - \log(1 - e^a)",
    when="Fine-tuning and preference alignment in one run from a base model.",
)
def orpo(batch: ScoredBatch, constants: ORPOConstants) -> Losses:
    """ORPO, Hong et al. 2024 (arXiv 2403.07691), equation 6."""
    losses = orpo_loss(*policy_pairs(batch), *pair_lengths(batch), odds_weight=constants.odds_weight)
    return Losses(losses, pair_metrics(batch, *mean_rewards(batch)))


@dataclass(kw_only=True)
class SLiCConstants:
    """Constants of SLiC-HF."""

    __group__ = "Objective"

    delta: NonNegative = option(1.0, "margin in nats", source="paper")
    sft_weight: NonNegative = option(0.1, "lambda, weight of the chosen response's likelihood")


@objective(
    "slic_hf",
    title="SLiC-HF",
    data="preference",
    reference=False,
    constants=SLiCConstants,
    equation=r"\max(0,\ \delta - \log \pi_\theta(y_w|x) + \log \pi_\theta(y_l|x)) - \lambda \log \pi_\theta(y_w|x)",
    when="A calibration that leaves pairs alone once they are ranked, without a reference.",
)
def slic_hf(batch: ScoredBatch, constants: SLiCConstants) -> Losses:
    """SLiC-HF, Zhao et al. 2023 (arXiv 2305.10425), equation 1."""
    chosen, rejected = policy_pairs(batch)
    losses = slic_hf_loss(chosen, rejected, delta=constants.delta, sft_weight=constants.sft_weight)
    return Losses(losses, pair_metrics(batch, chosen, rejected))
