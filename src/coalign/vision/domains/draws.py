"""What is drawn for views in other styles: the block, whose style, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Draw:
    """One view of every picture of a batch.

    Attributes:
        block: behind which, counted from 0, the maps are mixed.
        rows: [B] which style each is mixed with.
        shares: [B] of a picture's own style.
    """

    block: int
    rows: NDArray[np.int64]
    shares: NDArray[np.float64]


def draw_views(size: int, *stream: int, concentration: float = 0.1, styles: int | None = None) -> Draw:
    """Draw views for `size` pictures: behind the first or the second block alike, shares from Beta(a, a), and the styles of a
    random permutation of the batch, or of `styles` stored ones.

    Args:
        stream: numbers of the random stream (seed, step, ...): equal ones give equal views.
        concentration: a.
    """
    numbers = np.random.default_rng([*stream])
    block = int(numbers.integers(2))
    rows = numbers.permutation(size) if styles is None else numbers.integers(styles, size=size)
    return Draw(block, rows, numbers.beta(concentration, concentration, size=size))
