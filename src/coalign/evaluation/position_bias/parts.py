"""Cutting two answers into aligned parts: of equal length, or as similar as possible part by part.

An answer is first cut into pieces that must stay whole (sentences, list items, fenced blocks of code). A split into k
parts is k - 1 increasing cuts between pieces; nothing is dropped, changed or moved.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.judging.protocol import JudgeItem, PairVerdict
from coalign.measures.texts.text_units import sentence_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_WORD = re.compile(r"\w+")
_EQUAL = 1e-12
"""Totals that differ by less count as equal: sums of the same fractions in another order do."""

Cuts = tuple[int, ...]
Stage = Literal["length", "semantic", "none"]


def pieces_of(text: str) -> list[str]:
    """A text in pieces that must stay whole; joined, they are the text.

    A piece is a sentence (also a line, a list item with its mark) or a whole fenced block of code, an unclosed one
    reaching to the end. White space after a piece belongs to it, and stretches without a word to the piece before.
    """
    ends = [end for end in sentence_ends(text) if not any(low < end < high for low, high in _blocks(text))]
    ends += [place for block in _blocks(text) for place in block if 0 < place < len(text)]
    bounds = [0, *sorted(set(ends)), len(text)]
    found: list[str] = []
    for start, end in itertools.pairwise(bounds):
        piece = text[start:end]
        if (found and not _WORD.search(piece)) or (found and not _WORD.search(found[-1])):
            found[-1] += piece
        elif piece:
            spaces = len(piece) - len(piece.lstrip())
            if found and spaces:
                found[-1] += piece[:spaces]
                piece = piece[spaces:]
            found.append(piece)
    return found or [text]


def _blocks(text: str) -> list[tuple[int, int]]:
    """Start and end of every fenced block."""
    found: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and fence[0].strip() == fence[1]:
            found.append((opened.start(), min(fence.end() + 1, len(text))))
            opened = None
    return [*found, (opened.start(), len(text))] if opened else found


def common_parts(first: Sequence[str], second: Sequence[str], k: int) -> int:
    """How many parts both answers can have: k, or fewer where an answer has fewer pieces.

    Raises:
        ValueError: k below 1, or an answer without pieces.
    """
    if k < 1 or not first or not second:
        raise ValueError(f"{k} parts of {len(first)} and {len(second)} pieces, expected at least 1 of each")
    return min(k, len(first), len(second))


def length_cuts(pieces: Sequence[str], k: int) -> Cuts:
    """Cuts into k parts of as equal length as possible.

    The length of a piece is its characters without outer white space. For i = 1 .. k - 1 the cut whose cumulative
    length is nearest to i / k of the whole is taken among those that leave at least one piece to every part, the
    earlier one of two that are equally near.
    """
    lengths = [len(one.strip()) for one in pieces]
    totals = [0, *np.cumsum(lengths).tolist()]
    cuts: list[int] = []
    for i in range(1, k):
        target = i * totals[-1] / k
        legal = range((cuts[-1] if cuts else 0) + 1, len(pieces) - (k - i) + 1)
        cuts.append(min(legal, key=lambda cut: (abs(totals[cut] - target), cut)))
    return tuple(cuts)


def similarity(first: str, second: str) -> float:
    """Overlap of the words of two texts: |A and B| / |A or B| of their lower-case `\\w+` sets, 0 where both are empty."""
    a, b = set(_WORD.findall(first.lower())), set(_WORD.findall(second.lower()))
    return len(a & b) / len(a | b) if a | b else 0.0


@dataclass(frozen=True)
class Alignment:
    """The best pair of splits.

    Attributes:
        first, second: cuts of either answer.
        total: similarity summed over the parts.
    """

    first: Cuts
    second: Cuts
    total: float


def semantic_cuts(first: Sequence[str], second: Sequence[str], k: int) -> Alignment:
    """The splits of both answers into k parts whose parts are most similar, pair by pair.

    Of several optima the first in lexicographic order is taken, by the cuts of the first answer and then the second's:
    what a search over all pairs of splits in that order finds first. Found by dynamic programming, in
    O(k n^2 m^2) for n and m pieces.
    """
    table = _Overlaps(first, second)
    rest = _best_rests(table, k)
    best = float(rest[0][0, 0])
    cuts_1 = _first_cuts(table, rest, k, best)
    cuts_2 = _second_cuts(table, cuts_1, k, best)
    return Alignment(cuts_1, cuts_2, best)


def parts_of(pieces: Sequence[str], cuts: Cuts, *, joint: str = "") -> tuple[str, ...]:
    """The parts that the cuts make, without outer white space."""
    bounds = [0, *cuts, len(pieces)]
    return tuple(joint.join(pieces[start:end]).strip() for start, end in itertools.pairwise(bounds))


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came of a pair.

    Attributes:
        comparison: of the last stage that was judged; its cost is that of all stages.
        stage: whose verdict it is; `none` where both orders never agreed.
        parts: how many (k, or fewer where an answer is shorter).
        cuts: of both answers, in pieces, in the last stage.
    """

    comparison: PairVerdict
    stage: Stage
    parts: int
    cuts: tuple[tuple[int, ...], tuple[int, ...]]


