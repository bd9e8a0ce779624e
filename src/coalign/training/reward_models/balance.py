"""Pairs in which length tells nothing: as many whose better response is longer as whose better response is shorter."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from coalign.core.errors import DataError
from coalign.core.files import read_rows, write_rows
from coalign.core.runs import Run
from coalign.report.model import TableSection
from coalign.training.reward_models.task import RewardExample

BALANCE = "length_balance.jsonl"
"""Artefact with the counts of each bucket."""


@dataclass(frozen=True)
class Bucket:
    """Pairs of one range of differences, as they were.

    Attributes:
        low, high: the difference is at least `low` and, unless it is None, below `high`; tokens.
        longer, shorter, equal: pairs whose better response is longer, shorter, as long.
    """

    low: int
    high: int | None
    longer: int
    shorter: int
    equal: int

    @property
    def kept(self) -> int:
        return 2 * min(self.longer, self.shorter) + self.equal

    @property
    def dropped(self) -> int:
        return self.longer + self.shorter + self.equal - self.kept


def balanced(
    differences: Sequence[int], edges: Sequence[int], order: Sequence[int] | None = None
) -> tuple[list[int], list[Bucket]]:
    """Places of the pairs that are kept, ascending, and the buckets (ChatGLM-RLHF, arXiv 2404.00934, section 2).

    Pairs are put into buckets by the absolute difference of their lengths; in each as many are kept whose better response is
    longer as whose better response is shorter. Pairs of equal length are kept.

    Args:
        differences: length of the better response less that of the worse one.
        edges: ascending; a difference that is an edge belongs to the bucket above it.
        order: in which pairs are taken; by default as they stand.
    """
    rows: list[tuple[list[int], list[int], list[int]]] = [([], [], []) for _ in range(len(edges) + 1)]
    for place in order if order is not None else range(len(differences)):
        apart = differences[place]
        rows[bisect.bisect_right(edges, abs(apart))][0 if apart > 0 else 1 if apart < 0 else 2].append(place)
    kept: list[int] = []
    for longer, shorter, equal in rows:
        fewest = min(len(longer), len(shorter))
        kept += [*longer[:fewest], *shorter[:fewest], *equal]
    ends = zip([0, *edges], [*edges, None], strict=True)
    buckets = [Bucket(*end, *map(len, sides)) for end, sides in zip(ends, rows, strict=True)]
    return sorted(kept), buckets


def balance_examples(
    examples: list[RewardExample], edges: Sequence[int], seed: int, run: Run
) -> list[RewardExample]:
    """The pairs that are kept, drawn with the seed; the counts of each bucket go into the run folder. Lengths are those of the texts
    as the model reads them.

    Raises:
        DataError: a record is no pair, or none is left.
    """
    if any(len(one.values) != 2 for one in examples):
        many = next(one for one in examples if len(one.values) != 2)
        raise DataError(
            f"balance_lengths: record {many.id} has {len(many.values)} responses, expected pairs.",
            hint="Leave --balance-lengths out, or make pairs of the rankings.",
        )
    differences = []
    for one in examples:
        better, worse = sorted(range(2), key=one.values.__getitem__, reverse=True)
        differences.append(len(one.inputs[better].ids) - len(one.inputs[worse].ids))
    order = [*range(len(examples))]
    random.Random(seed).shuffle(order)
    kept, buckets = balanced(differences, edges, order)
    write_rows(run.artefacts / BALANCE, [asdict(one) for one in buckets])
    if not kept:
        raise DataError(
            f"balance_lengths: none of {len(examples)} pairs is left: in every bucket the better response is always the longer "
            "one, or always the shorter one.",
            hint="Use fewer edges.",
        )
    return [examples[place] for place in kept]


def balance_section(run: Run) -> TableSection:
    """What was kept of every bucket, for the report."""
    buckets = [Bucket(**row) for row in read_rows(run.artefacts / BALANCE)]
    ranges = [
        f"{one.low} to {one.high - 1}" if one.high is not None else f"{one.low} or more" for one in buckets
    ]
    return TableSection(
        title="Lengths of pairs",
        note="Training pairs by the difference of their lengths, in tokens: as many are kept whose better response is longer as "
        "whose better response is shorter.",
        columns=("difference", "better is longer", "better is shorter", "equal", "kept", "dropped"),
        rows=[
            [name, one.longer, one.shorter, one.equal, one.kept, one.dropped]
            for name, one in zip(ranges, buckets, strict=True)
        ],
    )
