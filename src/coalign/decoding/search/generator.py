"""A generator that searches for text that rewards value, in place of sampling it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import Count, CountOrZero, NonNegative, OptionGroup, option
from coalign.core.progress import Progress, progress
from coalign.data.frame import EncodingError, Frame
from coalign.data.records import Messages
from coalign.decoding.search.lookahead import Beam, Extension, SearchCost, SearchSettings, rows_of, search
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.models import types
from coalign.models.batching import length_batches
from coalign.models.generation.endings import Endings
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.sampling import check_sampling
from coalign.models.modules import evaluation

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SearchOptions(OptionGroup):
    """How to search."""

    __group__ = "Search"

    candidates: Count = option(10, "most probable next tokens that are tried at every step", source="paper")
    beams: Count = option(1, "texts that are followed at a time; the paper's beam is 10")
    lookahead: CountOrZero = option(
        32, "most tokens by which a candidate is continued before it is judged", source="paper"
    )
    reward_weight: NonNegative = option(
        10.0,
        "weight of the reward against the log-probability (lambda); 100 makes a rule between 0 and 1 hard",
    )
    every: Count = option(
        1,
        "tokens that are taken at a time: the candidate and the first of its lookahead",
        only_with={"mode": "token"},
    )
    mode: Literal["token", "block"] = option(
        "token", "token: as the paper; block: take the whole lookahead at a time, which is far cheaper"
    )
    alignment_prompt: str | None = option(
        None, "text for the system's turn that states what is wanted; the search works with and without"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every > self.lookahead + 1:
            raise ValueError(f"every: {self.every} needs a lookahead of at least {self.every - 1} tokens")

    def settings(self, max_new_tokens: int) -> SearchSettings:
        """These options as the search takes them."""
        return SearchSettings(
            max_new_tokens=max_new_tokens,
            candidates=self.candidates,
            beams=self.beams,
            lookahead=self.lookahead,
            weight=self.reward_weight,
            every=self.lookahead + 1 if self.mode == "block" else self.every,
        )


@dataclass(frozen=True)
class Found:
    """A text that the search found.

    Attributes:
        generation: the text and its tokens, with log-probabilities.
        score: log-probability plus weighted reward.
        reward: of the whole text, all rewards together.
    """

    generation: types.Generation
    score: float
    reward: float


class SearchGenerator:
    """A `Generator` whose texts come from `decoding.lookahead.search`.

    Args:
        base: the model.
        rewards: what is searched for.
        options: how.

    Attributes:
        last_stats: figures of the last call, as of other back ends.
        last_cost: what the last search cost.
    """

    def __init__(self, base: TransformersGenerator, rewards: RewardMix, options: SearchOptions) -> None:
        self.base, self.rewards, self.options = base, rewards, options
        self.tokenizer = base.tokenizer
        self.last_stats = types.GenerationStats()
        self.last_cost = SearchCost()

    @property
    def context(self) -> int | None:
        return self.base.context

    def encode(self, prompt: Messages | str, index: int = 0) -> list[int]:
        """The tokens of the prompt with the method's instruction."""
        return self.base.encode(self._instructed(prompt), index)

    def generate(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Generating]
    ) -> types.Samples:
        """The `sampling.n` best texts to every prompt; see `coalign.models.types.Generator.generate`.

        The search is deterministic: of `sampling` it takes `max_new_tokens`, `n`, `stop` and `logprobs`.

        Raises:
            ConfigError: options of sampling, or more texts than beams.
            DataError, ModelError: as the Transformers back end.
        """
        how.setdefault("label", "Searching")
        done, on_batch, label = types.generating(**how)

        def plain(found: dict[int, list[Found]]) -> None:
            on_batch({index: [_asked(one, sampling) for one in texts] for index, texts in found.items()})

        found = self.search(prompts, sampling, done=done, on_batch=plain, label=label)
        return [[_asked(one, sampling) for one in texts] for texts in found]

    def search(
        self, prompts: types.Prompts, sampling: types.Sampling, **how: Unpack[types.Work[Found]]
    ) -> list[list[Found]]:
        """As `generate`, with scores and rewards."""
        how.setdefault("label", "Searching")
        done, on_batch, label = types.generating(**how)
        self._check(sampling)
        given = [self._instructed(one) for one in prompts]
        encoded = [self.base.encode(prompt, index) for index, prompt in enumerate(given)]
        self.base.assert_room(encoded, sampling)
        results = [list[Found]() for _ in prompts]
        self.last_cost, started = SearchCost(), time.monotonic()
        batches = [one for one in self._batches(encoded, sampling) if not done.issuperset(one)]
        with evaluation(self.base.model), progress(sum(map(len, batches)), label, "prompt") as bar:
            while batches:
                batch = batches.pop(0)
                pools = self._search_batch(batch, given, encoded, sampling, bar)
                if pools is None:  # out of memory
                    middle = len(batch) // 2
                    batches[:0] = [batch[:middle], batch[middle:]]
                    continue
                new = {index: pools[index] for index in batch if index not in done}
                for index, texts in new.items():
                    results[index] = texts
                on_batch(new)
        worked = [texts for texts in results if texts]
        self.last_stats = types.GenerationStats(
            prompts=len(worked),
            samples=sum(map(len, worked)),
            prompt_tokens=sum(len(encoded[index]) for index, texts in enumerate(results) if texts),
            tokens=sum(one.generation.length for texts in worked for one in texts),
            seconds=time.monotonic() - started,
        )
        return results

    def _check(self, sampling: types.Sampling) -> None:
        check_sampling(sampling)
        if sampling.temperature not in (0, 1) or sampling.top_p != 1 or sampling.top_k != 0:
            raise ConfigError(
                "The search draws nothing: temperature, top_p and top_k have no effect.",
                hint="Leave them out, or use the method best-of-n.",
            )
        if sampling.n > self.options.beams:
            raise ConfigError(
                f"{sampling.n} texts were asked for, and the search follows {self.options.beams} beams.",
                hint=f"Give it beams={sampling.n}.",
            )
        if sampling.top_logprobs:
            raise ConfigError("The search does not report alternatives (top_logprobs).")

    def _instructed(self, prompt: Messages | str) -> Messages | str:
        text = self.options.alignment_prompt
        return prompt if text is None else with_instruction(prompt, text, Frame(self.tokenizer))

    def _batches(self, encoded: list[list[int]], sampling: types.Sampling) -> list[list[int]]:
        """Prompts that are searched together, longest first; the same on every run."""
        settings = self.options.settings(sampling.max_new_tokens)
        base = self.base
        return length_batches(
            list(map(len, encoded)),
            lambda longest: rows_of(settings, longest, base.batch_tokens, base.batch_size),
        )

    def _search_batch(
        self,
        batch: list[int],
        prompts: list[Messages | str],
        encoded: list[list[int]],
        sampling: types.Sampling,
        bar: Progress,
    ) -> dict[int, list[Found]] | None:
        """Search one batch; None when it does not fit into the GPU's memory."""
        from coalign.models.scoring.token_tree import open_trees

        texts = _Texts(self, batch, prompts, encoded, sampling)
        self.rewards.forget()
        longest = max(len(encoded[index]) for index in batch) + sampling.max_new_tokens
        started, going = time.monotonic(), len(batch)

        def show(live: int) -> None:
            nonlocal going
            bar.advance(going - live)
            going = live
            seconds = max(time.monotonic() - started, 1e-9)
            bar.note(f"{self.last_cost.tokens / seconds:.0f} tokens/s tried")

        try:
            with torch.inference_mode():
                pools = search(
                    open_trees(self.base.model, longest),
                    [encoded[index] for index in batch],
                    texts.rewards_of,
                    texts.ended,
                    self.options.settings(sampling.max_new_tokens),
                    cost=self.last_cost,
                    on_step=show,
                )
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise ModelError(
                    "The search of one prompt does not fit into the GPU's memory.",
                    hint="Fewer candidates, fewer beams, a shorter lookahead, or a smaller model.",
                ) from error
            pools = None  # what the search holds is free only after this clause
        if pools is None:
            torch.cuda.empty_cache()
            logger.warning("Out of GPU memory with %d prompts searched together: halving.", len(batch))
            return None
        return {
            index: [texts.found(place, beam) for beam in pool[: sampling.n]]
            for place, (index, pool) in enumerate(zip(batch, pools, strict=True))
        }


