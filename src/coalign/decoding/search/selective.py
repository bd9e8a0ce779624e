"""Selective answering: decline where a reward says that the answer is not good enough.

    coalign serve default --decline-below 5 --reward model:runs/my-grader
    coalign generate --method selective --option decline_below=0.5 --reward "judge:is it right?" --prompts FILE --out FILE

Any reward can decide: a grader's score, a reward model, a judge, a verifier. An answer that cannot be scored is declined too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Unpack

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import option, required
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import RewardOptions, build_rewards, judge_over
from coalign.measures.declining import IDK
from coalign.models.generation.sampling import check_sampling
from coalign.models.methods import Method
from coalign.models.types import Generating, Generation, Generator, Prompts, Samples, Sampling, generating

UNSCORED = 20
"""Answers in a row, without any that could be scored, after which the reward is taken to be broken."""


@dataclass(kw_only=True)
class Options(RewardOptions):
    """Options of selective answering."""

    __group__ = "Selective answering"

    decline_below: float = required("lowest reward with which an answer is given")
    decline_text: str = option(IDK, "what is said instead of it")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.decline_below):
            raise ConfigError(f"decline_below: {self.decline_below} is not a finite number")
        if self.normalise:
            raise ConfigError("normalise has no effect here: one answer is compared with a threshold")


class SelectiveGenerator:
    """A `Generator` that says `decline_text` instead of an answer of another one whose reward is below the threshold.

    Args:
        inner: any back end or method.
        rewards: what an answer is worth.

    Attributes:
        answered, declined, unscored: answers so far; those without a score are among the declined.
    """

    def __init__(self, inner: Generator, rewards: RewardMix, options: Options) -> None:
        self.inner, self.rewards, self.options = inner, rewards, options
        self.answered = self.declined = self.unscored = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("tokenizer", "last_stats", "description"):  # of what it stands around
            return getattr(self.inner, name)
        raise AttributeError(name)

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """As `coalign.models.types.Generator.generate`. A declined answer has no tokens and ends with `stop`.

        Raises:
            ConfigError: a sampling option that cannot be used.
            ModelError: none of the first answers could be scored.
        """
        done, on_batch, label = generating(**how)
        check_sampling(sampling)  # declining is no text of a grammar
        results: list[list[Generation]] = [[] for _ in prompts]

        def keep(batch: dict[int, list[Generation]]) -> None:
            decided = self._decide(prompts, batch)
            for index, one in decided.items():
                results[index] = one
            on_batch(decided)

        self.inner.generate(prompts, sampling, done=done, on_batch=keep, label=label)
        return results

    def _decide(self, prompts: Prompts, batch: dict[int, list[Generation]]) -> dict[int, list[Generation]]:
        rows = [(index, one) for index, samples in batch.items() for one in samples]
        self.rewards.forget()
        values = self.rewards(
            [Draft.of(index, prompts[index], one.text, one.finish_reason == "stop") for index, one in rows]
        )
        decided: dict[int, list[Generation]] = {index: [] for index in batch}
        for value, (index, one) in zip(values, rows, strict=True):
            good = value >= self.options.decline_below
            self.answered += good
            self.declined += not good
            self.unscored += math.isnan(value)
            decided[index].append(one if good else _declined(one, self.options.decline_text))
        if self.unscored >= UNSCORED and self.unscored == self.answered + self.declined:
            raise ModelError(
                f"None of {self.unscored} answers could be scored by {', '.join(self.rewards.names)}: every one would be declined.",
                hint="Try the judge on its own: `coalign judge`.",
            )
        return decided


def _declined(sample: Generation, text: str) -> Generation:
    emptied: dict[str, Any] = {
        name: None if getattr(sample, name) is None else [] for name in ("logprobs", "tokens", "top_logprobs")
    }
    return replace(sample, text=text, token_ids=[], finish_reason="stop", n_tokens=0, **emptied)


def wrap(options: Options, inner: Generator) -> SelectiveGenerator:
    """Selective answering around a generator.

    Raises:
        ConfigError: no reward, or one that cannot be used.
    """
    return SelectiveGenerator(inner, build_rewards(options, open_judge=judge_over(inner)), options)


METHOD = Method("selective", "Decline where the answer's reward is below a threshold", Options, wrap=wrap)
