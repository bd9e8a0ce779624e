"""From encoded records to the tensors an objective reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.data.encoding import EncodedRecord
from coalign.models.types import Responses
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
    """

    ids: list[str]
    responses: Responses
    record_index: Tensor
    values: Tensor
    extras: dict[str, Tensor]

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
    """

    contexts: tuple[EncodedRecord, ...]
    id: str
    extras: dict[str, list[float]]


def collate(examples: Sequence[Example]) -> dict[str, Batch]:
    """Make a batch: responses grouped by record, values flat; no padding anywhere."""
    encoded = [one for example in examples for one in example.contexts]
    owners = [
        row for row, example in enumerate(examples) for one in example.contexts for _ in one.response_ids
    ]
    masks = None
    if any(one.trained is not None for one in encoded):
        masks = [
            mask
            for one in encoded
            for mask in (one.trained or [[True] * len(ids) for ids in one.response_ids])
        ]
    batch = Batch(
        ids=[example.id for example in examples],
        responses=Responses(
            prompt_ids=[one.prompt_ids for one in encoded],
            response_ids=[ids for one in encoded for ids in one.response_ids],
            prompt_index=[index for index, one in enumerate(encoded) for _ in one.response_ids],
            trained=masks,
        ),
        record_index=torch.tensor(owners),
        values=torch.tensor([value for one in encoded for value in one.values], dtype=torch.float32),
        extras=_extras(examples),
    )
    return {"batch": batch}


def _extras(examples: Sequence[Example]) -> dict[str, Tensor]:
    names = examples[0].extras.keys()
    columns = {name: [value for example in examples for value in example.extras[name]] for name in names}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in columns.items()}
