"""From encoded records to the tensors an objective reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.data.encoding import EncodedRecord
from coalign.models.types import ResponseLogps, Responses
from coalign.training.objective import Normalisation


@dataclass(frozen=True)
class Batch:
    """Records of one forward pass.

    Attributes:
        ids: of the records, in order, for messages.
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

    def count(self, unit: Normalisation) -> int:
        """Records, or counted response tokens."""
        if unit == "records":
            return len(self.ids)
        if self.responses.trained is not None:
            return sum(map(sum, self.responses.trained))
        return sum(map(len, self.responses.response_ids))


@dataclass(frozen=True)
class Example:
    """One training example: a record, encoded under one prompt or under several (`Objective.contexts`).

    Attributes:
        contexts: the encoded record under each prompt; their responses, in order, are the record's rows.
        id: of the record, for messages.
        extras: the columns that the objective asked for.
        reference: for each response the log-probabilities of its counted tokens under the reference, where they were
            computed beforehand (`coalign.training.reference`).
    """

    contexts: tuple[EncodedRecord, ...]
    id: str
    extras: dict[str, list[float]]
    reference: tuple[Tensor, ...] | None = None

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
