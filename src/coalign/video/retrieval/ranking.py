"""Rankings of whole collections: normalisation by a bank of queries, ranks both ways, the best clips of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def query_bank_normalised(
    scores: Tensor, bank: Tensor, *, k: int = 1, beta: float = 70.0, least: int = 3
) -> Tensor:
    """[A, B] scores whose hubs are pushed down: QB-Norm with its dynamic inverted softmax (Bogolin et al. 2022).

    A column is a hub where it is among the `k` best of at least `least` queries of the bank. Rows whose best column is a hub
    become `exp(beta Y) / sum_bank exp(beta X)`, column by column, computed in logarithms; the others keep their scores,
    so rows are not comparable with each other afterwards.

    Args:
        scores: [A, B] of the test queries (Y).
        bank: [N, B] of the bank's queries (X), at least one.
    """
    hubs = torch.bincount(bank.topk(min(k, bank.shape[1]), dim=1).indices.flatten(), minlength=bank.shape[1])
    rows = (hubs >= least)[scores.argmax(1)]
    found = scores.clone()
    mass = (beta * bank.double()).logsumexp(0)
    found[rows] = (beta * scores[rows].double() - mass).exp().to(scores.dtype)
    return found


def best_columns(scores: Tensor, count: int) -> list[list[int]]:
    """For each row the places of its `count` best columns, best first; of equal ones the first. A row is in work at a time."""
    count = min(count, scores.shape[1])
    found = []
    for row in scores:
        least = row.topk(count).values[-1]
        places = (row >= least).nonzero().flatten()
        order = torch.sort(row[places], descending=True, stable=True).indices[:count]
        found.append(places[order].tolist())
    return found
