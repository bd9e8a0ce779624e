"""Scored batches and naive losses for the tests of the objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from coalign.core.options import build
from coalign.models.types import ResponseLogps
from coalign.training.objective import Losses, ScoredBatch, get_objective


def scored_batch(
    values: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    reference: bool = True,
    dtype: torch.dtype = torch.float64,
) -> ScoredBatch:
    """A batch with a random response for every value, the policy's log-probabilities with gradient.

    Args:
        values: for each record the values of its responses.
        dtype: of log-probabilities and values.
    """
    rng = np.random.default_rng(seed)
    flat = [value for record in values for value in record]
    index = torch.tensor([row for row, record in enumerate(values) for _ in record])
    lengths = torch.tensor(rng.integers(1, 7, len(flat)))
    policy = torch.tensor(-rng.exponential(1.0, int(lengths.sum())), dtype=dtype, requires_grad=True)
    frozen = torch.tensor(-rng.exponential(1.0, int(lengths.sum())), dtype=dtype)
    return ScoredBatch(
        policy=ResponseLogps(policy, lengths, index),
        reference=ResponseLogps(frozen, lengths, index) if reference else None,
        record_index=index,
        values=torch.tensor(flat, dtype=dtype),
    )


def reordered(batch: ScoredBatch, order: Sequence[int]) -> ScoredBatch:
    """The same records in another order."""
    groups = batch.groups()
    rows = torch.cat([groups[record] for record in order])
    index = torch.tensor([new for new, record in enumerate(order) for _ in groups[record]])

    def moved(scored: ResponseLogps) -> ResponseLogps:
        parts = scored.split()
        return ResponseLogps(torch.cat([parts[row] for row in rows]), scored.lengths[rows], index)

    reference = moved(batch.reference) if batch.reference is not None else None
    extras = {name: value[torch.tensor(order)] for name, value in batch.extras.items()}
    return ScoredBatch(moved(batch.policy), reference, index, batch.values[rows], extras, batch.state)


def naive_records(batch: ScoredBatch) -> list[list[dict[str, float]]]:
    """For each record its responses as plain numbers: S, ref (sums), n (length), a (average), h, value."""
    policy, frozen = batch.policy.split(), batch.reference.split() if batch.reference is not None else None
    records: list[list[dict[str, float]]] = []
    for rows in batch.groups():
        responses = []
        for row in rows.tolist():
            total = math.fsum(policy[row].tolist())
            other = math.fsum(frozen[row].tolist()) if frozen is not None else math.nan
            size = len(policy[row])
            one = {"S": total, "ref": other, "n": size, "a": total / size, "h": total - other}
            responses.append({**one, "value": float(batch.values[row])})
        records.append(responses)
    return records


def naive_pro_ranks(scores: list[float], rewards: list[float], temperature: str, eps: float) -> float:
    """PRO's losses of all ranks, best response first."""
    total = 0.0
    for k in range(len(scores) - 1):
        below = range(k + 1, len(scores))
        if temperature == "reward":
            positive = math.exp(scores[k] * max(rewards[k] - rewards[i] for i in below))
            negatives = [math.exp(scores[i] * (rewards[k] - rewards[i])) for i in below]
        else:
            positive = math.exp(scores[k])
            negatives = [math.exp(scores[i]) for i in below if rewards[i] < rewards[k]]
            if not negatives:
                continue
        total -= math.log(positive / (eps + positive + sum(negatives)))
    return total


def evaluate(name: str, batch: ScoredBatch, **constants: Any) -> Losses:
    """An objective with these constants on a batch."""
    one = get_objective(name)
    return one.loss(batch, build(one.constants, constants))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
