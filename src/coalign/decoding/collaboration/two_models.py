"""A base model and an aligned one as one `Generator`: opens both, writes prompts, runs a method over many texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from coalign.core.errors import ConfigError, DataError
from coalign.core.progress import progress
from coalign.data.records import Messages
from coalign.decoding.collaboration.cached_speakers import CachedSpeaker, converse
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided
from coalign.decoding.collaboration.mixtures import PLAIN
from coalign.decoding.collaboration.remote_speakers import (
    RemoteSpeaker,
    approximate_length,
    converse_remotely,
)
from coalign.decoding.collaboration.speakers import Conversation, Length, Talk
from coalign.decoding.collaboration.two_prompts import (
    PromptOptions,
    aligned_messages,
    aligned_prompt,
    base_prompt,
)
from coalign.models.backends.open import open_generator, open_transformers
from coalign.models.backends.options import BackendOptions
from coalign.models.devices import describe_device
from coalign.models.generation.batching import default_batch_tokens
from coalign.models.generation.generator import CPU_ROWS, GPU_ROWS, TransformersGenerator
from coalign.models.generation.sampling import check_sampling
from coalign.models.options import ModelOptions
from coalign.models.types import (
    Generating,
    Generation,
    Generator,
    Prompts,
    Samples,
    Sampling,
    Work,
    generating,
)

logger = logging.getLogger(__name__)

MakeTalk = Callable[[Sampling, Length, bool], Talk[Guided]]
"""(sampling, length of a text, whether the models are remote) to a method at work on one text."""


@dataclass
class TwoModels:
    """A `Generator` in which several models write together.

    Attributes:
        models: for each side a local model with its tokenizer, or another back end.
        make: the method.
        prompts: what stands around questions and answers.
        temperatures: for each side; a side that is not named takes the temperature of the call.
        alternatives: how many of the most probable tokens the method looks at.
        batch_size: most texts at a time.
        last_passes: for each local side (forward passes, tokens computed) of the last call.
    """

    models: Mapping[str, Generator]
    make: MakeTalk
    prompts: PromptOptions
    temperatures: Mapping[str, float] = field(default_factory=dict)
    alternatives: int = 0
    batch_size: int | None = None
    last_passes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def local(self) -> bool:
        """Whether all models are here, so that their caches can be kept."""
        return all(isinstance(one, TransformersGenerator) for one in self.models.values())

    @property
    def description(self) -> str:
        parts = []
        for side, one in self.models.items():
            if isinstance(one, TransformersGenerator):
                parameter: Any = next(one.model.parameters())
                name = getattr(one.model.config, "name_or_path", "") or type(one.model).__name__
                parts.append(f"{side} {name} on {describe_device(parameter.device, parameter.dtype)}")
            else:
                parts.append(f"{side} {getattr(one, 'description', type(one).__name__)}")
        return "; ".join(parts)

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """See `coalign.models.types.Generator.generate`; `on_batch` is called for each prompt.

        Raises:
            ConfigError: log-probabilities are asked for: two distributions make a text, so it has none of its own.
        """
        done, on_batch, label = generating(**how)

        def hand_over(found: dict[int, list[Guided]]) -> None:
            on_batch({index: [self._generation(one) for one in mine] for index, mine in found.items()})

        answers = self.write(prompts, sampling, done=done, on_batch=hand_over, label=label)
        return [[self._generation(one) for one in mine] for mine in answers]

    def write(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Work[Guided]]) -> list[list[Guided]]:
        """As `generate`, with the record of who wrote what."""
        done, on_batch, label = generating(**how)
        check_sampling(sampling)
        if sampling.wants_logprobs:
            raise ConfigError("logprobs: a text that two models wrote has no log-probabilities of its own.")
        drawn = 1 if max(self._temperature(side, sampling) for side in self.models) == 0 else sampling.n
        keys = [(index, n) for index in range(len(prompts)) if index not in done for n in range(drawn)]
        found: dict[int, dict[int, Guided]] = {}
        results: list[list[Guided]] = [[] for _ in prompts]
        with progress(len(keys) * (sampling.n // drawn), label, unit="sample") as bar:

            def keep(place: int, answer: Guided) -> None:
                index, sample = keys[place]
                mine = found.setdefault(index, {})
                mine[sample] = answer
                bar.advance(sampling.n // drawn)
                if len(mine) == drawn:
                    results[index] = [mine[n] for n in range(drawn)] * (sampling.n // drawn)
                    on_batch({index: results[index]})

            if keys:
                (self._run_local if self.local else self._run_remote)(prompts, keys, sampling, keep)
        return results

    def length(self, text: str) -> int:
        """Tokens of a text in the base model's tokenizer; by its number of bytes where that is not here."""
        base = self.models[BASE]
        if isinstance(base, TransformersGenerator):
            return len(base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # type: ignore[arg-type]
        return approximate_length(text)

    def _run_local(
        self,
        prompts: Prompts,
        keys: Sequence[tuple[int, int]],
        sampling: Sampling,
        keep: Callable[[int, Guided], None],
    ) -> None:
        speakers = {
            side: CachedSpeaker(
                one.model,
                one.tokenizer,
                temperature=self._temperature(side, sampling),
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                alternatives=self.alternatives,
                seed=sampling.seed + 7919 * number,  # two models must not draw alike
            )
            for number, (side, one) in enumerate(self.models.items())
            if isinstance(one, TransformersGenerator)
        }
        begun = {
            index: {side: self._written(index, side, speakers[side], prompts[index]) for side in speakers}
            for index in {index for index, _ in keys}
        }
        longest = max(speakers[side].length(text) for mine in begun.values() for side, text in mine.items())
        rows = min(self._rows(one, longest + sampling.max_new_tokens) for one in speakers.values())
        conversations = [
            Conversation(
                self.make(sampling, speakers[BASE].length, False),
                begun[index],
                (sampling.first + index, sample),
            )
            for index, sample in keys
        ]
        converse(conversations, speakers, rows=rows, on_done=keep)
        self.last_passes = {side: (one.rows.passes, one.rows.tokens) for side, one in speakers.items()}

    def _run_remote(
        self,
        prompts: Prompts,
        keys: Sequence[tuple[int, int]],
        sampling: Sampling,
        keep: Callable[[int, Guided], None],
    ) -> None:
        if any(isinstance(one, TransformersGenerator) for one in self.models.values()):
            logger.warning(
                "One model is here and the other is not: the local one computes its whole text at every question."
            )
        speakers = {
            side: RemoteSpeaker(
                one,
                replace(sampling, temperature=self._temperature(side, sampling)),
                max(1, self.alternatives),
            )
            for side, one in self.models.items()
        }
        write = {side: aligned_messages if side == NUDGING else base_prompt for side in self.models}
        conversations = [
            Conversation(
                self.make(sampling, self.length, True),
                {side: made(prompts[key[0]], self.prompts) for side, made in write.items()},
                key,
            )
            for key in keys
        ]
        converse_remotely(conversations, speakers, rows=self.batch_size or CPU_ROWS, on_done=keep)

    def _written(self, index: int, side: str, speaker: CachedSpeaker, prompt: Messages | str) -> str:
        from coalign.data.frame import Frame

        try:
            if side == NUDGING:
                return aligned_prompt(speaker.tokenizer, prompt, self.prompts)
            return Frame(speaker.tokenizer).bos + base_prompt(prompt, self.prompts)
        except DataError as error:
            raise DataError(f"prompt {index}: {error.message}", hint=error.hint) from error

    def _rows(self, speaker: CachedSpeaker, tokens: int) -> int:
        device = next(speaker.model.parameters()).device
        most = GPU_ROWS if device.type == "cuda" else CPU_ROWS
        fitting = default_batch_tokens(speaker.model, device) // (tokens * len(self.models))
        return max(1, min(self.batch_size or most, fitting))

    def _temperature(self, side: str, sampling: Sampling) -> float:
        return self.temperatures.get(side, sampling.temperature)

    def _generation(self, answer: Guided) -> Generation:
        return Generation(answer.text, finish_reason=answer.finish_reason, n_tokens=self.length(answer.text))


def open_models(
    base: ModelOptions,
    backend: BackendOptions,
    aligned: ModelOptions,
    aligned_endpoint: str | None,
    aligned_endpoint_model: str | None,
    plain: str | None = None,
) -> dict[str, Generator]:
    """Open the models of both sides, and of the third that proxy tuning needs.

    The aligned model is local unless it has an endpoint of its own; other options of the back end hold for both.
    """
    models: dict[str, Generator] = {BASE: open_generator(base, backend)}
    if aligned_endpoint:
        models[NUDGING] = open_generator(
            aligned,
            replace(
                backend, backend="endpoint", endpoint=aligned_endpoint, endpoint_model=aligned_endpoint_model
            ),
        )
    else:
        models[NUDGING] = open_transformers(aligned)
    if plain:
        models[PLAIN] = open_transformers(aligned.at(plain))
    return models
