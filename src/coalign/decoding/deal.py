"""DeAL: search for text that rewards value, while the model stays as it is.

DeAL: Decoding-time Alignment for Large Language Models (arXiv 2402.06147). At every step the most probable next tokens
are tried; each is continued greedily for some tokens, rewards judge where it leads, and the token with the best sum of
log-probability and weighted reward is taken. Rewards are verifiers (keywords, length, format), reward models, judges,
and mixtures of them.

    coalign run deal --prompts prompts.jsonl --reward must_include:river,stone
    coalign generate --method deal --reward max_words:20@2 --prompts prompts.jsonl --out answers.jsonl

Reconstruction: there is no official code. The sum of log-probability and reward, and the constants of beam and
lookahead, could not be confirmed; all of them are options. Ours besides: `every` and `mode: block`, which take several
tokens at a time; `normalise`; and a lookahead that ends where the text must, because no later text can be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, Seed, option, required
from coalign.core.runs import Run
from coalign.decoding.search.generator import SearchGenerator, SearchOptions
from coalign.decoding.search.report import write_reward_report
from coalign.decoding.search.ways import Arms, read_prompts
from coalign.judging.rewards.specs import RewardOptions, build_rewards, judge_over
from coalign.models.backends.open import open_transformers
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import Method, MethodModels
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class DealOptions(SearchOptions, RewardOptions):
    """Options of the method."""

    __group__ = "Search"


def build(options: DealOptions, models: MethodModels) -> SearchGenerator:
    """The search over a model on this machine.

    Raises:
        ConfigError: another back end, or a reward that cannot be used.
    """
    base = open_local(models)
    return SearchGenerator(base, build_rewards(options, open_judge=judge_over(base)), options)


def open_local(models: MethodModels) -> TransformersGenerator:
    """The model with its cache at hand.

    Raises:
        ConfigError: another back end than Transformers.
    """
    if models.chosen_backend != "transformers":
        raise ConfigError(
            f"deal looks ahead token by token in the model's cache, which {models.chosen_backend} does not give.",
            hint="Use --backend transformers, or the method best-of-n, which works over any back end.",
        )
    return open_transformers(models)


METHOD = Method("deal", "Search with lookahead for text that rewards value", DealOptions, build=build)


@dataclass(kw_only=True)
class Config(DealOptions, MethodModels):
    """Options of `coalign run deal`."""

    __group__ = "Method"

    prompts: Path = required(
        "prompts in any form that coalign reads; a column `constraints` can be rewarded too"
    )
    max_new_tokens: Count = option(128, "most tokens of one response")
    stop: list[str] = option([], "texts that end a response; they are not part of it")
    best_of: CountOrZero = option(
        8, "also measure the best of so many samples at temperature 1, for comparison; 0: do not"
    )
    limit: Count | None = option(None, "only the first so many prompts")
    seed: Seed = option(0, "seed of the samples")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(
            ["generation_precision"], "here: the search weighs whole logits of the model as it is loaded"
        )


@led
def run(config: Config, run: Run) -> None:
    """Answer every prompt plainly, with the alignment prompt, by best-of-n and by the search; measure and report.

    Raises:
        DataError: prompts or constraints that cannot be used.
        ConfigError: no reward, or one that cannot be used.
    """
    tasks, options = read_prompts(config.prompts, config, limit=config.limit)
    base = open_local(config)
    own = {index: task.constraints for index, task in enumerate(tasks)}
    rewards = build_rewards(options, constraints=own, open_judge=judge_over(base))
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens, temperature=0.0, stop=tuple(config.stop), seed=config.seed
    )
    arms = Arms(run, base, rewards, tasks, sampling)
    arms.plain("plain", None)
    if config.alignment_prompt is not None:
        arms.plain("prompted", config.alignment_prompt)
    if config.best_of:
        arms.best_of(f"best of {config.best_of}", config.best_of, config.alignment_prompt)
    arms.search("deal", config)
    write_reward_report(run, config, arms)
