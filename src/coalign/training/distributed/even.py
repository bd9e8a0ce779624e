"""Examples that processes cannot share evenly: the last step of an epoch holds each of them once all the same.

accelerate would fill the last forward passes with examples from the beginning of the epoch, and train on these twice. Here
what fills them is not counted, and a process without an example of its own computes one for nothing: a forward pass of a
sharded model waits for all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

from torch.utils.data import Sampler

COUNTED = "counted"
"""In a batch of one of several processes: whether it counts."""


class Evenly(Sampler[int]):
    """The order of another sampler, filled up until it can be shared; ~i fills in the place of example i.

    Args:
        share: examples of one forward pass, over all processes.
    """

    def __init__(self, sampler: Sampler[int], share: int) -> None:
        self.sampler: Any = sampler
        self.share = share

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.share) * self.share

    def __iter__(self) -> Iterator[int]:
        order = list(self.sampler)
        yield from order
        yield from [~order[0]] * (len(self) - len(order))


class Filler:
    """An example that only fills a forward pass."""

    def __init__(self, example: Any) -> None:
        self.example = example


class WithFillers:
    """Examples under the indices of `Evenly`."""

    def __init__(self, examples: Sized) -> None:
        self.examples: Any = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index] if index >= 0 else Filler(self.examples[~index])


def without_fillers(collate: Callable[[Sequence[Any]], dict[str, Any]]) -> Callable[[Sequence[Any]], Any]:
    """A collation that leaves fillers out; a batch of nothing else is of one of them, and does not count."""

    def counted(examples: Sequence[Any]) -> dict[str, Any]:
        real = [one for one in examples if not isinstance(one, Filler)]
        return {**collate(real or [examples[0].example]), COUNTED: bool(real)}

    return counted
