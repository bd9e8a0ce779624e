"""Similarity of texts by their matching blocks, many pairs at once: the ratio of Python's difflib to the last bit.

The longest common block is taken first (of equal ones the first in the first text, then in the second), then the
longest on its left and on its right, and so on (Ratcliff and Obershelp 1988). That is a lower bound of the longest
common subsequence, and depends on which text is first.

Blocks are found in bits: for each character of the first text, the places of the second where it stands. A run of k
equal characters is a run of k-1 moved by one place, so runs are doubled until none is left and the longest is pieced
together of powers of two, for all pairs of a batch at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint64]
    Numbers = NDArray[np.int64]

LONG = 200
"""Characters of the second text from which on difflib takes no block from its popular characters."""
_WORD = 64
_BATCH_WORDS = 1 << 16
"""Words of bits worked on at once: about what a core's own cache holds."""
_TABLE_WORDS = 1 << 22
"""Words of the table of places, which one batch of second texts may have."""


def block_similarities(
    first: Sequence[str],
    second: Sequence[str],
    pairs: Sequence[tuple[int, int]] | Numbers,
    *,
    popular: bool = False,
) -> NDArray[np.float64]:
    """`2 M / (len(a) + len(b))` of each pair, M the characters in matching blocks; 1 where both texts are empty.

    Args:
        first, second: the texts.
        pairs: [N, 2] which of them to compare.
        popular: whether blocks may begin in any character. By default as difflib has it: characters that are more than
            1 % + 1 of a second text of 200 or more characters only lengthen blocks that others begin, so that long
            texts that are nearly equal may have a similarity of 0.

    Returns:
        [N].
    """
    wanted = np.asarray(pairs, np.int64).reshape(-1, 2).T
    ids = {text: place for place, text in enumerate([*first, *second])}
    ours, theirs = _Texts.of([*first, *second]).split(len(first))
    lengths = ours.lengths[wanted[0]], theirs.lengths[wanted[1]]
    named = (np.array([ids[one] for one in texts], np.int64) for texts in (first, second))
    equal = np.equal(*(names[chosen] for names, chosen in zip(named, wanted, strict=True)))
    matched = np.where(equal, lengths[0], 0)
    unlike = np.flatnonzero(~equal & (ours.groups()[wanted[0]] & theirs.groups()[wanted[1]] != 0))
    # Few words of bits first, and by the second text, so that a batch needs the places of few texts.
    words = -(-lengths[1][unlike] // _WORD)
    order = np.argsort(words * (len(second) + 1) + wanted[1, unlike], kind="stable")
    for chosen in _cut(unlike[order], words[order], wanted[1], ours.signs):
        matched[chosen] = _Batch(ours, theirs, wanted[:, chosen], popular).matched()
    total = lengths[0] + lengths[1]
    return np.where(total > 0, 2 * matched / np.maximum(total, 1), 1.0)


def _cut(order: Numbers, words: Numbers, second: Numbers, signs: int) -> list[Numbers]:
    """Pairs cut where the number of words of the second text changes, or the table of places would grow too large."""
    if not len(order):
        return []
    texts = np.cumsum(np.diff(second[order], prepend=second[order[0]]) != 0)
    full = texts // np.maximum(_TABLE_WORDS // (signs * (words + 1)), 1)
    return np.split(order, np.flatnonzero((np.diff(words) != 0) | (np.diff(full) != 0)) + 1)


@dataclass(frozen=True)
class _Texts:
    """Characters as numbers, all texts one after the other.

    Attributes:
        codes: below `signs`.
        begins: [texts + 1] where each text begins, and the end of the last.
    """

    codes: Numbers
    begins: Numbers
    signs: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Texts:
        points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        alphabet, codes = np.unique(points, return_inverse=True)
        return cls(codes, np.cumsum([0, *map(len, texts)]), len(alphabet))

    def split(self, count: int) -> tuple[_Texts, _Texts]:
        """The first `count` texts, and the others."""
        cut = self.begins[count]
        before = _Texts(self.codes[:cut], self.begins[: count + 1], self.signs)
        return before, _Texts(self.codes[cut:], self.begins[count:] - cut, self.signs)

    @property
    def lengths(self) -> Numbers:
        return np.diff(self.begins)

    def groups(self) -> Bits:
        """[texts] a bit for each of 64 groups of signs: texts without a common bit have no common character."""
        found = np.zeros(len(self.lengths), np.uint64)
        some = np.flatnonzero(self.lengths)
        if len(some):
            bits = np.uint64(1) << (self.codes % _WORD).astype(np.uint64)
            found[some] = np.bitwise_or.reduceat(bits, self.begins[some])
        return found


class _Batch:
    """Pairs whose second texts have the same number of words.

    Spans of texts that are still to be searched are columns of [5, spans]: pair, begin and end in the first text, begin
    and end in the second. Bits of many spans lie in [length, words, spans], so that every operation runs along them.
    """

    def __init__(self, first: _Texts, second: _Texts, pairs: Numbers, popular: bool) -> None:
        rows = np.flatnonzero(np.bincount(pairs[1]))
        self.first, self.second, self.signs = first, second, first.signs
        self.a, self.b = first.begins[pairs[0]], second.begins[pairs[1]]
        lengths = first.lengths[pairs[0]], second.lengths[pairs[1]]
        self.words = int(-(-lengths[1].max() // _WORD))
        self.places, skips = self._places(rows, popular)
        if self.words == 1:  # the empty word is not needed, and a view would be copied whenever it is read
            self.places = np.ascontiguousarray(self.places[:, 0])
        row = np.searchsorted(rows, pairs[1])
        self.table, self.skips = row * self.signs, skips[row]
        zero = np.zeros_like(row)
        self.spans = np.stack([np.arange(len(row)), zero, lengths[0], zero, lengths[1]])

    def _places(self, rows: Numbers, popular: bool) -> tuple[Bits, NDArray[np.bool_]]:
        """[rows * signs, words + 1] where each sign stands in some second texts, and which texts have signs left out.

        The last word is empty.
        """
        lengths = self.second.lengths[rows]
        row = np.repeat(np.arange(len(rows)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        sign = row * self.signs + self.second.codes[self.second.begins[rows][row] + place]
        bits = np.zeros((len(rows) * self.signs, self.words + 1), np.uint64)
        word, bit = np.divmod(place, _WORD)
        # No bit is added twice, so the sum is the union.
        np.add.at(bits.ravel(), sign * (self.words + 1) + word, np.uint64(1) << bit.astype(np.uint64))
        skips = (lengths >= LONG) & (not popular)
        if skips.any():
            counts = np.bincount(sign, minlength=len(bits)).reshape(len(rows), self.signs)
            left_out = skips[:, None] & (counts > lengths[:, None] // 100 + 1)
            bits[left_out.ravel()] = 0
        return bits, skips

    def matched(self) -> Numbers:
        """[pairs] characters in matching blocks."""
        found = np.zeros(self.spans.shape[1], np.int64)
        spans = self.spans
        while spans.shape[1]:
            left = [spans[:, :0]]
            for part, words in self._parts(spans):
                a_at, b_at, size = self._longest(part, words)
                some = np.flatnonzero(size)
                (pair, a_begin, a_end, b_begin, b_end), a_at, b_at, size = (
                    part[:, some],
                    a_at[some],
                    b_at[some],
                    size[some],
                )
                np.add.at(found, pair, size)
                before = (a_begin < a_at) & (b_begin < b_at)
                left.append(np.stack([pair, a_begin, a_at, b_begin, b_at])[:, before])
                after = (a_at + size < a_end) & (b_at + size < b_end)
                left.append(np.stack([pair, a_at + size, a_end, b_at + size, b_end])[:, after])
            spans = np.concatenate(left, 1)
        return found

    def _parts(self, spans: Numbers) -> Iterator[tuple[Numbers, int]]:
        """Spans of the same number of words in order of their length, cut so that none is too many bits."""
        lengths = spans[2] - spans[1]
        words = -(-(spans[4] - spans[3]) // _WORD) if self.words > 1 else np.ones_like(lengths)
        # Keys of two bytes are sorted in linear time.
        order = np.argsort(
            (words * (lengths.max() + 1) + lengths).astype(np.uint16 if self.words == 1 else np.int64),
            kind="stable",
        )
        for group in np.split(order, np.flatnonzero(np.diff(words[order])) + 1):
            begin, width = 0, int(words[group[0]])
            costs = lengths[group] * width
            while begin < len(group):
                some = costs[begin : begin + max(_BATCH_WORDS // int(costs[begin]), 1)]
                count = int(np.searchsorted(np.arange(1, len(some) + 1) * some, _BATCH_WORDS, side="right"))
                yield spans[:, group[begin : begin + max(count, 1)]], width
                begin += max(count, 1)

    def _longest(self, spans: Numbers, words: int) -> tuple[Numbers, Numbers, Numbers]:
        """Where the longest block of each span begins in both texts, and its size."""
        pair, a_begin, _, b_begin, _ = spans
        begins, size = _longest_runs(self._bits(spans, words))
        a_at, b_at = a_begin.copy(), b_begin.copy()
        rows = np.flatnonzero(size)
        place, bit = _first(begins)
        a_at[rows] += place
        b_at[rows] = bit if self.words == 1 else bit + b_begin[rows]
        rows = np.flatnonzero(self.skips[pair])
        if len(rows):
            a_at[rows], b_at[rows], size[rows] = self._grown(
                spans[:, rows], a_at[rows], b_at[rows], size[rows]
            )
        return a_at, b_at, size

    def _bits(self, spans: Numbers, words: int) -> Bits:
        """[length, words, spans] where the characters of the first text stand in the second, inside the spans.

        Bits count from the second text's begin, or from the span's where the text has several words.
        """
        pair, a_begin, a_end, b_begin, b_end = spans
        step = np.arange(int((a_end - a_begin).max()))[:, None]
        sign = self.first.codes.take(self.a[pair] + a_begin + step, mode="clip")
        sign += self.table[pair]
        inside = step < a_end - a_begin
        if self.words == 1:
            bits = self.places.take(sign)
            bits &= np.where(inside, _below(b_end) ^ _below(b_begin), np.uint64(0))
            return bits[:, None]
        word, shift = np.divmod(b_begin, _WORD)
        sign *= self.words + 1
        sign += word
        flat, down = self.places.ravel(), shift.astype(np.uint64)
        up = np.uint64(_WORD) - np.maximum(down, np.uint64(1))
        found = np.empty((len(step), words, len(pair)), np.uint64)
        current = flat.take(sign)
        for place in range(words):
            # The word after the last one is empty; a later one is of bits that are cut off below.
            following = flat.take(np.minimum(sign + place + 1, len(flat) - 1))
            found[:, place] = (current >> down) | np.where(down > 0, following << up, np.uint64(0))
            found[:, place] &= np.where(inside, _below(b_end - b_begin - place * _WORD), np.uint64(0))
            current = following
        return found

    def _grown(
        self, spans: Numbers, a_at: Numbers, b_at: Numbers, size: Numbers
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Blocks lengthened by equal characters of every kind on both sides; an empty one begins where its span does."""
        pair, a_begin, a_end, b_begin, b_end = spans
        a, b = self.a[pair], self.b[pair]
        back = self._equal(a + a_at - 1, b + b_at - 1, np.minimum(a_at - a_begin, b_at - b_begin), -1)
        most = np.minimum(a_end - a_at, b_end - b_at) - size
        return a_at - back, b_at - back, size + back + self._equal(a + a_at + size, b + b_at + size, most, 1)

    def _equal(self, a_at: Numbers, b_at: Numbers, most: Numbers, step: int) -> Numbers:
        """How many characters in a row are equal from two places on, in one direction, at most `most`."""
        far = step * np.arange(int(most.max(initial=0)) + 1)
        ours = self.first.codes.take(a_at[:, None] + far, mode="clip")
        theirs = self.second.codes.take(b_at[:, None] + far, mode="clip")
        return ((ours != theirs) | (abs(far) >= most[:, None])).argmax(1)


def _below(count: Numbers) -> Bits:
    """The lowest `count` bits, 0 to 64 of them."""
    kept = np.clip(count, 0, _WORD).astype(np.uint64)
    ones = (np.uint64(1) << (kept & np.uint64(_WORD - 1))) - np.uint64(1)
    return np.where(kept == _WORD, ~np.uint64(0), ones)


def _longest_runs(bits: Bits) -> tuple[Bits, Numbers]:
    """Where the longest diagonal runs of the rows that have some begin, and the length of each row's.

    Args:
        bits: [length, words, N], bit j of place i: the characters i and j are equal. A run goes on at i + 1, j + 1.

    Returns:
        [length, words, those above 0], and [N].
    """
    size = np.zeros(bits.shape[2], np.int64)
    powers, alive = [bits], [np.arange(bits.shape[2])]  # runs of 1, 2, 4, ... and the rows that have some
    while True:
        some = np.flatnonzero(np.bitwise_or.reduce(powers[-1], (0, 1)))
        if len(some) < len(alive[-1]):
            powers[-1], alive[-1] = powers[-1].take(some, 2), alive[-1][some]
        if not len(some):
            break
        powers.append(_followed(powers[-1], powers[-1], 1 << (len(powers) - 1)))
        alive.append(alive[-1])
    begins, rows = powers.pop(), alive.pop()
    while powers:
        length, power, having = 1 << (len(powers) - 1), powers.pop(), alive.pop()
        size[having] += length
        if len(rows):
            known = np.searchsorted(having, rows)
            more = _followed(power.take(known, 2), begins, length)
            some = np.bitwise_or.reduce(more, (0, 1)) != 0
            power[:, :, known] = np.where(some, more, begins)
            size[rows[~some]] -= length
        begins, rows = power, having
    return begins, size


def _followed(runs: Bits, others: Bits, length: int) -> Bits:
    """Where a run begins that one of `others` follows `length` characters on."""
    found = np.zeros_like(runs)
    places, words = runs.shape[0] - length, runs.shape[1]
    whole, part = divmod(length, _WORD)
    if places <= 0 or whole >= words:
        return found
    later, kept = others[length:], found[:places]
    np.right_shift(later[:, whole:], np.uint64(part), out=kept[:, : words - whole])
    if part and whole + 1 < words:
        kept[:, : words - whole - 1] |= later[:, whole + 1 :] << np.uint64(_WORD - part)
    kept &= runs[:places]
    return found


def _first(bits: Bits) -> tuple[Numbers, Numbers]:
    """[N] the first place of [places, words, N] with a bit, and the lowest bit there. Every column has one."""
    place = (np.bitwise_or.reduce(bits, 1) != 0).argmax(0)
    value = bits[place, :, np.arange(bits.shape[2])].T
    word = (value != 0).argmax(0)
    lowest = value[word, np.arange(bits.shape[2])]
    lowest &= ~lowest + np.uint64(1)
    return place, word * _WORD + np.log2(lowest.astype(np.float64)).astype(
        np.int64
    )  # powers of two are exact
