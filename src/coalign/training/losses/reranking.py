"""Losses of rerankers on labelled passages of several queries: point by point, pair by pair, and between embeddings.

All give one number a query, so that a mean over queries does not depend on how they are batched. A query whose passages leave
a loss nothing to compare has 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def pointwise_loss(logits: Tensor, labels: Tensor, queries: Tensor, n_queries: int) -> Tensor:
    """[Q] mean cross-entropy over the labelled passages of each query.

    Args:
        logits: [N, C].
        labels: [N] classes; negative: the passage is left out.
        queries: [N] query of each passage, from 0 to Q - 1.
    """
    told = labels >= 0
    losses = torch.nn.functional.cross_entropy(logits[told], labels[told], reduction="none")
    return _means(losses, queries[told], n_queries)


def pairwise_loss(scores: Tensor, queries: Tensor, n_queries: int) -> Tensor:
    """[Q] mean over a query's pairs i < j of -log sigmoid(s_i - s_j): the pairwise ranking loss of a list whose passages stand
    best first (n (n - 1) / 2 pairs).

    Args:
        scores: [N] higher is better; the passages of a query in their wanted order.
        queries: [N] query of each passage.
    """
    order = torch.arange(len(scores), device=scores.device)
    better, worse = torch.nonzero((queries[:, None] == queries) & (order[:, None] < order), as_tuple=True)
    return _means(-torch.nn.functional.logsigmoid(scores[better] - scores[worse]), queries[better], n_queries)


def contrastive_loss(
    embeddings: Tensor, labels: Tensor, queries: Tensor, n_queries: int, *, temperature: float = 0.07
) -> Tensor:
    """[Q] supervised contrastive loss within each query (arXiv 2004.11362, equation 2): mean over its anchors a of
    -1/|P(a)| sum over p in P(a) of [z_a z_p / t - log sum over n != a of exp(z_a z_n / t)].

    P(a): the query's other passages with the label of a. An anchor without any is left out. Both labels are pulled together.

    Args:
        embeddings: [N, H], of any length: they are made unit vectors.
        labels, queries: [N].
        temperature: t.
    """
    units = torch.nn.functional.normalize(embeddings, dim=-1)
    similar = units @ units.T / temperature
    other = (queries[:, None] == queries) & ~torch.eye(len(units), dtype=torch.bool, device=units.device)
    positive = other & (labels[:, None] == labels)
    anchors = positive.any(1)
    if not anchors.any():
        return similar.new_zeros(n_queries) + 0 * embeddings.sum()
    rows = similar[anchors].masked_fill(~other[anchors], -torch.inf).log_softmax(-1)
    rows = torch.where(positive[anchors], rows, 0.0)
    return _means(-rows.sum(1) / positive[anchors].sum(1), queries[anchors], n_queries)


def _means(values: Tensor, queries: Tensor, n_queries: int) -> Tensor:
    """[Q] mean of the values of each query, 0 where it has none."""
    sums = values.new_zeros(n_queries).index_add(0, queries, values)
    counts = values.new_zeros(n_queries).index_add(0, queries, torch.ones_like(values))
    return sums / counts.clamp(min=1)
