"""Which reference goes where: matching by cosine, the order of the places of a sheet, permutations of blocks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from coalign.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Place = tuple[int, int]
"""Column and row of a tile."""
GRID = 3
CENTRE: Place = (1, 1)
PLACES: tuple[Place, ...] = ((1, 0), (0, 0), (2, 0), (0, 1), (2, 1), (1, 1), (1, 2), (0, 2), (2, 2))
"""From the places that a generator attends to most to those that it attends to least. Source: the official code."""
PINNED: tuple[Place, ...] = ((1, 0), (1, 2), (0, 1), (2, 1))
"""Places of pinned pictures, in their order. Source: the official code."""
EXHAUSTIVE = 4
"""Elements up to which every permutation is tried. Our choice; the code has exactly three."""
DRAWN = 6
"""Permutations that are drawn for more elements. Our choice."""

T = TypeVar("T")


@dataclass(frozen=True)
class Matched:
    """The references of one element.

    Attributes:
        ranked: places in the pool, most similar first: the best that no earlier element reserved.
        tiles: those that are shown; of too few the list is repeated.
    """

    ranked: tuple[int, ...]
    tiles: tuple[int, ...]


def normalised(embeddings: ArrayLike) -> NDArray[np.float64]:
    """[N, D] in float64 with rows of length 1; a row of zeros stays."""
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def match_references(
    elements: ArrayLike, references: ArrayLike, *, top: int = 9, tiles: int = 3, block: int | None = None
) -> list[Matched]:
    """The references of each element, one element after the other; what one shows is not free for the next.

    Args:
        elements: [E, D] embeddings of the elements' texts, normalised here.
        references: [M, D] embeddings of the pictures. Of equal cosines the first picture counts.
        top: ranked references that an element keeps.
        tiles: of an element.
        block: references that an element reserves, by default `tiles`.

    Raises:
        DataError: no reference is left for an element.
    """
    cosines = normalised(elements) @ normalised(references).T
    free = np.ones(cosines.shape[1], bool)
    found = []
    for number, row in enumerate(cosines):
        places = np.flatnonzero(free)
        ranked = places[np.argsort(-row[places], kind="stable")][:top].tolist()
        if not ranked:
            raise DataError(
                f"no reference is left for element {number + 1} of {len(cosines)}: there are {cosines.shape[1]}, and "
                f"each element reserves {block or tiles}.",
                hint="Give more pictures, fewer elements, or fewer tiles an element.",
            )
        shown = tuple(itertools.islice(itertools.cycle(ranked), tiles))
        free[ranked[: block or tiles]] = False
        found.append(Matched(tuple(ranked), shown))
    return found


def permutations_of(count: int, seed: int) -> list[tuple[int, ...]]:
    """Orders of the elements: all of up to four in lexicographic order, else six different ones drawn from the seed."""
    if count <= EXHAUSTIVE:
        return list(itertools.permutations(range(count)))
    draw, found = random.Random(seed), [tuple(range(count))]
    while len(found) < DRAWN:
        order = tuple(draw.sample(range(count), count))
        if order not in found:
            found.append(order)
    return found


def arrange(
    blocks: Sequence[Sequence[T]],
    permutation: Sequence[int],
    *,
    pinned: Sequence[T] = (),
    skip_centre: bool = False,
) -> dict[Place, T]:
    """Place to what lies there.

    The blocks' tiles, in the order of the permutation, fill the places from the one that matters most; fewer tiles than
    places begin again. As the official code has it, the sixth tile lies in the centre, under the mask, where nobody sees
    it.

    Args:
        blocks: the tiles of each element.
        permutation: of the blocks.
        pinned: at most four, over what lies at `PINNED`.
        skip_centre: fill the eight places that are seen.
    """
    places = [one for one in PLACES if not (skip_centre and one == CENTRE)]
    tiles = [tile for number in permutation for tile in blocks[number]]
    found = dict(zip(places, itertools.cycle(tiles), strict=False)) if tiles else {}
    return found | dict(zip(PINNED, pinned, strict=False))


def replaced(matched: Matched, cosines: Sequence[float], used: Sequence[int]) -> Matched:
    """The element with the shown reference of the lowest similarity replaced by the next ranked one that no element
    shows; as it is where none is left.

    Args:
        cosines: [M] of the element with every reference.
        used: references that are shown.
    """
    unused = [one for one in matched.ranked if one not in used]
    if not unused:
        return matched
    worst = min(range(len(matched.tiles)), key=lambda place: cosines[matched.tiles[place]])
    tiles = [*matched.tiles]
    tiles[worst] = unused[0]
    return Matched(matched.ranked, tuple(tiles))


@dataclass(frozen=True)
class Scored:
    """Scores of candidates.

    Attributes:
        text: [C] cosine of each with the text.
        references: [C] mean cosine with the references that were shown.
        copies: [C] largest cosine with a reference: close to 1 the picture may be a copy of it.
        best: the place of the first with the largest `text + weight * references`.
    """

    text: NDArray[np.float64]
    references: NDArray[np.float64]
    copies: NDArray[np.float64]
    best: int


def score_candidates(
    candidates: ArrayLike, text: ArrayLike, references: ArrayLike, *, weight: float = 0.0
) -> Scored:
    """Score candidates [C, D] against a text [D] and the references [R, D] (no row: 0); all are normalised here.

    Args:
        weight: of the reference score in the choice; 0 is the official code's.
    """
    rows, shown = normalised(candidates), normalised(references)
    a = rows @ normalised(text)
    cosines = rows @ shown.T if shown.size else np.zeros((len(rows), 1))
    b, copies = cosines.mean(1), cosines.max(1)
    return Scored(a, b, copies, int(np.argmax(a + weight * b)))
