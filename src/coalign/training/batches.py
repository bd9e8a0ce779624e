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
        records: the encoded records, in order.
        ids: their ids, for messages.
        responses: all their responses, as the scoring engine takes them.
        record_index: [B] the record of each response.
        values: [B] what the record says of the response (`ScoredBatch.values`).
        extras: [R] or [B] columns that the objective asked for.
    """

    records: list[EncodedRecord]
    ids: list[str]
    responses: Responses
    record_index: Tensor
    values: Tensor
    extras: dict[str, Tensor]

    def count(self, unit: Normalisation) -> int:
        """Records, or counted response tokens."""
        if unit == "records":
            return len(self.records)
        if self.responses.trained is not None:
            return sum(map(sum, self.responses.trained))
        return sum(map(len, self.responses.response_ids))


@dataclass(frozen=True)
class Example:
    """One training example: an encoded record, its id and the columns an objective asked for."""

    record: EncodedRecord
    id: str
    extras: dict[str, list[float]]


def collate(examples: Sequence[Example]) -> dict[str, Batch]:
    """Make a batch: responses grouped by record, values flat; no padding anywhere."""
    records = [example.record for example in examples]
    index = [row for row, record in enumerate(records) for _ in record.response_ids]
    masks = None
    if any(record.trained is not None for record in records):
        masks = [
            mask
            for record in records
            for mask in (record.trained or [[True] * len(ids) for ids in record.response_ids])
        ]
    batch = Batch(
        records=records,
        ids=[example.id for example in examples],
        responses=Responses(
            prompt_ids=[record.prompt_ids for record in records],
            response_ids=[ids for record in records for ids in record.response_ids],
            prompt_index=index,
            trained=masks,
        ),
        record_index=torch.tensor(index),
        values=torch.tensor([value for record in records for value in record.values], dtype=torch.float32),
        extras=_extras(examples),
    )
    return {"batch": batch}


def _extras(examples: Sequence[Example]) -> dict[str, Tensor]:
    names = examples[0].extras.keys()
    columns = {name: [value for example in examples for value in example.extras[name]] for name in names}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in columns.items()}


