"""A back end over a pool of workers (`coalign.core.engines`): each has a generator of its own and answers a batch at a time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from coalign.core.engines import ray_data
from coalign.core.engines.batches import Failed
from coalign.core.engines.options import EngineOptions
from coalign.core.errors import CoalignError, PromptError
from coalign.core.progress import progress
from coalign.data.records import Messages
from coalign.models import types
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Asked = tuple[int, Messages | str]
"""The place of a prompt among all, and the prompt."""


class PromptsFailedError(CoalignError):
    """Prompts that could not be answered, after all others were.

    Attributes:
        failed: place of each to what went wrong.
    """

    def __init__(self, failed: Mapping[int, str]) -> None:
        place, message = next(iter(failed.items()))
        super().__init__(f"{len(failed)} prompts failed. The first, prompt {place}: {message}")
        self.failed = dict(failed)


class SpreadGenerator:
    """A `Generator` whose prompts workers answer, with the texts of one process: random streams go by the places of prompts.

    Args:
        open_generator: called by each worker; it has to be picklable.
        models: of which the tokenizer is that of the workers' model.

    Attributes:
        last_stats: figures of the last call of `generate`.
    """

    def __init__(
        self, open_generator: Callable[[], types.Generator], models: ModelOptions, engine: EngineOptions
    ) -> None:
        self._open, self._models, self._engine = open_generator, ModelOptions.of(models), engine
        self.description = f"{models.model} by workers"
        self.last_stats = types.GenerationStats()

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from coalign.models.files.loading import load_tokenizer

        return load_tokenizer(self._models)

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """See `coalign.models.types.Generator.generate`. Where `on_batch` is given, samples go there and are not kept: the
        result is empty then.

        Raises:
            PromptsFailedError: prompts that raise, after all others are handed over.
            MissingExtraError, CoalignError: as `over_ray`.
        """
        done, on_batch, label = types.generating(**how)
        keeps, size = how.get("on_batch") is None, self._engine.worker_rows
        starts = [
            start
            for start in range(0, len(prompts), size)
            if not done.issuperset(range(start, min(start + size, len(prompts))))
        ]
        results: list[list[types.Generation]] = [[] for _ in prompts] if keeps else []
        failed: dict[int, str] = {}
        asked = sum(min(size, len(prompts) - start) for start in starts)
        samples, tokens, started = 0, 0, time.monotonic()
        with progress(asked * sampling.n, label, unit="sample") as bar:
            batches = _batches(prompts, starts, size)
            make = functools.partial(_answering, self._open, sampling)
            for start, made in zip(starts, ray_data.over_ray(batches, make, self._engine), strict=True):
                found: dict[int, list[types.Generation]] = {}
                for place, one in enumerate(made, start=start):
                    if isinstance(one, Failed):
                        failed[place] = one.message
                    elif place not in done:
                        found[place] = one
                for place, several in found.items():
                    samples, tokens = samples + len(several), tokens + sum(one.length for one in several)
                    if keeps:
                        results[place] = several
                on_batch(found)
                bar.advance(len(made) * sampling.n)
        self.last_stats = types.GenerationStats(
            prompts=asked, samples=samples, tokens=tokens, seconds=time.monotonic() - started
        )
        failed = {place: message for place, message in failed.items() if place not in done}
        if failed:
            raise PromptsFailedError(failed)
        return results


def _batches(prompts: types.Prompts, starts: Sequence[int], size: int) -> Iterator[list[Asked]]:
    for start in starts:
        yield [(place, prompts[place]) for place in range(start, min(start + size, len(prompts)))]


def _answering(
    open_generator: Callable[[], types.Generator], sampling: types.Sampling
) -> Callable[[Sequence[Asked]], types.Samples]:
    """What a worker does with prompts whose places follow each other."""
    generator = open_generator()

    def work(asked: Sequence[Asked]) -> types.Samples:
        first = asked[0][0]
        numbered = replace(sampling, first=sampling.first + first)
        try:
            return generator.generate([prompt for _, prompt in asked], numbered)
        except PromptError as error:
            raise PromptError(
                first + error.index, error.field, error.problem, error.expected, hint=error.hint
            ) from error

    return work
