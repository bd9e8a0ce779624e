"""From encoded records to the tensors an objective reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from coalign.core.errors import RecordProblem
from coalign.data.encoding import EncodedRecord
from coalign.data.prepared.many import OnDisk
from coalign.data.prepared.tokens import Lengths, TokenStore
from coalign.models.types import ResponseLogps, Responses
from coalign.training.objective import Normalisation

_SORTED = 50_000
"""Records whose responses are sorted at a time."""


@dataclass(frozen=True)
class Batch:
    """Records of one forward pass.

    Attributes:
        ids: of the records, in order, for messages.
        tags: the sources of the records, in order; empty where there is one source.
        responses: all their responses, as the scoring engine takes them.
        record_index: [B] the record of each response.
        values: [B] what the record says of the response (`ScoredBatch.values`).
        extras: [R] or [B] columns that the objective asked for.
        reference: log-probabilities under the reference, where all examples have them.
    """

    ids: list[str]
    responses: Responses
    record_index: Tensor
    values: Tensor
    extras: dict[str, Tensor]
    reference: ResponseLogps | None = None
    tags: tuple[str, ...] = ()

    def count(self, unit: Normalisation) -> int:
        """Records, those that have counted response tokens, or these tokens."""
        return sum(self.counts(unit))

    def counts(self, unit: Normalisation) -> list[int]:
        """Of each record: 1, whether it has counted response tokens, or how many."""
        if unit == "records":
            return [1] * len(self.ids)
        trained, tokens = self.responses.trained, [0] * len(self.ids)
        sizes = map(len, self.responses.response_ids) if trained is None else map(sum, trained)
        for row, size in zip(self.record_index.tolist(), sizes, strict=True):
            tokens[row] += size
        return [min(one, 1) for one in tokens] if unit == "sequences" else tokens


@dataclass(frozen=True)
class Prepared:
    """Examples of an objective, and what the length limits took.

    Attributes:
        truncated_prompts, truncated_responses: how many were cut.
        dropped: records whose prompt leaves no room for a response.
        same_tokens: records whose compared responses are the same tokens once they are cut: nothing is learnt from them.
    """

    examples: Sequence[Example]
    truncated_prompts: int = 0
    truncated_responses: int = 0
    dropped: tuple[RecordProblem, ...] = ()
    same_tokens: int = 0

    @cached_property
    def _lengths(self) -> Lengths:
        return lengths_of(self.examples)

    @property
    def responses(self) -> int:
        """Responses that are scored, those that the objective added included."""
        return len(self._lengths.responses)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once for all its responses: what the scoring engine computes."""
        return int(self._lengths.prompts.sum())

    @property
    def response_tokens(self) -> int:
        """Tokens of the responses."""
        return int(self._lengths.responses.sum())

    def by_source(self) -> dict[str, tuple[int, int]]:
        """Source of a mix to its examples and their tokens, each prompt counted once; empty where there is no mix."""
        if isinstance(self.examples, StoredExamples):
            names, places = self.examples.store.tags()
        else:
            names = list(dict.fromkeys(one.tag for one in self.examples))
            places = np.array([names.index(one.tag) for one in self.examples], dtype=np.int64)
        if not any(names):
            return {}
        counts = np.bincount(places, minlength=len(names))
        tokens = np.bincount(places, weights=tokens_of(self.examples), minlength=len(names))
        return {
            name: (int(count), int(total)) for name, count, total in zip(names, counts, tokens, strict=True)
        }

    def valued_lengths(self) -> tuple[float, float] | None:
        """Mean tokens of the best and of the worst response of each record that orders its responses, or of the
        responses of value 1 and of value 0 where records have one each; None where nothing is compared.
        """
        found = self._lengths
        total, count = np.zeros(2), np.zeros(2)
        records = int(found.owners[-1]) + 1 if len(found.owners) else 0
        # so many at a time that what is sorted takes little memory
        bounds = np.searchsorted(found.owners, np.arange(0, records + _SORTED, _SORTED))
        for start, end in itertools.pairwise(bounds.tolist()):
            some = slice(start, end)
            for place, lengths in enumerate(
                _best_and_worst(found.owners[some], found.values[some], found.responses[some])
            ):
                total[place] += lengths.sum()
                count[place] += len(lengths)
        best, worst = (total / np.maximum(count, 1)).tolist()
        return (best, worst) if count.all() else None


