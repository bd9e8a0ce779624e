"""Whether what is evaluated on is trained on: prompts that both have, in the same words or nearly."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalign.core.extras import is_installed, require
from coalign.core.progress import progress
from coalign.data.records import Record, responses_of
from coalign.measures.texts.text_units import fold, folded_words, ngrams

NEAR = 0.7
"""Jaccard similarity of the word n-grams of two prompts from which one is nearly the other."""
N = 3
"""Words of these n-grams; a prompt of fewer words is one."""
PERMUTATIONS, BANDS = 128, 32
"""Of the MinHash: a pair at `NEAR` is compared with a probability of 1 - (1 - 0.7 ** 4) ** 32, above 0.999."""
EXTRA, MODULE = "overlap", "rensa"
_MANY = 20_000
"""Records to train on from which progress is shown."""


@dataclass(frozen=True)
class Match:
    """A record that is evaluated on, and one to train on with its prompt.

    Attributes:
        evaluated, trained: where they are.
        same: in the same words, else nearly.
        similarity: Jaccard similarity of their word n-grams.
        answered: whether they share a response too.
    """

    evaluated: str
    trained: str
    same: bool
    similarity: float
    answered: bool


@dataclass(frozen=True)
class Overlap:
    """What training and evaluation records share.

    Attributes:
        records: evaluation records.
        matches: of each that is trained on, the nearest record.
        near: whether near ones were looked for; without the extra only the same words are found.
    """

    records: int
    matches: Sequence[Match] = field(default_factory=tuple)
    near: bool = True

    @property
    def exact(self) -> int:
        """Evaluation records whose prompt is trained on in the same words."""
        return sum(one.same for one in self.matches)

    def told(self) -> str:
        """One sentence."""
        nearly = len(self.matches) - self.exact
        answered = sum(one.answered for one in self.matches)
        found = (
            f"{len(self.matches):,} of {self.records:,} evaluation records have a prompt that is trained on"
        )
        if not self.matches:
            found = f"none of the {self.records:,} evaluation records has a prompt that is trained on"
        else:
            found += (
                f": {self.exact:,} in the same words, {nearly:,} nearly; {answered:,} with the same response"
            )
            found += f" (the first: {self.matches[0].evaluated} and {self.matches[0].trained})"
        unseen = (
            f"; near ones were not looked for, which needs the extra {EXTRA} (pip install 'coalign[{EXTRA}]')"
        )
        return found + ("" if self.near else unseen)


def find_overlap(training: Sequence[Record], evaluated: Sequence[Record]) -> Overlap:
    """The evaluation records whose prompt is trained on.

    Prompts are compared without case, punctuation and white space; those without a prompt by their responses. System
    messages do not count. Near are prompts that share at least `NEAR` of their word n-grams (Jaccard); candidates are
    found by MinHash (Broder 1997), which needs the extra `overlap`, and then compared exactly, so that every match is
    one. Prompts that the training records repeat are compared once.
    """
    texts = [_words(one) for one in evaluated]
    places: dict[str, list[int]] = {}
    for place, words in enumerate(texts):
        places.setdefault(" ".join(words), []).append(place)
    index = (
        _NearIndex({place: texts[place] for (place, *_) in places.values()}) if is_installed(MODULE) else None
    )
    best: dict[int, Match] = {}
    seen: set[int] = set()
    bar = progress(len(training), "Comparing with the evaluation", "record")
    with bar if len(training) >= _MANY else contextlib.nullcontext() as shown:
        for record in training:
            if shown is not None:
                shown.advance()
            words = _words(record)
            text = " ".join(words)
            found = dict.fromkeys(places.get(text, ()), 1.0)
            if index is not None and (record.pictures or hash(text) not in seen):
                seen.add(hash(text))
                for first, similarity in index.near(words).items():
                    found.update(dict.fromkeys(places[" ".join(texts[first])], similarity))
            for place, similarity in found.items():
                if _shown(evaluated[place]) != _shown(record):
                    continue
                match = _match(evaluated[place], record, words == texts[place], similarity)
                if place not in best or _rank(best[place]) < _rank(match):
                    best[place] = match
    matches = tuple(best[place] for place in sorted(best))
    return Overlap(len(evaluated), matches, index is not None)


class _NearIndex:
    """Texts by their MinHash."""

    def __init__(self, texts: Mapping[int, list[str]]) -> None:
        self._minhash: Any = require(MODULE, EXTRA).RMinHash
        self._texts = texts
        self._grams = {place: _grams(words) for place, words in texts.items()}
        self._index = require(MODULE, EXTRA).RMinHashLSH(
            threshold=NEAR, num_perm=PERMUTATIONS, num_bands=BANDS
        )
        for place, grams in self._grams.items():
            self._index.insert(place, self._hashed(grams))

    def near(self, words: list[str]) -> dict[int, float]:
        """Texts that are near without being the same, each with its similarity."""
        grams = _grams(words)
        found = {}
        for place in self._index.query(self._hashed(grams)):
            other = self._grams[place]
            similarity = len(grams & other) / len(grams | other)
            if similarity >= NEAR and words != self._texts[place]:
                found[place] = similarity
        return found

    def _hashed(self, grams: set[str]) -> Any:
        made = self._minhash(num_perm=PERMUTATIONS, seed=0)
        made.update(sorted(grams))
        return made


def _shown(record: Record) -> tuple[str, ...]:
    """Its pictures: the same question on another picture is another prompt."""
    return tuple(one.key for one in record.pictures)


def _rank(match: Match) -> tuple[bool, float, bool]:
    return match.same, match.similarity, match.answered


def _match(evaluated: Record, trained: Record, same: bool, similarity: float) -> Match:
    answers = {" ".join(_folded(one)) for one in responses_of(evaluated)}
    answered = not answers.isdisjoint(" ".join(_folded(one)) for one in responses_of(trained))
    return Match(str(evaluated.source), str(trained.source), same, similarity, answered)


def _words(record: Record) -> list[str]:
    said = [one["content"] for one in record.prompt if one["role"] != "system"] or responses_of(record)
    return _folded("\n".join(said))


def _folded(text: str) -> list[str]:
    """The words of a text; of one without words, the text."""
    return folded_words(text) or [fold(text)]


def _grams(words: list[str]) -> set[str]:
    return {" ".join(one) for one in ngrams(words, min(N, len(words)))}
