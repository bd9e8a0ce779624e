"""A translation memory that grows: sentence pairs, found again by fuzzy match; and a glossary."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch

from coalign.core.cache import cache_root
from coalign.core.files import append_rows, atomic_path, read_rows
from coalign.decoding.translation.prompts import Term
from coalign.judging.verifiers.context import FUNCTION_WORDS
from coalign.measures.texts.text_units import edit_units, find_phrases, fold, folded_words

if TYPE_CHECKING:
    from torch import Tensor

Retrieval = Literal["embeddings", "edit", "hybrid"]
"""Cosine of sentence embeddings; word-level edit similarity; the mean of both."""
_ROWS = 1024
"""Sentences whose similarities to all others are held at once."""
_WORTH_KEEPING = 64
"""Fewer sentences are embedded anew rather than kept on disk."""


class Encoder(Protocol):
    """Makes unit vectors of sentences."""

    def encode(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class TranslationUnit:
    """A sentence and its translation.

    Attributes:
        mt: what another system made of the source, if known.
        id: name in the file, if any.
    """

    source: str
    target: str
    mt: str | None = None
    id: str | None = None


class Match(NamedTuple):
    """An entry of the memory and how similar its source is."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # no tuple is searched for it
    score: float


@dataclass
class TranslationMemory:
    """Entries in the order in which they came.

    Args:
        encoder: for `embeddings` and `hybrid`.
        journal: file to which new entries are appended as soon as they come; what is there is read first.
    """

    units: list[TranslationUnit] = field(default_factory=list)
    retrieval: Retrieval = "embeddings"
    encoder: Encoder | None = None
    journal: Path | None = None
    _vectors: Tensor | None = field(default=None, repr=False)
    _queries: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.retrieval != "edit" and self.encoder is None:
            raise ValueError(f"retrieval {self.retrieval} needs an encoder")
        if self.journal:
            self.units += [TranslationUnit(**row) for row in read_rows(self.journal, repair=True)]

    def __len__(self) -> int:
        return len(self.units)

    def add(self, unit: TranslationUnit) -> None:
        """A new entry, found from now on, and safe on disk where there is a journal."""
        if self.journal:
            append_rows(self.journal, [vars(unit)])
        self.units.append(unit)

    def matches(
        self,
        source: str,
        count: int,
        *,
        leave_out: int | None = None,
        allow_exact: bool = False,
        max_similarity: float = 1.0,
    ) -> list[Match]:
        """The most similar entries, best first; of equal ones the earlier.

        Args:
            leave_out: an entry that must not be found (the sentence itself).
            allow_exact: also find entries with the very same source.
            max_similarity: leave out more similar entries (near-duplicates).
        """
        if not self.units or not count:
            return []
        scores = self._scores(source)
        unwanted = {leave_out} if leave_out is not None else set()
        if not allow_exact:
            unwanted |= {index for index, one in enumerate(self.units) if one.source == source}
        usable = (
            (-score, index)
            for index, score in enumerate(scores)
            if index not in unwanted and score <= max_similarity + 1e-9
        )
        return [Match(index, -score) for score, index in heapq.nsmallest(count, usable)]

    def forget(self, size: int) -> None:
        """Drop the entries after the first `size` (a memory without a journal)."""
        del self.units[size:]
        if self._vectors is not None:
            self._vectors = self._vectors[:size]

    def prepare(self, sources: Sequence[str]) -> None:
        """Embed the memory and sentences that will be looked up, all at once."""
        if self.encoder is not None and self.retrieval != "edit":
            self.vectors()
            self._queries = dict(zip(sources, self._encode(list(sources)), strict=True))

    def _scores(self, source: str) -> list[float]:
        if self.retrieval == "edit":
            return self._edit_scores(source)
        cosines = (self.vectors() @ self._query(source)).tolist()
        if self.retrieval == "embeddings":
            return cosines
        return [(one + other) / 2 for one, other in zip(cosines, self._edit_scores(source), strict=True)]

    def _edit_scores(self, source: str) -> list[float]:
        from rapidfuzz.distance import Levenshtein

        mine = edit_units(source)
        return [Levenshtein.normalized_similarity(mine, edit_units(one.source)) for one in self.units]

    def _query(self, source: str) -> Tensor:
        return self._queries[source] if source in self._queries else self._encode([source])[0]

    def vectors(self) -> Tensor:
        """[N, D] of all entries; only new ones are computed."""
        have = 0 if self._vectors is None else len(self._vectors)
        if have < len(self.units):
            new = self._encode([one.source for one in self.units[have:]])
            self._vectors = new if self._vectors is None else torch.cat([self._vectors, new])
        assert self._vectors is not None
        return self._vectors

    def _encode(self, texts: list[str]) -> Tensor:
        assert self.encoder is not None
        return self.encoder.encode(texts)