def _best_and_worst(
    owners: np.ndarray, values: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the best and of the worst responses; see `Prepared.valued_lengths`."""
    valued = np.flatnonzero(~np.isnan(values))
    if not len(valued):
        return lengths[:0], lengths[:0]
    # By record, value and length: of equals the longest is the best, the shortest the worst.
    order = valued[np.lexsort((lengths[valued], values[valued], owners[valued]))]
    owners, values, lengths = owners[order], values[order], lengths[order]
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    last = np.append(first[1:], len(owners)) - 1
    alone, differ = first == last, values[first] < values[last]
    liked = alone & (values[first] > 0.5)
    best = np.concatenate([last[differ], first[liked]])
    return lengths[best], lengths[np.concatenate([first[differ], first[alone & ~liked]])]


@dataclass(frozen=True)
class Example:
    """One training example: a record, encoded under one prompt or under several (`Objective.contexts`).

    Attributes:
        contexts: the encoded record under each prompt; their responses, in order, are the record's rows.
        id: of the record, for messages.
        extras: the columns that the objective asked for.
        reference: for each response the log-probabilities of its counted tokens under the reference, where they were
            computed beforehand (`coalign.training.reference`).
        tag: the record's source in a mix.
    """

    contexts: tuple[EncodedRecord, ...]
    id: str
    extras: dict[str, list[float]]
    reference: tuple[Tensor, ...] | None = None
    tag: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of prompts and responses, each prompt counted once."""
        return sum(len(one.prompt_ids) + sum(map(len, one.response_ids)) for one in self.contexts)

    def counts(self) -> list[int]:
        """Counted tokens of each response."""
        counts = []
        for one in self.contexts:
            masks = one.trained or [None] * len(one.response_ids)
            counts += [
                len(ids) if mask is None else sum(mask)
                for ids, mask in zip(one.response_ids, masks, strict=True)
            ]
        return counts


class StoredExamples(OnDisk[Example]):
    """The records of a token store as examples, each made when it is asked for.

    Args:
        reference: [T] log-probabilities of all counted tokens under the reference, where they were computed beforehand,
            and where those of each record end.
    """

    def __init__(self, store: TokenStore, reference: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        self.store = store
        self.reference = reference
        self.digest = store.digest

    def __len__(self) -> int:
        return len(self.store)

    def at(self, place: int) -> Example:
        made = Example(
            (self.store[place],), self.store.id(place), self.store.extras(place), tag=self.store.tag(place)
        )
        if self.reference is None:
            return made
        logps, ends = self.reference
        found = torch.tensor(logps[int(ends[place - 1]) if place else 0 : int(ends[place])])
        return replace(made, reference=tuple(torch.split(found, made.counts())))


def lengths_of(examples: Sequence[Example]) -> Lengths:
    """Of every context of the examples."""
    if isinstance(examples, StoredExamples):
        return examples.store.lengths()
    return Lengths.of([one for example in examples for one in example.contexts])


def tokens_of(examples: Sequence[Example]) -> np.ndarray:
    """[N] `Example.tokens` of each."""
    if isinstance(examples, StoredExamples):
        return examples.store.lengths().tokens
    return np.array([one.tokens for one in examples], dtype=np.int64)


def tags_of(examples: Sequence[Example]) -> set[str]:
    """The sources of the examples in a mix."""
    if isinstance(examples, StoredExamples):
        return set(examples.store.tags()[0])
    return {one.tag for one in examples}


def have_reference(examples: Sequence[Example]) -> bool:
    """Whether all carry their log-probabilities under the reference."""
    if isinstance(examples, StoredExamples):
        return examples.reference is not None
    return all(one.reference is not None for one in examples)


def collate(examples: Sequence[Example]) -> dict[str, Batch]:
    """Make a batch: responses grouped by record, values flat; no padding anywhere."""
    encoded = [one for example in examples for one in example.contexts]
    owners = [
        row for row, example in enumerate(examples) for one in example.contexts for _ in one.response_ids
    ]
    responses = responses_of_examples(examples)
    batch = Batch(
        ids=[example.id for example in examples],
        responses=responses,
        record_index=torch.tensor(owners),
        values=torch.tensor([value for one in encoded for value in one.values], dtype=torch.float32),
        extras=_extras(examples),
        reference=_reference(examples, responses),
        tags=tuple(example.tag for example in examples),
    )
    return {"batch": batch}


def responses_of_examples(examples: Sequence[Example]) -> Responses:
    """All responses of the examples, as the scoring engine takes them."""
    encoded = [one for example in examples for one in example.contexts]
    masks = None
    if any(one.trained is not None for one in encoded):
        masks = [
            mask
            for one in encoded
            for mask in (one.trained or [[True] * len(ids) for ids in one.response_ids])
        ]
    return Responses(
        prompt_ids=[one.prompt_ids for one in encoded],
        response_ids=[ids for one in encoded for ids in one.response_ids],
        prompt_index=[index for index, one in enumerate(encoded) for _ in one.response_ids],
        trained=masks,
        pictures=[one.pictures for one in encoded] if any(one.pictures for one in encoded) else None,
    )


def _reference(examples: Sequence[Example], responses: Responses) -> ResponseLogps | None:
    known = [example.reference for example in examples if example.reference is not None]
    if len(known) < len(examples):
        return None
    pieces = [piece for pieces in known for piece in pieces]
    lengths = torch.tensor([len(piece) for piece in pieces])
    return ResponseLogps(torch.cat(pieces), lengths, torch.tensor(responses.prompt_index))


def _extras(examples: Sequence[Example]) -> dict[str, Tensor]:
    names = examples[0].extras.keys()
    columns = {name: [value for example in examples for value in example.extras[name]] for name in names}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in columns.items()}