class _Texts:
    """What tokens of a batch's prompts say, when they end, and what the text is worth."""

    def __init__(
        self,
        owner: SearchGenerator,
        batch: list[int],
        prompts: list[Messages | str],
        encoded: list[list[int]],
        sampling: types.Sampling,
    ) -> None:
        self._owner, self._batch, self._stop = owner, batch, bool(sampling.stop)
        self._stop_ids = frozenset(owner.base.stop_ids)
        self._prompts = [prompts[index] for index in batch]
        self._before = [encoded[index][-1] if types.goes_on(prompts[index]) else None for index in batch]
        self._endings = Endings(owner.tokenizer, sampling.stop)

    def ended(self, sequences: Sequence[Sequence[int]]) -> list[bool]:
        found = [ids[-1] in self._stop_ids for ids in sequences]
        if self._stop and sequences:
            window = self._endings.window
            at_stop = self._endings.has_stop([list(ids[-window:]) for ids in sequences])
            for place, ids in enumerate(sequences):
                # The window may begin inside a character: the whole text decides.
                found[place] |= at_stop[place] and self._endings.text(list(ids))[1]
        return found

    def rewards_of(self, extensions: Sequence[Extension]) -> list[float]:
        drafts = [self._draft(one.prompt, one.tokens, one.finished) for one in extensions]
        return self._owner.rewards(drafts)

    def found(self, place: int, beam: Beam) -> Found:
        text, before = self._endings.text(beam.tokens, self._before[place])[0], self._before[place]
        made = types.Generation(
            text,
            beam.tokens,
            "stop" if beam.finished else "length",
            beam.logps,
            self._endings.tokens(beam.tokens, before),
        )
        return Found(made, beam.score, beam.value)

    def _draft(self, place: int, tokens: list[int], finished: bool) -> Draft:
        text = self._endings.text(tokens, self._before[place])[0]
        return Draft.of(self._batch[place], self._prompts[place], text, finished)


def with_instruction(prompt: Messages | str, text: str, frame: Frame) -> Messages | str:
    """A prompt with a text in the system's turn, after what stands there; where the chat template knows no such turn,
    before the first message; before plain text, on a line of its own.
    """
    if isinstance(prompt, str):
        return f"{text}\n{prompt}"
    if prompt and prompt[0]["role"] == "system":
        return [{"role": "system", "content": f"{prompt[0]['content']}\n\n{text}"}, *prompt[1:]]
    instructed: Messages = [{"role": "system", "content": text}, *prompt]
    try:
        if frame.tokenizer.chat_template:
            frame.render(instructed, generation_prompt=True)
            return instructed
    except EncodingError:
        pass
    if not prompt:
        return [{"role": "user", "content": text}]
    first = prompt[0]
    return [{"role": first["role"], "content": f"{text}\n\n{first['content']}"}, *prompt[1:]]


def _asked(one: Found, sampling: types.Sampling) -> types.Generation:
    """The generation without what was not asked for."""
    if sampling.logprobs:
        return one.generation
    return replace(one.generation, logprobs=None, tokens=None)
