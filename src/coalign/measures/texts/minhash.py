"""Near duplicates among many texts: MinHash signatures of their n-grams of words, and what they connect (Broder 1997).

Signatures are rensa's (the extra `overlap`). N-grams are hashed here, all of a batch at once: a word has 8 bytes of its
BLAKE2b digest, an n-gram a mix of its words'. So a text has the same signature in every process and in every batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from coalign.core.extras import require
from coalign.measures.texts.text_units import fold, folded_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS, BANDS = 64, 16
"""Places of a signature, and the parts in which two are compared: a pair of similarity s agrees in all 4 places of some
part with a probability of 1 - (1 - s ** 4) ** 16.
"""
EXTRA, MODULE = "overlap", "rensa"
_SEED = 0
_KNOWN_WORDS = 200_000
"""Words whose hashes are kept; then they are forgotten and counted anew."""
_CHUNK = 65_536
_words: dict[str, int] = {}


def signatures(texts: Sequence[str], *, n: int = 3, permutations: int = PERMUTATIONS) -> NDArray[np.uint32]:
    """[texts, permutations] MinHash signatures of the n-grams of the texts' words.

    Words are compared without case and punctuation; a text of fewer than n words is one n-gram, and one without words
    is what it is. The share of places in which two signatures agree estimates the Jaccard similarity.

    Raises:
        MissingExtraError: rensa is not installed.
    """
    import numpy as np

    rensa: Any = require(MODULE, EXTRA)
    if not texts:
        return np.empty((0, permutations), dtype=np.uint32)
    words = [folded_words(text) or [fold(text)] for text in texts]
    if len(_words) > _KNOWN_WORDS:
        _words.clear()
    for word in set(chain.from_iterable(words)).difference(_words):
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        _words[word] = int.from_bytes(digest, "little")
    sizes = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    known = map(_words.__getitem__, chain.from_iterable(words))
    flat = np.fromiter(known, dtype=np.uint64, count=int(sizes.sum()))
    hashes, offsets = _ngram_hashes(flat, sizes, n)
    made = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, permutations, _SEED)
    places = chain.from_iterable(made.to_rows())
    return np.fromiter(places, dtype=np.uint32, count=len(texts) * permutations).reshape(-1, permutations)


def _ngram_hashes(
    words: NDArray[np.uint64], sizes: NDArray[np.int64], n: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes of all n-grams of a batch, one text after the other, and [texts + 1] where those of each begin.

    Args:
        words: hashes of the words of all texts, one after the other.
        sizes: [texts] words of each.
    """
    import numpy as np

    # a word of no text stands behind the short texts, so that each has one n-gram
    padded = np.maximum(sizes, n)
    ends = np.cumsum(padded)
    begins = ends - padded
    spread = np.full(int(ends[-1]), np.uint64(0x9E3779B97F4A7C15))
    inside = np.arange(len(words)) + np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
    spread[inside] = words
    mixed = np.zeros(len(spread) - n + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place in range(n):
            mixed = (mixed ^ spread[place : place + len(mixed)]) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
    counts = padded - n + 1
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    starts = np.ones(len(spread), dtype=bool)
    for back in range(1, n):
        starts[ends - back] = False
    return np.ascontiguousarray(mixed[starts[: len(mixed)]]), offsets


def connected(marks: NDArray[np.uint32], threshold: float, *, bands: int = BANDS) -> NDArray[np.int64]:
    """[texts] the same number for all texts that are near each other, or joined by others that are: the place of one.

    Two texts are near when their signatures agree in at least `threshold` of the places. Compared are neighbours, and each
    with the first, among signatures that are equal in all places of a band, ordered by the whole signature: what is
    connected does not depend on the order of the texts.

    Args:
        marks: [texts, permutations] signatures, in memory or on disk.

    Raises:
        ValueError: the bands do not divide the places of a signature.
    """
    import numpy as np

    count, permutations = marks.shape
    if permutations % bands:
        raise ValueError(f"{bands} bands of {permutations} permutations, expected bands of one size")
    width, root = permutations // bands, np.arange(count)
    whole = _keys(marks, 0, permutations)
    for band in range(bands):
        key = _keys(marks, band * width, width)
        order = np.argsort(key, kind="stable")
        same = key[order][1:] == key[order][:-1]
        alone = ~(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
        members = order[~alone]
        members = members[np.lexsort((whole[members], key[members]))]
        if not len(members):
            continue
        begins = np.concatenate([[True], key[members][1:] != key[members][:-1]])
        first = members[np.maximum.accumulate(np.where(begins, np.arange(len(members)), 0))]
        one = np.concatenate([members[:-1], first[1:]])
        two = np.concatenate([members[1:], members[1:]])
        wanted = np.concatenate([~begins[1:], ~begins[1:]]) & (root[one] != root[two])
        one, two = one[wanted], two[wanted]
        for start in range(0, len(one), _CHUNK):
            left, right = one[start : start + _CHUNK], two[start : start + _CHUNK]
            near = (marks[left] == marks[right]).mean(axis=1) >= threshold
            _unite(root, left[near], right[near])
        _flatten(root)
    return root


def _keys(marks: NDArray[np.uint32], start: int, width: int) -> NDArray[np.uint64]:
    """[texts] a hash of some places of each signature."""
    import numpy as np

    keys = np.empty(len(marks), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for row in range(0, len(marks), _CHUNK):
            part = np.zeros(len(marks[row : row + _CHUNK]), dtype=np.uint64)
            for place in range(start, start + width):
                part = (part ^ marks[row : row + _CHUNK, place]) * np.uint64(0x9E3779B97F4A7C15)
                part ^= part >> np.uint64(32)
            keys[row : row + _CHUNK] = part
    return keys


def _unite(root: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64]) -> None:
    """Join what two sides of edges belong to; the smaller place stands for both."""
    parent: dict[int, int] = {}

    def find(place: int) -> int:
        above = parent.get(place, place)
        while above != place:
            higher = parent.get(above, above)
            parent[place] = higher
            place, above = above, higher
        return place

    for left, right in zip(root[one].tolist(), root[two].tolist(), strict=True):
        a, b = find(left), find(right)
        if a != b:
            parent[max(a, b)] = min(a, b)
    for place in parent:
        root[place] = find(place)


def _flatten(root: NDArray[np.int64]) -> None:
    """Let every text point at what stands for all."""
    import numpy as np

    while not np.array_equal(above := root[root], root):
        root[:] = above
