"""Generation with a Transformers model: batched by length, prompts computed once for all their samples.

What sample k of prompt i says depends on the seed, i, k and the model, not on the batch it sits in (up to the rounding
of the model's own arithmetic), and batches are composed from all prompts whether or not some are done: a resumed run
gives the very same numbers.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import torch

from coalign.core.errors import ModelError, PromptError
from coalign.core.progress import Progress, progress
from coalign.data.media.conversations import pictures_of
from coalign.data.records import Messages
from coalign.models import types
from coalign.models.devices import share_cores
from coalign.models.generation.batching import (
    assert_room,
    default_batch_tokens,
    encode_once,
    encode_seen,
    left_padded,
    most_rows,
    plan_batches,
)
from coalign.models.generation.decode_state import DecodeState, Row, generation_of
from coalign.models.generation.endings import Endings, stop_token_ids
from coalign.models.generation.sampling import check_sampling
from coalign.models.grammars.matching import Grammars, Matcher
from coalign.models.modules import evaluation, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.generation.incremental import Rows
    from coalign.models.generation.precision import Exactness, Precision
    from coalign.models.generation.prefix_cache.store import PrefixCache
    from coalign.models.grammars.schemas import Grammar

logger = logging.getLogger(__name__)

CPU_ROWS, GPU_ROWS = 128, 512


class TransformersGenerator:
    """A `Generator` over a Hugging Face causal language model, bare or with adapters.

    Args:
        model: stays as it is; its modules are in evaluation mode while it generates and then as they were.
        tokenizer: of the model.
        batch_tokens: most tokens that a batch may hold in its cache, (prompt + `max_new_tokens`) over all rows. By
            default what fits into 1 GiB of keys and values on a CPU, a third of the memory on a GPU.
        batch_size: most samples in a batch, by default 128 on a CPU and 512 on a GPU.
        fused: decode with fused weights (`coalign.models.generation.fused_model`) where the model allows it.
        precision: format in which fused weights are multiplied; by default that of the model's.
        compared: say how far the precision leads away from the model's own, on the first answers.

    Attributes:
        last_stats: figures of the last call of `generate`.
        device, batch_tokens, batch_size: where it decodes, and the limits of a batch.
        stop_ids: tokens that end a response.
        exactness: of a cheaper precision, once it is measured.
        prefixes: states of earlier prompts, from which later ones go on; see `keep_prefixes`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        fused: bool = True,
        precision: Precision | None = None,
        compared: bool = False,
    ) -> None:
        from coalign.models.generation.fused_model import FusedModel

        config: Any = unwrap(model).config
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(
                f"{type(unwrap(model)).__name__} is an encoder-decoder, expected a causal language model."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.last_stats = types.GenerationStats()
        self.exactness: Exactness | None = None
        self.device = next(model.parameters()).device
        self.batch_tokens = batch_tokens or default_batch_tokens(model, self.device)
        self.batch_size = batch_size or (GPU_ROWS if self.device.type == "cuda" else CPU_ROWS)
        self._fitting_rows: int | None = None
        self.stop_ids = stop_token_ids(unwrap(model), tokenizer)
        self._fused = FusedModel(model, precision) if fused else None
        self._precision = precision
        self.prefixes: PrefixCache | None = None
        self._unmeasured = compared
        self._answered: list[tuple[list[int], list[int]]] = []

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """Sample `sampling.n` responses to every prompt; see `coalign.models.types.Generator.generate`.

        `on_batch` gets the prompts that were not done. Messages are written with the chat template; text is taken as
        it is (after BOS, where the tokenizer puts one). The continuation of text or of an assistant's turn keeps a
        leading space.

        Raises:
            ConfigError: a sampling option that cannot be used.
            DataError: a prompt that the template refuses, or that leaves no room for the response.
            ModelError: logits that are not numbers, or a single row that does not fit into memory.
            MissingExtraError: a grammar, without the extra `grammar`.
        """
        done, on_batch, label = types.generating(**how)
        check_sampling(sampling, grammars=True)
        job = self._job(prompts, sampling)
        encoded, shown = job.encoded, [one is not None for one in job.pictures]
        limits = (self.batch_tokens, self.batch_size)
        own = how.get("part", range(len(encoded)))
        lengths, seen = [len(encoded[one]) for one in own], [shown[one] for one in own]
        planned = [[own[one] for one in batch] for batch in plan_batches(lengths, sampling, *limits, seen)]
        plan = [batch for batch in planned if not done.issuperset(batch)]
        results: list[list[types.Generation]] = [[] for _ in prompts]
        started = time.monotonic()
        total = sum(map(len, plan)) * job.sampling.rows
        with evaluation(self.model), progress(total, label, unit="sample") as bar:
            meter = Meter(bar)
            for samples in self._worked(plan, job, meter):
                missing = {index: one for index, one in samples.items() if index not in done}
                for index, one in missing.items():
                    results[index] = one
                on_batch(missing)
                for index, one in samples.items() if not any(job.pictures) else ():
                    self.remember(job.encoded[index], one[0].token_ids)
                self.settle(now=True)
        worked = [index for batch in plan for index in batch]
        self.last_stats = types.GenerationStats(
            prompts=len(worked),
            samples=len(worked) * sampling.n,
            prompt_tokens=sum(len(encoded[index]) for index in worked),
            tokens=meter.tokens,
            seconds=time.monotonic() - started,
        )
        return results

    def stream(self, prompts: types.Prompts, sampling: types.Sampling) -> Iterator[types.Piece]:
        """Sample as `generate` does, and yield text as it comes; see `coalign.models.types.Streaming.stream`.

        Prompts join as others end, so numbers may differ from those of `generate` in the last bits. `last_stats` is
        not touched.

        Raises:
            As `generate`, when the first piece is asked for.
        """
        from coalign.models.generation.decode_loop import DecodeLoop, Decoding

        check_sampling(sampling, grammars=True)
        job = self._job(prompts, sampling)
        loop = DecodeLoop(self)
        loop.add(
            Decoding(
                job.encoded[index],
                sampling,
                goes_on=job.continued[index],
                streaming=True,
                prompt=index,
                pictures=job.pictures[index],
            )
            for index in range(len(prompts))
        )
        while not loop.is_idle:
            yield from (piece for _, piece in loop.step())

    def first_logits(self, prompts: types.Prompts) -> Tensor:
        """[P, V] logits of the first token of a response, in one forward pass; all prompts have pictures, or none has.

        Raises:
            PromptError: as `encode_seen`.
        """
        encoded = [self.encode_seen(prompt, index) for index, prompt in enumerate(prompts)]
        shown = [one for _, one in encoded if one is not None]
        with evaluation(self.model), torch.inference_mode():
            return self.open_rows().start(*left_padded([ids for ids, _ in encoded], self.device), shown)

    def open_rows(self) -> Rows:
        """Rows on the fastest path that the model allows, all of whose logits agree with the model's own."""
        from coalign.models.generation import incremental

        fused = None if self._fused is None else self._fused.open(self.prefixes)
        return fused or incremental.open_rows(self.model, self.prefixes)

    def keep_prefixes(self, prefixes: PrefixCache) -> str | None:
        """From now on keep the states of prompts, and go on from the longest beginning of a prompt that is there, as far as
        weights and adapters are the same. Generators of one model may share a cache.

        Returns:
            Why this model's states cannot be kept, None where they are.
        """
        from coalign.models.generation.incremental import lacks_prefixes

        why = None if self.is_fused else lacks_prefixes(self.model)
        self.prefixes = prefixes if why is None else None
        return why

    @property
    def is_fused(self) -> bool:
        """Whether it decodes with fused weights."""
        return self._fused is not None and self._fused.is_used

    @property
    def precision(self) -> str:
        """The format of the products."""
        own = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return self._precision if self._precision and self.is_fused else own

    def remember(self, prompt: list[int], answer: list[int]) -> None:
        """Keep an answer, as tokens, for `settle` to look at."""
        if self._unmeasured:
            self._answered.append((prompt, answer))

    def settle(self, *, now: bool = False) -> None:
        """Where it is to be said: measure a cheaper precision against the model's own modules on the first answers, once.

        Called when nothing waits: it takes as long as a few tokens.

        Args:
            now: also where the answers are short yet.
        """
        from coalign.models.generation.precision import FAR, PLACES, measure_exactness

        tokens = sum(len(answer) for _, answer in self._answered)
        if not tokens or (tokens < PLACES and not now) or not self.is_fused:
            return
        self.exactness = measure_exactness(self.model, self.open_rows, self._answered)
        self._unmeasured = self.exactness is None
        self._answered.clear()
        if self.exactness is not None:
            far = " That is far: use another --generation-precision." if self.exactness.kl > FAR else ""
            logger.warning("%s%s", self.exactness.describe(self.precision), far)

    def encode(self, prompt: Messages | str, index: int = 0) -> list[int]:
        """The tokens of a prompt without pictures.

        Args:
            index: its number, for messages.

        Raises:
            PromptError: the template refuses it, or it shows pictures.
        """
        return encode_once(self.tokenizer, prompt, index)

    def encode_seen(self, prompt: Messages | str, index: int = 0) -> tuple[list[int], PicturePrompt | None]:
        """The tokens of a prompt, those of its pictures among them, and its pictures.

        Raises:
            PromptError: also a picture that cannot be decoded, or pictures for a model of text alone.
        """
        if pictures_of(prompt):
            return encode_seen(self.tokenizer, prompt, index)
        return self.encode(prompt, index), None

    def _job(self, prompts: types.Prompts, sampling: types.Sampling) -> GenerationJob:
        """The prompts as tokens; errors are those of `generate`."""
        encoded = [self.encode_seen(prompt, index) for index, prompt in enumerate(prompts)]
        ids, pictures = [one for one, _ in encoded], [one for _, one in encoded]
        try:
            self.assert_room(ids, sampling)
        except PromptError as error:
            error.prompt = prompts[error.index]
            raise
        return GenerationJob(ids, pictures, [types.goes_on(one) for one in prompts], sampling)

    def matcher(self, grammar: Grammar) -> Matcher:
        """What follows a grammar through one text of this model; errors as of `Grammars.matcher`."""
        return self._grammars.matcher(grammar)

    @functools.cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.stop_ids)

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and response together; None when the model does not say."""
        config: Any = unwrap(self.model).config
        return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)

    def assert_room(self, encoded: list[list[int]], sampling: types.Sampling) -> None:
        """Refuse prompts that leave no room for the response.

        Raises:
            DataError: it names the first of them and counts the others.
        """
        assert_room(self.context, encoded, sampling)

    def answer(self, batch: list[int], job: GenerationJob) -> dict[int, list[types.Generation]]:
        """All samples of the prompts of a batch of a larger call; nothing is shown."""
        with evaluation(self.model):
            return self._work_on(batch, job, Meter(None))

    def _worked(
        self, plan: list[list[int]], job: GenerationJob, meter: Meter
    ) -> Iterator[dict[int, list[types.Generation]]]:
        """All samples of each batch, in order."""
        return (self._work_on(batch, job, meter) for batch in plan)

    def _work_on(
        self, batch: list[int], job: GenerationJob, meter: Meter
    ) -> dict[int, list[types.Generation]]:
        """All samples of the prompts of a batch, in as few passes as memory allows."""
        rows = [(index, sample) for index in batch for sample in range(job.sampling.rows)]
        found: dict[int, list[types.Generation]] = {index: [] for index in batch}
        longest = max(len(job.encoded[index]) for index in batch)
        limit = most_rows(longest, job.sampling, self.batch_tokens, self.batch_size)
        start = 0
        while start < len(rows):
            part = rows[start : start + min(limit, self._fitting_rows or limit)]
            before = (meter.samples, meter.tokens)
            try:
                with torch.inference_mode():
                    generations = self._decode(part, job, meter)
            except torch.OutOfMemoryError:
                generations = None  # what the pass holds is free only after this clause
            if generations is None:
                meter.restore(*before)
                self._halve(len(part))
                continue
            for (index, _), generation in zip(part, generations, strict=True):
                found[index].append(generation)
            start += len(part)
        copies = job.sampling.n // job.sampling.rows
        return {index: samples * copies for index, samples in found.items()}

    def _halve(self, rows: int) -> None:
        if rows == 1:
            raise ModelError(
                "One sample does not fit into the GPU's memory.",
                hint="Use a smaller model or data type, shorter prompts, or fewer new tokens.",
            )
        self._fitting_rows = rows // 2
        torch.cuda.empty_cache()
        logger.warning("Out of GPU memory with %d samples in a batch: going on with %d.", rows, rows // 2)

    def _decode(self, rows: list[Row], job: GenerationJob, meter: Meter) -> list[types.Generation]:
        """Decode rows together; rows of a prompt are adjacent."""
        sampling = job.sampling
        grammar = sampling.grammar
        matchers = [self.matcher(grammar) for _ in rows] if grammar is not None else None
        streams = [(sampling.first + index, sample) for index, sample in rows]
        state = DecodeState(streams, sampling, self.device, matchers)
        endings = Endings(self.tokenizer, sampling.stop)
        stop_ids = torch.tensor(self.stop_ids, dtype=torch.long, device=self.device)
        forward = self.open_rows()
        prompts = list(dict.fromkeys(index for index, _ in rows))
        shown = [one for index in prompts if (one := job.pictures[index]) is not None]
        logits = forward.start(*left_padded([job.encoded[index] for index in prompts], self.device), shown)
        if len(prompts) < len(rows):
            place = {prompt: position for position, prompt in enumerate(prompts)}
            index = torch.tensor([place[prompt] for prompt, _ in rows], device=self.device)
            forward.select(index)
            logits = logits[index]
        left = 0
        for step in range(sampling.max_new_tokens):
            share_cores()
            tokens = state.draw(step, logits)
            ended = torch.isin(tokens, stop_ids)
            if sampling.stop:
                ended |= self._at_stop(state, step, endings)
            if matchers:
                ended |= state.is_complete()
            gone, left = state.end(step, ended)
            meter.count(gone, left + gone)
            if not left or step + 1 == sampling.max_new_tokens:
                break
            keep = state.compact()
            if keep is not None:
                forward.select(keep)
                tokens = tokens[keep]
            logits = forward.step(tokens)
        meter.count(left, 0)
        return [
            generation_of(one, endings, job.before(row))
            for row, one in zip(rows, state.results(), strict=True)
        ]

    def _at_stop(self, state: DecodeState, step: int, endings: Endings) -> Tensor:
        """[live] whether a row's text has just come to hold a stop text."""
        tails = state.tokens[state.live, max(0, step + 1 - endings.window) : step + 1].tolist()
        found = endings.has_stop(tails)
        for row, _ in enumerate(found):
            if found[row] and step + 1 > endings.window:
                # The window may begin inside a character or drop a leading space: the whole text decides.
                found[row] = endings.text(state.tokens[state.live[row], : step + 1].tolist())[1]
        return torch.tensor(found, device=self.device)


