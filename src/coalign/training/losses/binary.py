"""Learning from single responses with a thumbs-up or thumbs-down: KTO, and the records it needs.

KTO compares with the KL divergence from the reference, estimated on responses that belong to other prompts. A KTO
batch therefore holds two responses a record: the labelled one (value 1 or 0), and the response of another record,
scored after this record's prompt, of which nothing is said (value NaN). `mismatch_responses` makes such records. It
shuffles over the whole data set, once: a small batch never meets its own response, as it would where responses are
rotated inside a batch (TRL, HALOs); the reference's log-probabilities can be computed beforehand; and thumbs up and
down are borrowed as often as they occur, whatever the order of the file.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from coalign.core.errors import DataError
from coalign.core.options import NonNegative, Positive, option
from coalign.data.encoding import EncodedRecord
from coalign.training.losses.reward_shift import labelled_metrics
from coalign.training.objective import Losses, ScoredBatch, objective

if TYPE_CHECKING:
    from torch import Tensor


def kto_kl(mismatched_policy_logps: Tensor, mismatched_reference_logps: Tensor) -> Tensor:
    """[] `z0 = max(0, mean of (S_policy - S_reference))` over mismatched responses, without gradient.

    The mean runs over the responses of all processes. Nats per response; the estimate of a micro-batch of few
    records is coarse, and gradient accumulation does not refine it.

    Args:
        mismatched_policy_logps, mismatched_reference_logps: [K] log-probabilities, summed over response tokens, of
            responses to other prompts.
    """
    ratios = (mismatched_policy_logps - mismatched_reference_logps).detach()
    total = torch.stack([ratios.sum(), ratios.new_tensor(float(len(ratios)))])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return (total[0] / total[1].clamp(min=1)).clamp(min=0)


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    labels: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """[R] `w_d (1 - sig(beta (h - z0)))` for desirable, `w_u (1 - sig(beta (z0 - h)))` for undesirable responses.

    Ethayarajh et al. 2024 (arXiv 2402.01306), section 4; the constant lambda_y of the paper, which only shifts the
    value, is left out.

    Args:
        policy_logps, reference_logps: [R] summed over response tokens; h is their difference.
        labels: [R] true (or 1) for desirable.
        kl: [] z0, see `kto_kl`; a constant.
    """
    advantages = beta * (policy_logps - reference_logps.detach() - kl.detach())
    return torch.where(
        labels.bool(),
        desirable_weight * torch.sigmoid(-advantages),
        undesirable_weight * torch.sigmoid(advantages),
    )


def mismatch_responses(
    records: Sequence[EncodedRecord], max_length: int | None = None, *, seed: int = 0
) -> list[EncodedRecord]:
    """Give every record, as a second response of value NaN, a response to another prompt, drawn by a seeded shuffle.

    Every response is borrowed once; only where one prompt has more than half of the records, the others are borrowed
    more often.

    Args:
        records: one response each.
        max_length: tokens of prompt and response together; the borrowed response is cut from the right.
        seed: of the shuffle; the same records are given the same responses, in a resumed run too.

    Raises:
        DataError: all records have the same prompt, so that no response belongs to another one.
    """
    prompts = [record.prompt_key for record in records]
    if records and len(set(prompts)) == 1:
        raise DataError(
            f"KTO needs responses to at least two different prompts, found {len(records)} to one.",
            hint="Add records with other prompts, or learn from pairs (`dpo`).",
        )
    lenders = _lenders(prompts, seed)
    return [_with_borrowed(record, records[lenders[row]], max_length) for row, record in enumerate(records)]


def _lenders(prompts: Sequence[tuple[int | str, ...]], seed: int) -> list[int]:
    """For each position another one with another prompt, at random."""
    shuffled = random.Random(seed).sample(range(len(prompts)), len(prompts))
    by_prompt: dict[tuple[int | str, ...], list[int]] = {}
    for row in shuffled:
        by_prompt.setdefault(prompts[row], []).append(row)
    groups = sorted(by_prompt.values(), key=len, reverse=True)
    order = [row for group in groups for row in group]
    shift = len(groups[0]) if groups else 0
    # Every group is contiguous and no longer than the shift, so a shift leads out of it; around the end it leads back
    # into the first group alone, and only if that one has more than half of the records.
    others = itertools.cycle(order[shift:])
    lenders = [0] * len(prompts)
    for place, row in enumerate(order):
        lender = order[(place + shift) % len(order)]
        lenders[row] = lender if prompts[lender] != prompts[row] else next(others)
    return lenders


def _with_borrowed(record: EncodedRecord, other: EncodedRecord, max_length: int | None) -> EncodedRecord:
    room = None if max_length is None else max(1, max_length - len(record.prompt_ids))
    trained = None
    if record.trained is not None or other.trained is not None:
        trained = [_mask(record), _mask(other)[:room]]
    return replace(
        record,
        response_ids=[record.response_ids[0], other.response_ids[0][:room]],
        trained=trained,
        values=[record.values[0], float("nan")],
    )


def _mask(record: EncodedRecord) -> list[bool]:
    return record.trained[0] if record.trained is not None else [True] * len(record.response_ids[0])


@dataclass(kw_only=True)
class KTOConstants:
    """Constants of KTO."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="HALOs, TRL")
    desirable_weight: NonNegative = option(1.0, "weight of thumbs-up records", source="HALOs, TRL")
    undesirable_weight: NonNegative = option(
        1.0, "weight of thumbs-down records; raise the rarer class's weight", source="HALOs, TRL"
    )


@objective(
    "kto",
    data="feedback",
    reference=True,
    constants=KTOConstants,
    prepare=mismatch_responses,
    equation=r"w_y \left(1 - \sigma(\pm\beta [h(y) - z_0])\right), \quad z_0 = \max(0, \mathbb{E}_{y'}[h(y')]),\ h = \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}",
    when="Single responses with a thumbs-up or thumbs-down instead of pairs; classes may be unbalanced.",
)
def kto(batch: ScoredBatch, constants: KTOConstants) -> Losses:
    """KTO, Ethayarajh et al. 2024 (arXiv 2402.01306), section 4.

    Raises:
        ValueError: no reference, or a record without exactly one labelled and one mismatched response.
    """
    own, borrowed = batch.pairs()
    if batch.values[own].isnan().any() or not batch.values[borrowed].isnan().all():
        raise ValueError(
            "KTO needs a labelled and a mismatched response (value NaN) a record: `mismatch_responses`"
        )
    labels = batch.values[own] > 0.5
    policy, reference = batch.policy.sums(), batch.reference_sums()
    kl = kto_kl(policy[borrowed], reference[borrowed])
    losses = kto_loss(
        policy[own],
        reference[own],
        labels,
        kl,
        beta=constants.beta,
        desirable_weight=constants.desirable_weight,
        undesirable_weight=constants.undesirable_weight,
    )
    logps = policy[own].detach()
    rewards = constants.beta * (logps - reference[own])
    return Losses(losses, {"kl": kl.expand_as(losses), **labelled_metrics(labels, rewards, logps)})
