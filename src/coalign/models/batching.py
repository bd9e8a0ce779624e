"""Which rows of different lengths are computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def length_batches(lengths: Sequence[int], most_rows: Callable[[int], int]) -> list[list[int]]:
    """Rows of each batch, longest first, equal lengths in their order.

    Args:
        lengths: of the rows.
        most_rows: from the length of a batch's longest row to the most rows that it may hold; below 1 counts as 1.
    """
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        if not batches or len(batches[-1]) >= room:
            room = max(1, most_rows(lengths[row]))
            batches.append([])
        batches[-1].append(row)
    return batches