def in_parts(item: JudgeItem, k: int, *, semantic: bool) -> tuple[JudgeItem, int, Any]:
    """The item with its answers in aligned parts, how many there are, and the cuts. One part leaves it as it is."""
    first, second = map(pieces_of, item.responses)
    count = common_parts(first, second, k)
    if semantic:
        found = semantic_cuts(first, second, count)
        cuts = (found.first, found.second)
    else:
        cuts = (length_cuts(first, count), length_cuts(second, count))
    if count == 1:
        return replace(item, parts=()), 1, cuts
    return replace(item, parts=(parts_of(first, cuts[0]), parts_of(second, cuts[1]))), count, cuts


class _Overlaps:
    """Similarities of all stretches of two lists of pieces, computed for one start in the first list at a time."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        words = [[set(_WORD.findall(one.lower())) for one in side] for side in (first, second)]
        index = {word: place for place, word in enumerate(sorted(set().union(*words[0], *words[1])))}
        self.n, self.m = len(first), len(second)
        self._first = _incidence(words[0], index)
        rows = _incidence(words[1], index)
        self.starts, self.ends = (np.array(one) for one in zip(*_stretches(self.m), strict=True))
        self._stretches = _unions(rows)
        self._sizes = self._stretches.sum(1)

    def from_start(self, start: int) -> NDArray[np.float64]:
        """[n - start, stretches of the second list] for the stretches [start, start + 1 ..) of the first."""
        mine = np.maximum.accumulate(self._first[start:], axis=0)
        shared = (mine @ self._stretches.T).astype(np.float64)
        joint = mine.sum(1, dtype=np.float64)[:, None] + self._sizes - shared
        return np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)


def _incidence(pieces: Sequence[set[str]], index: dict[str, int]) -> NDArray[np.float32]:
    rows = np.zeros((len(pieces), max(len(index), 1)), dtype=np.float32)
    for place, words in enumerate(pieces):
        rows[place, [index[word] for word in words]] = 1
    return rows


def _stretches(count: int) -> list[tuple[int, int]]:
    return [(start, end) for start in range(count) for end in range(start + 1, count + 1)]


def _unions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.maximum.accumulate(rows[start:], axis=0) for start in range(len(rows))])


def _best_rests(table: _Overlaps, k: int) -> list[NDArray[np.float64]]:
    """[k + 1] of [n + 1, m + 1]: the best total of parts i .. k - 1 when they begin at pieces a and b; -inf: none."""
    shape = (table.n + 1, table.m + 1)
    rest = [np.full(shape, -np.inf) for _ in range(k + 1)]
    rest[k][table.n, table.m] = 0.0
    for a in range(table.n - 1, -1, -1):
        overlaps = table.from_start(a)
        for i in range(k):
            totals = (overlaps + rest[i + 1][a + 1 :, :][:, table.ends]).max(0)
            np.maximum.at(rest[i][a], table.starts, totals)
    return rest


def _first_cuts(table: _Overlaps, rest: list[NDArray[np.float64]], k: int, best: float) -> Cuts:
    """The first cuts of the first answer in lexicographic order with which the best total can be had."""
    reached = np.full(table.m + 1, -np.inf)  # best total so far, by the place reached in the second answer
    reached[0] = 0.0
    cuts: list[int] = []
    start = 0
    for i in range(k - 1):
        sums = reached[table.starts] + table.from_start(start)
        for end in range(start + 1, table.n + 1):
            after = np.full(table.m + 1, -np.inf)
            np.maximum.at(after, table.ends, sums[end - start - 1])
            if (after + rest[i + 1][end]).max() >= best - _EQUAL:
                cuts.append(end)
                reached, start = after, end
                break
    return tuple(cuts)


def _second_cuts(table: _Overlaps, cuts: Cuts, k: int, best: float) -> Cuts:
    """The first cuts of the second answer with which those of the first have the best total."""
    bounds = [0, *cuts, table.n]
    parts = [table.from_start(start)[end - start - 1] for start, end in itertools.pairwise(bounds)]
    rest = [np.full(table.m + 1, -np.inf) for _ in range(k + 1)]
    rest[k][table.m] = 0.0
    for i in range(k - 1, -1, -1):
        np.maximum.at(rest[i], table.starts, parts[i] + rest[i + 1][table.ends])
    found: list[int] = []
    place, total = 0, 0.0
    for i in range(k - 1):
        for index in np.flatnonzero(table.starts == place):
            end = int(table.ends[index])
            if total + parts[i][index] + rest[i + 1][end] >= best - _EQUAL:
                total += float(parts[i][index])
                found.append(end)
                place = end
                break
    return tuple(found)
