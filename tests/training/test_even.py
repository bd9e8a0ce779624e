"""Orders that are filled up until processes can share them."""

from __future__ import annotations

import pytest
from torch.utils.data import SequentialSampler

from coalign.training.checkpoints import EpochShuffle
from coalign.training.distributed.even import COUNTED, Evenly, WithFillers, without_fillers


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("share", [1, 2, 4, 6])
def test_every_example_counts_once_and_all_get_as_many(size: int, share: int) -> None:
    examples = WithFillers([f"example {index}" for index in range(size)])
    order = Evenly(SequentialSampler(range(size)), share)
    indices = list(order)
    assert len(indices) == len(order)
    assert len(indices) % share == 0
    assert len(indices) - size < share
    collate = without_fillers(lambda rows: {"ids": list(rows)})
    batches = [
        collate([examples[index] for index in indices[start : start + 2]])
        for start in range(0, len(indices), 2)
    ]
    counted = [name for batch in batches if batch[COUNTED] for name in batch["ids"]]
    assert counted == [f"example {index}" for index in range(size)]
    assert all(len(batch["ids"]) == 1 for batch in batches if not batch[COUNTED])


def test_epochs_are_those_of_the_order_within() -> None:
    filled, plain = Evenly(EpochShuffle(5, 3), 4), EpochShuffle(5, 3)
    first = list(filled)
    for one in (filled, plain):
        one.set_epoch(1)
    assert list(filled)[:5] == list(plain) != first[:5]