class KeptEncoder:
    """An encoder whose vectors of many sentences are kept on disk, under a hash of its name and of every sentence."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self._encoder, self._name = encoder, name

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n, D] vectors of unit length."""
        from safetensors.torch import load_file, save_file

        if len(texts) < _WORTH_KEEPING:
            return self._encoder.encode(texts)
        digest = hashlib.sha256(json.dumps([self._name, *texts]).encode()).hexdigest()[:32]
        path = cache_root() / "embeddings" / f"{digest}.safetensors"
        if path.exists():
            return load_file(path)["vectors"]
        vectors = self._encoder.encode(texts)
        with atomic_path(path) as temporary:
            save_file({"vectors": vectors.contiguous()}, temporary)
        return vectors


def mine_pairs(vectors: Tensor, count: int) -> list[tuple[float, int, int]]:
    """Unordered pairs (cosine, i, j), i < j, of every sentence with its `count` nearest others, by falling cosine.

    Args:
        vectors: [N, D], of any length above 0. Of equal neighbours those with the lower index are taken.
    """
    units = torch.nn.functional.normalize(vectors, dim=-1)
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(units), _ROWS):
        block = units[start : start + _ROWS] @ units.T
        for row, scores in enumerate(block, start=start):
            scores[row] = -torch.inf
            order = scores.sort(descending=True, stable=True).indices[: min(count, len(units) - 1)].tolist()
            found.update({(min(row, one), max(row, one)): float(scores[one]) for one in order})
    return sorted(
        ((score, *pair) for pair, score in found.items()), key=lambda one: (-one[0], one[1], one[2])
    )


def matches_in(pairs: Sequence[tuple[float, int, int]], index: int, count: int) -> list[Match]:
    """The first `count` partners of a sentence in mined pairs, best first."""
    found: list[Match] = []
    for score, first, second in pairs:
        if len(found) == count:
            break
        if index in (first, second):
            found.append(Match(second if index == first else first, score))
    return found


def terms_in(
    glossary: Sequence[Term], source: str, *, target: str | None = None, count: int | None = None
) -> list[Term]:
    """Terms whose source side occurs in a sentence as whole words, longest first; of equal length the earlier.

    Args:
        target: a translation that must have the target side too (as a folded substring).
        count: most terms.
    """
    wanted: dict[str, Term] = {}
    for pair in glossary:
        wanted.setdefault(fold(pair[0]), pair)
    words = set(folded_words(source))
    # Only terms that share a word with the sentence can occur in it; scripts without spaces are all tried.
    near = [one for one in wanted if words.intersection(folded_words(one)) or not folded_words(one)]
    present = set(find_phrases(source, near)) if near else set()
    found = [wanted[one] for one in sorted(present, key=lambda one: (-len(one), list(wanted).index(one)))]
    if target is not None:
        found = [one for one in found if fold(one[1]) in fold(target)]
    return found[:count]


def everyday(term: str) -> bool:
    """Whether a term found by a model is nothing but common English words, which no glossary would list."""
    return all(word in FUNCTION_WORDS or len(word) < 3 for word in folded_words(term))
