"""One record of each group of like ones, by embeddings that learn what likeness of a task is.

Texts that come of one template look alike to an encoder whatever they ask for. So they are clustered coarsely and then
finely; texts of different fine clusters that share a template are what an embedding must tell apart least reliably by words
and most by task: they are hard positives of each other, those that share none hard negatives, and a linear map of the
encoder's embeddings is learnt by a triplet loss (the Baichuan Alignment report, arXiv 2410.14940, section 3.1.2). Then
groups are formed under a growing distance, and the first record of each is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Picks
from coalign.measures.clusters import kmeans, nearest
from coalign.measures.texts.templates import template_similarity
from coalign.measures.texts.text_units import words

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES = 1024
"""Of a text, in which templates are looked for."""
_MOST_TRIPLETS = 2000


@dataclass(frozen=True)
class Triplets:
    """Positions of texts: an anchor, one that is like it, one that is not. Each [T]."""

    anchors: Sequence[int]
    positives: Sequence[int]
    negatives: Sequence[int]


def fine_clusters(points: NDArray[Any], coarse: int, fine: int, *, seed: int) -> NDArray[np.intp]:
    """[n] cluster of each point: `coarse` k-means clusters, each cut into at most `fine`."""

    def clustered(part: NDArray[Any], count: int) -> NDArray[np.intp]:
        different = len(np.unique(part, axis=0))
        return nearest(part, kmeans(part, min(count, different), seed=seed))

    outer = clustered(points, coarse)
    found = np.zeros(len(points), dtype=np.intp)
    for number in np.unique(outer):
        inside = np.flatnonzero(outer == number)
        found[inside] = number * fine + clustered(points[inside], fine)
    return found


def mine_triplets(
    texts: Sequence[str], clusters: NDArray[np.intp], *, threshold: float, most: int, seed: int
) -> Triplets:
    """Triplets over texts of different fine clusters: a positive shares the anchor's template, a negative shares none.

    Args:
        threshold: of `template_similarity`, from which on two texts share a template.
        most: triplets; anchors and candidates are drawn by `seed`.
    """
    draw = np.random.default_rng(seed)
    split = [[one.casefold() for one in words(text)] for text in texts]
    found: list[tuple[int, int, int]] = []
    for anchor in draw.permutation(len(texts)):
        if len(found) >= most:
            break
        positive = negative = None
        for other in draw.permutation(len(texts))[:200]:
            if clusters[other] == clusters[anchor]:
                continue
            alike = template_similarity(split[anchor], split[other]) >= threshold
            if alike and positive is None:
                positive = int(other)
            if not alike and negative is None:
                negative = int(other)
            if positive is not None and negative is not None:
                found.append((int(anchor), positive, negative))
                break
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    return Triplets(*(list(one) for one in columns))


def triplet_loss(
    anchors: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, margin: float
) -> torch.Tensor:
    """Mean of max(0, d(a, p) - d(a, n) + margin) over triplets, d the Euclidean distance; embeddings [T, D] of unit length."""
    gap = (anchors - positives).norm(dim=-1) - (anchors - negatives).norm(dim=-1)
    return (gap + margin).clamp(min=0).mean()


def learnt_map(
    points: torch.Tensor, triplets: Triplets, *, margin: float, steps: int, learning_rate: float, seed: int
) -> torch.Tensor:
    """[n, D] embeddings of unit length under a linear map that starts from none and goes down the triplet loss (Adam)."""
    if not len(triplets.anchors):
        return points
    width = points.shape[1]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.eye(width, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=learning_rate)
    parts = [torch.tensor(one) for one in (triplets.anchors, triplets.positives, triplets.negatives)]
    for _ in range(steps):
        rows = torch.randint(len(parts[0]), (min(64, len(parts[0])),), generator=generator)
        near, like, unlike = (
            torch.nn.functional.normalize(points[one[rows]] @ weight, dim=-1) for one in parts
        )
        loss = triplet_loss(near, like, unlike, margin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return torch.nn.functional.normalize(points @ weight, dim=-1)


def leaders(points: NDArray[Any], thresholds: Sequence[float]) -> NDArray[np.intp]:
    """Positions of the kept points, rising: under each distance in turn, the first of those that are nearer to each other.

    Args:
        points: [n, D].
        thresholds: growing distances; what one leaves goes on to the next.
    """
    kept = np.arange(len(points))
    for threshold in thresholds:
        chosen: list[int] = []
        for one in kept:
            if not chosen or np.linalg.norm(points[chosen] - points[one], axis=1).min() >= threshold:
                chosen.append(int(one))
        kept = np.array(chosen, dtype=np.intp)
    return kept


@dataclass
class Diverse:
    """A choice: one record of each group of like tasks.

    Args:
        text: of a record.
        encode: texts to embeddings of unit length [n, D].
        thresholds: growing distances between 0 and 2, under which groups are formed.
        coarse, fine, margin, steps: of the map that is learnt; with no steps the encoder's own embeddings count.
    """

    name: str
    text: Callable[[Row], str]
    encode: Callable[[Sequence[str]], torch.Tensor]
    thresholds: Sequence[float]
    coarse: int = 8
    fine: int = 4
    template: float = 0.6
    margin: float = 0.2
    steps: int = 200
    seed: int = 0
    needs: Sequence[str] = ()

    def sketch(self, rows: Sequence[Row]) -> NDArray[Any]:
        if not rows:
            return np.empty(0, dtype=[("point", "f4", 1), ("text", f"S{_BYTES}")])
        texts = [self.text(row) for row in rows]
        points = self.encode(texts).numpy()
        found = np.empty(len(rows), dtype=[("point", "f4", points.shape[1]), ("text", f"S{_BYTES}")])
        found["point"] = points
        found["text"] = [one.encode("utf-8", "surrogatepass")[:_BYTES] for one in texts]
        return found

    def choose(self, sketches: NDArray[Any]) -> Picks:
        if not len(sketches):
            return Picks([], "")
        points = np.array(sketches["point"], dtype=np.float32)
        if self.steps:
            texts = [bytes(one).decode("utf-8", "ignore") for one in sketches["text"]]
            clusters = fine_clusters(points, self.coarse, self.fine, seed=self.seed)
            triplets = mine_triplets(
                texts, clusters, threshold=self.template, most=_MOST_TRIPLETS, seed=self.seed
            )
            points = learnt_map(
                torch.from_numpy(points),
                triplets,
                margin=self.margin,
                steps=self.steps,
                learning_rate=1e-3,
                seed=self.seed,
            ).numpy()
        kept = leaders(points, self.thresholds)
        return Picks(kept, f"like another (nearer than {self.thresholds[-1]:g})")
