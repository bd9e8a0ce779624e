"""A generator whose batches the processes of a launcher answer, each one at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

from coalign.models.backends.open import open_transformers
from coalign.models.generation.generator import GenerationJob, Meter, TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Generation
from coalign.training.distributed.shared_work import group_size, kept, share


def shared(
    opened: TransformersGenerator, options: ModelOptions, how: dict[str, Any]
) -> TransformersGenerator:
    """`opened`, of the process that leads, with all others behind it.

    Args:
        options, how: what `open_transformers` opened it by.
    """
    return SharedGenerator(opened, pickle.dumps((ModelOptions.of(options), how)))


class SharedGenerator(TransformersGenerator):
    """Batches are those of one process, and so is what they say. Prompts with pictures are answered by this process alone.

    Args:
        opened: the generator of this process.
        key: pickled arguments of `open_transformers`, by which the others open it.
    """

    def __init__(self, opened: TransformersGenerator, key: bytes) -> None:
        self.__dict__.update(vars(opened))
        self._opened, self._key = opened, key

    def _worked(
        self, plan: list[list[int]], job: GenerationJob, meter: Meter
    ) -> Iterator[dict[int, list[Generation]]]:
        if len(plan) < 2 or any(job.pictures):
            yield from super()._worked(plan, job, meter)
            return
        size = group_size()
        for start in range(0, len(plan), size):
            batches = plan[start : start + size]
            kept(self._key, lambda: self._opened)
            found = share(_answer, [_Batch(self._key, one, job.of(one)) for one in batches])
            for samples in found:
                answers = [one for each in samples.values() for one in each]
                meter.count(len(answers), sum(one.length for one in answers))
            yield from found


class _Batch(NamedTuple):
    """What one process answers."""

    key: bytes
    prompts: list[int]
    job: GenerationJob


def _answer(batch: _Batch) -> dict[int, list[Generation]]:
    generator = kept(batch.key, lambda: _open(batch.key))
    return generator.answer(batch.prompts, batch.job)


def _open(key: bytes) -> TransformersGenerator:
    options, how = pickle.loads(key)
    return open_transformers(options, **how)
