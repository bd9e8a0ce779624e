"""Best-of-n: sample several responses and keep the one that rewards value most.

    coalign generate --method best-of-n --reward max_words:20 --prompts prompts.jsonl --out answers.jsonl

The simplest search for rewarded text, over any back end. It helps where good responses are among the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Unpack

from coalign.core.errors import ConfigError
from coalign.core.options import Count, option
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import RewardOptions, build_rewards, judge_over
from coalign.models.methods import Method
from coalign.models.types import Generating, Generation, Generator, Prompts, Samples, Sampling, generating


@dataclass(kw_only=True)
class Options(RewardOptions):
    """Options of best-of-n."""

    __group__ = "Best of n"

    best_of: Count = option(8, "responses to each prompt, of which the best is kept")


class BestOfGenerator:
    """A `Generator` that samples `best_of` responses from another one and gives the best of them.

    Args:
        inner: any back end or method.
        rewards: what is best.
        best_of: samples a prompt.
    """

    def __init__(self, inner: Generator, rewards: RewardMix, best_of: int) -> None:
        self.inner, self.rewards, self.best_of = inner, rewards, best_of

    def __getattr__(self, name: str) -> Any:
        if name in (
            "tokenizer",
            "last_stats",
            "description",
            "encode",
            "context",
        ):  # of what it stands around
            return getattr(self.inner, name)
        raise AttributeError(name)

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """The `sampling.n` best of `best_of` samples, best first; see `coalign.models.types.Generator.generate`.

        Of equal rewards the earlier sample goes first.

        Raises:
            ConfigError: greedy decoding, whose samples are all the same, or more responses than samples.
        """
        done, on_batch, label = generating(**how)
        if sampling.temperature == 0 and self.best_of > 1:
            raise ConfigError(
                "best-of-n needs different samples, and at temperature 0 they are all the same.",
                hint="Give a temperature above 0.",
            )
        if sampling.n > self.best_of:
            raise ConfigError(f"{sampling.n} responses were asked for, out of {self.best_of} samples.")
        results: list[list[Generation]] = [[] for _ in prompts]

        def keep(batch: dict[int, list[Generation]]) -> None:
            best = self._best(prompts, batch, sampling.n)
            for index, one in best.items():
                results[index] = one
            on_batch(best)

        self.inner.generate(prompts, replace(sampling, n=self.best_of), done=done, on_batch=keep, label=label)
        return results

    def _best(
        self, prompts: Prompts, batch: dict[int, list[Generation]], count: int
    ) -> dict[int, list[Generation]]:
        rows = [(index, one) for index, samples in batch.items() for one in samples]
        self.rewards.forget()
        drafts = [
            Draft.of(index, prompts[index], one.text, one.finish_reason == "stop") for index, one in rows
        ]
        values = self.rewards(drafts)
        best: dict[int, list[Generation]] = {index: [] for index in batch}
        for _, (index, one) in sorted(zip(values, rows, strict=True), key=lambda each: -each[0]):
            best[index].append(one)
        return {index: mine[:count] for index, mine in best.items()}


def wrap(options: Options, inner: Generator) -> BestOfGenerator:
    """Best-of-n around a generator."""
    return BestOfGenerator(inner, build_rewards(options, open_judge=judge_over(inner)), options.best_of)


METHOD = Method(
    "best-of-n", "Sample several responses and keep the one with the highest reward", Options, wrap=wrap
)