@dataclass(frozen=True)
class GenerationJob:
    """What a call works on: encoded prompts, their pictures, which of them the text goes on from, how to sample."""

    encoded: Sequence[list[int]] | Mapping[int, list[int]]
    pictures: Sequence[PicturePrompt | None] | Mapping[int, PicturePrompt | None]
    continued: Sequence[bool] | Mapping[int, bool]
    sampling: types.Sampling

    def of(self, batch: Sequence[int]) -> GenerationJob:
        """The job of a batch alone, under the numbers that its prompts have in the whole."""
        encoded, pictures, continued = (
            {index: values[index] for index in batch}
            for values in (self.encoded, self.pictures, self.continued)
        )
        return replace(self, encoded=encoded, pictures=pictures, continued=continued)

    def before(self, row: Row) -> int | None:
        """The token that the text of a row goes on from; None where it starts anew."""
        return self.encoded[row[0]][-1] if self.continued[row[0]] else None


class Meter:
    """Counts samples and tokens, and shows them."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self.samples = 0
        self.tokens = 0

    def count(self, samples: int, tokens: int) -> None:
        self.samples += samples
        self.tokens += tokens
        if self._bar is None:
            return
        self._bar.note(f"{self.tokens / max(time.monotonic() - self._started, 1e-9):.0f} tokens/s")
        if samples:
            self._bar.advance(samples)

    def restore(self, samples: int, tokens: int) -> None:
        """Take back what a pass counted that has to be repeated."""
        if self._bar is not None:
            self._bar.advance(samples - self.samples)
        self.samples, self.tokens = samples, tokens
