"""GriTS: how alike two tables are, by the most similar parts of their grids (arXiv 2203.12555).

`GriTS_f = 2 sum_ij f(A_ij, B_ij) / (|A| + |B|)`, where the sum runs over rows and columns matched in order and f is a
reward in [0, 1] of two places of the grids:

top    topology: overlap of the cells that cover both places, seen from there
con    content: similarity of their texts
loc    location: overlap of their boxes on the page

Rows are matched by dynamic programming over the best order-preserving matches of their places, columns likewise; the
score sums the rewards where matched rows and columns cross. Two facts of the published code are kept, because scores
are compared across papers: overlap is the intersection by the smallest rectangle around both (not by the area of the
union), with coordinates in single precision; and text similarity is difflib's, which is not symmetric, so that scores
can change when the tables are swapped. `text="lcs"` takes the longest common subsequence that the paper names instead.

All inner matches of a pair of tables are computed at once, and texts of many pairs of tables together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from coalign.core.extras import require
from coalign.measures.texts.matching_blocks import block_similarities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

Kind = Literal["top", "con", "loc"]
KINDS: tuple[Kind, ...] = ("top", "con", "loc")
TextSimilarity = Literal["difflib", "blocks", "lcs"]
"""`difflib` as the published code; `blocks` without difflib's rule for popular characters of long texts; `lcs` exact."""
_TEXTS_AT_ONCE = 200_000
_PLACES_AT_ONCE = 1 << 16


