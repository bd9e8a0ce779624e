"""Groups of examples with one of every data set, for methods that compare or weigh data sets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from coalign.core.errors import DataError
from coalign.training.reward_models.task import RewardExample


def groups_of(
    examples: Sequence[RewardExample], size: int | None, seed: int
) -> list[tuple[RewardExample, ...]]:
    """Row k of every data set together, each brought to `size` rows: small ones repeat, large ones are cut, both shuffled.

    Args:
        size: by default that of the largest data set.

    Raises:
        DataError: there is one data set only.
    """
    by_tag: dict[str, list[RewardExample]] = {}
    for one in examples:
        by_tag.setdefault(one.tag, []).append(one)
    if len(by_tag) < 2:
        raise DataError(
            f"Data sets are weighed against each other, and all {len(examples)} records are of one.",
            hint="Give several files to --data, or name the data set of each record in a column `tag`.",
        )
    size = size or max(map(len, by_tag.values()))
    draw = random.Random(f"{seed}/groups")
    columns = [list(itertools.islice(_repeated(rows, draw), size)) for rows in by_tag.values()]
    return list(zip(*columns, strict=True))


def _repeated(rows: Sequence[RewardExample], draw: random.Random) -> Iterator[RewardExample]:
    while True:
        yield from draw.sample(rows, len(rows))
