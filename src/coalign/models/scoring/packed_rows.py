"""Samples laid one after the other in rows of a fixed capacity, and how many activations are worth keeping.

The scoring engine lays a batch in rows without padding whatever is in it (`shared_prefix`); a plan of rows
says which samples share a batch, so that batches hold alike many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class PackedRows:
    """Which samples lie in which row.

    Attributes:
        rows: positions of samples, in their order.
        boundaries: for each row where its samples begin, and where the last ends: [0, len_1, len_1 + len_2, ...], which
            kernels of variable length take as `cu_seqlens`.
        capacity: tokens of a row.
        dropped: samples that are longer than a row.
    """

    rows: tuple[tuple[int, ...], ...]
    boundaries: tuple[tuple[int, ...], ...]
    capacity: int
    dropped: tuple[int, ...]

    @property
    def position_ids(self) -> list[list[int]]:
        """`[row][token]` positions, which begin anew with every sample."""
        return [
            [place for begin, end in pairwise(one) for place in range(end - begin)] for one in self.boundaries
        ]

    @property
    def utilisation(self) -> float:
        """Tokens of samples over tokens of rows; 0 without a row."""
        return (
            sum(one[-1] for one in self.boundaries) / (self.capacity * len(self.rows)) if self.rows else 0.0
        )


def sequential_pack(lengths: Sequence[int], capacity: int) -> PackedRows:
    """Rows in the order of the samples: one that does not fit any more begins the next row.

    Source: the Baichuan Alignment report (arXiv 2410.14940), section 2.2, and LongAlign (arXiv 2401.18058), section 3.2,
    which sorts nothing either.

    Args:
        lengths: tokens of each sample.
    """
    rows: list[list[int]] = []
    used = capacity
    dropped: list[int] = []
    for place, length in enumerate(lengths):
        if length > capacity:
            dropped.append(place)
            continue
        if used + length > capacity:
            rows.append([])
            used = 0
        rows[-1].append(place)
        used += length
    boundaries = tuple(tuple(accumulate((lengths[one] for one in row), initial=0)) for row in rows)
    return PackedRows(tuple(map(tuple, rows)), boundaries, capacity, tuple(dropped))


def padded_utilisation(lengths: Sequence[int], batch_size: int) -> float:
    """Tokens of samples over tokens of batches in which each is padded to its longest; 0 without a sample."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    padded = sum(max(one) * len(one) for one in batches)
    return sum(lengths) / padded if padded else 0.0


def checkpoint_cost(hidden_size: int, activations_per_layer: float, layers: int) -> list[float]:
    """Stored activations a token when k layers share a checkpoint, for k = 1 ... layers: H (k n) + H (L / k), the first while a
    group is computed anew, the second at the beginnings of groups. Least near k = sqrt(L / n).

    Source: the Baichuan Alignment report, section 2.2.
    """
    return [
        hidden_size * (k * activations_per_layer) + hidden_size * (layers / k) for k in range(1, layers + 1)
    ]