class GridCell(Protocol):
    """What is read of a cell: the rows and columns that it covers, its text, its box (x0, y0, x1, y1) or None."""

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def columns(self) -> Sequence[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def box(self) -> Sequence[float] | None: ...


class Layer(NamedTuple):
    """What stands in the places of a grid.

    Attributes:
        values: different ones: texts, or rectangles x0, y0, x1, y1.
        at: [R, C] which of them.
    """

    values: Sequence[Any]
    at: Places


@dataclass(frozen=True)
class Grid:
    """A table as a grid; a cell that spans several places stands at each of them.

    Attributes:
        shape: rows and columns.
        top: the cells' spans relative to each place.
        con: their texts; "" is the first.
        loc: their boxes; the first is empty and stands for one that is missing.
        holes: places that no cell covers. They are blank cells of their own.
        overlaps: claims to a place that another cell has claimed; the last one has it.
    """

    shape: tuple[int, int]
    top: Layer
    con: Layer
    loc: Layer
    holes: int
    overlaps: int

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @classmethod
    def of(cls, cells: Iterable[GridCell]) -> Grid:
        """The grid of some cells, from row and column 0 to the last that a cell covers."""
        spans, texts = {(0, 0, 1, 1): 0}, {"": 0}
        boxes: dict[tuple[float, ...], int] = {(0.0, 0.0, 0.0, 0.0): 0}
        at: list[tuple[int, int, int, int, int]] = []
        for cell in cells:
            text = texts.setdefault(cell.text, len(texts))
            box = boxes.setdefault(tuple(cell.box), len(boxes)) if cell.box is not None else 0
            if len(cell.rows) == len(cell.columns) == 1:
                at.append((cell.rows[0], cell.columns[0], 0, text, box))
                continue
            for row in cell.rows:
                for column in cell.columns:
                    span = (
                        min(cell.columns) - column,
                        min(cell.rows) - row,
                        max(cell.columns) + 1 - column,
                        max(cell.rows) + 1 - row,
                    )
                    at.append((row, column, spans.setdefault(span, len(spans)), text, box))
        filled = np.array(at, np.intp).reshape(-1, 5)
        shape = (int(filled[:, 0].max(initial=-1)) + 1, int(filled[:, 1].max(initial=-1)) + 1)
        layers = np.zeros((*shape, 3), np.intp)
        layers[filled[:, 0], filled[:, 1]] = filled[:, 2:]
        claimed = len({one[:2] for one in at})
        kinds = (Layer([*one], layers[:, :, place]) for place, one in enumerate((spans, texts, boxes)))
        return cls(shape, *kinds, holes=shape[0] * shape[1] - claimed, overlaps=len(at) - claimed)


@dataclass(frozen=True)
class GriTS:
    """One score of a pair of tables.

    Attributes:
        score: F of precision and recall: GriTS.
        precision, recall: rewards by the places of the predicted and of the true table; 1 for a table without places.
        upper_bound: no choice of rows and columns has a higher score.
        exact: every place of both tables is matched with the full reward.
    """

    score: float
    precision: float
    recall: float
    upper_bound: float
    exact: bool


class Problem(NamedTuple):
    """What is to be matched: [R, C] and [R', C'] places of the true and the predicted table, so that the reward of two
    places is `rewards[true + predicted]`.
    """

    true: Places
    predicted: Places


class Alignment(NamedTuple):
    """Matched rows (or columns) of both tables, and the sum of their best matches."""

    true: list[int]
    predicted: list[int]
    total: float


def grits(
    pairs: Sequence[tuple[Grid, Grid]], kinds: Sequence[Kind] = KINDS, *, text: TextSimilarity = "difflib"
) -> list[dict[Kind, GriTS]]:
    """Scores of many (true, predicted) tables.

    Memory grows with the different cells of one pair of tables, squared, and a few million texts.

    Raises:
        MissingExtraError: `text` is `lcs` and rapidfuzz is not installed.
    """
    scores: list[dict[Kind, GriTS]] = []
    for begin, end in _windows(pairs):
        window = pairs[begin:end]
        parts = [
            _rewards([(getattr(one, kind), getattr(other, kind)) for one, other in window], kind, text)
            for kind in kinds
        ]
        starts = np.cumsum([_zeros(window), *(len(one) for one, _ in parts)])
        flat = np.concatenate([np.zeros(starts[0]), *(one for one, _ in parts)])
        problems = [
            Problem(start + true, predicted)
            for start, (_, places) in zip(starts[:-1], parts, strict=True)
            for true, predicted in places
        ]
        found = most_similar_parts(flat, problems)
        scores += [dict(zip(kinds, found[place :: len(window)], strict=True)) for place in range(len(window))]
    return scores


def _zeros(pairs: Sequence[tuple[Grid, Grid]]) -> int:
    """Rewards of 0 that a place beyond a table needs beside any place of the other one."""
    return max(predicted.size + 1 for _, predicted in pairs)


def _rewards(
    pairs: Sequence[tuple[Layer, Layer]], kind: Kind, text: TextSimilarity
) -> tuple[Floats, list[tuple[Places, Places]]]:
    """Rewards of all different values of each pair of layers, and the places of both layers whose sum is the reward's."""
    counts = [(len(true.values), len(predicted.values)) for true, predicted in pairs]
    begins = np.cumsum([(0, 0), *counts], 0)
    wanted = [
        np.indices(shape).reshape(2, -1) + begin[:, None]
        for shape, begin in zip(counts, begins[:-1], strict=True)
    ]
    ours, theirs = np.concatenate(wanted, 1)
    first = [one for true, _ in pairs for one in true.values]
    second = [one for _, predicted in pairs for one in predicted.values]
    rewards = (
        _alike(first, second, ours, theirs, text)
        if kind == "con"
        else overlaps(_boxes(first)[:, ours], _boxes(second)[:, theirs])
    )
    places, start = [], 0
    for (true, predicted), (rows, columns) in zip(pairs, counts, strict=True):
        places.append((start + true.at * columns, predicted.at))
        start += rows * columns
    return rewards, places


def _boxes(values: Sequence[Sequence[float]]) -> Floats:
    """[4, N] in single precision, as the published code's geometry has them."""
    return np.array(values, np.float32).astype(np.float64).T


def _alike(
    first: Sequence[str], second: Sequence[str], ours: Places, theirs: Places, text: TextSimilarity
) -> Floats:
    if text == "lcs":
        similarity = require("rapidfuzz.distance", "tables").Indel.normalized_similarity
        given = [first[one] for one in ours], [second[one] for one in theirs]
        return require("rapidfuzz.process", "tables").cpdist(*given, scorer=similarity, dtype=np.float64)
    return block_similarities(first, second, np.stack([ours, theirs], 1), popular=text == "blocks")


def mean_scores(scores: Sequence[Mapping[Kind, GriTS]]) -> dict[str, float]:
    """`grits_top`, ... means over tables, and `exact_top`, ... the shares of tables that are recognised exactly."""
    found: dict[str, float] = {}
    for kind in scores[0] if scores else ():
        found[f"grits_{kind}"] = float(np.mean([one[kind].score for one in scores]))
        found[f"exact_{kind}"] = float(np.mean([one[kind].exact for one in scores]))
    return found


def _windows(pairs: Sequence[tuple[Grid, Grid]]) -> Iterable[tuple[int, int]]:
    """Stretches of pairs whose texts are compared together."""
    begin = count = 0
    for place, (true, predicted) in enumerate(pairs):
        count += len(true.con.values) * len(predicted.con.values)
        if count >= _TEXTS_AT_ONCE:
            yield begin, place + 1
            begin, count = place + 1, 0
    if begin < len(pairs):
        yield begin, len(pairs)


def overlaps(ours: Floats, theirs: Floats) -> Floats:
    """Area of the intersection of boxes by that of the smallest rectangle around both; 0 where that is 0.

    Args:
        ours, theirs: [4, ...] x0, y0, x1, y1. A box without area overlaps with nothing.
    """
    (left, top, right, bottom), (x0, y0, x1, y1) = ours, theirs
    wide = np.clip(np.minimum(right, x1) - np.maximum(left, x0), 0, None)
    shared = wide * np.clip(np.minimum(bottom, y1) - np.maximum(top, y0), 0, None)
    area = (np.maximum(right, x1) - np.minimum(left, x0)) * (np.maximum(bottom, y1) - np.minimum(top, y0))
    return np.divide(shared, area, out=np.zeros_like(shared), where=shared > 0)


def most_similar_parts(rewards: Floats, problems: Sequence[Problem]) -> list[GriTS]:
    """The factored search (paper, section 4): rows and columns are matched each for themselves.

    Args:
        rewards: of all problems; the first ones are zeros, one for every place of a predicted table and one more.
    """
    by_row = _aligned(rewards, problems)
    by_column = _aligned(rewards, [Problem(one.true.T, one.predicted.T) for one in problems])
    return [_crossing(rewards, *one) for one in zip(problems, by_row, by_column, strict=True)]


def _crossing(rewards: Floats, problem: Problem, by_row: Alignment, by_column: Alignment) -> GriTS:
    ours = problem.true[by_row.true][:, by_column.true]
    theirs = problem.predicted[by_row.predicted][:, by_column.predicted]
    sizes = problem.true.size, problem.predicted.size
    total = float(rewards[ours + theirs].sum())
    score, precision, recall = f_score(total, *sizes)
    bound = f_score(min(by_row.total, by_column.total), *sizes)[0]
    return GriTS(score, precision, recall, bound, exact=total == sizes[0] == sizes[1])


def f_score(total: float, true: int, predicted: int) -> tuple[float, float, float]:
    """F, precision, recall of a sum of rewards; precision and recall are 1 of nothing, F is 0 where both are 0."""
    precision = total / predicted if predicted > 0 else 1.0
    recall = total / true if true > 0 else 1.0
    both = precision + recall
    return (2 * precision * recall / both if both > 0 else 0.0), precision, recall


def _aligned(rewards: Floats, problems: Sequence[Problem]) -> list[Alignment]:
    """How the rows of each pair of tables are matched: pairs of similar shape together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(problems):
        shape = tuple(map(_rounded, one.true.shape + one.predicted.shape))
        groups.setdefault(shape, []).append(place)
    found: dict[int, Alignment] = {}
    for (rows, columns, other_rows, other_columns), places in groups.items():
        at_once = max(_PLACES_AT_ONCE // max(rows * other_rows * other_columns, 1), 1)
        for begin in range(0, len(places), at_once):
            some = places[begin : begin + at_once]
            shapes = (rows, columns), (other_rows, other_columns)
            found.update(
                zip(some, _matched_rows(rewards, [problems[one] for one in some], *shapes), strict=True)
            )
    return [found[place] for place in range(len(problems))]


def _rounded(length: int) -> int:
    """The length as which one is padded, so that tables of similar shape go together."""
    step = 2 if length <= 8 else 4
    return -(-length // step) * step


def _matched_rows(
    rewards: Floats, problems: Sequence[Problem], shape: tuple[int, int], other: tuple[int, int]
) -> list[Alignment]:
    """Alignments of the rows of tables of at most these shapes."""
    ours = np.zeros((len(problems), *shape), np.intp)  # 0: a place beyond a table, where rewards are zeros
    theirs = np.zeros((len(problems), *other), np.intp)
    for place, one in enumerate(problems):
        ours[place, : one.true.shape[0], : one.true.shape[1]] = one.true
        theirs[place, : one.predicted.shape[0], : one.predicted.shape[1]] = one.predicted
    # best[..., j]: of the first j places of a predicted row, with the places of a true row so far. What stands beyond a
    # predicted table comes after its own places and is not read.
    best = np.zeros((len(problems), shape[0], other[0], other[1] + 1))
    for column in range(shape[1]):
        reward = rewards.take(ours[:, :, column, None, None] + theirs[:, None])
        reward += best[..., :-1]
        np.maximum(reward, best[..., 1:], out=reward)
        np.maximum.accumulate(reward, axis=-1, out=best[..., 1:])
    widths = np.array([one.predicted.shape[1] for one in problems])
    by_row = best[np.arange(len(problems)), :, :, widths]  # [tables, rows, predicted rows]
    table = np.zeros((len(problems), shape[0] + 1, other[0] + 1))
    for row in range(shape[0]):
        through = np.maximum(table[:, row, :-1] + by_row[:, row], table[:, row, 1:])
        np.maximum.accumulate(through, axis=-1, out=table[:, row + 1, 1:])
    return [
        _traced(sums, matches, len(one.true), len(one.predicted))
        for sums, matches, one in zip(table.tolist(), by_row.tolist(), problems, strict=True)
    ]


def _traced(table: list[list[float]], rewards: list[list[float]], i: int, j: int) -> Alignment:
    """The way back: a match is preferred to none, and skipping in the true table to skipping in the predicted one."""
    total = table[i][j]
    true: list[int] = []
    predicted: list[int] = []
    while i and j:
        here, above = table[i][j], table[i - 1]
        if above[j - 1] + rewards[i - 1][j - 1] == here:
            i, j = i - 1, j - 1
            true.append(i)
            predicted.append(j)
        elif above[j] == here:
            i -= 1
        else:
            j -= 1
    return Alignment(true[::-1], predicted[::-1], total)
