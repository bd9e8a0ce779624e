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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, paired_gaps
from coalign.checks.worlds.keyword_sets import keyword_sets
from coalign.core.catalogue import get
from coalign.core.errors import ConfigError
from coalign.core.options import Count, CountOrZero, option, required
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Messages
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import SearchGenerator, SearchOptions
from coalign.decoding.search.report import write_reward_report
from coalign.decoding.search.ways import Arms, read_prompts
from coalign.judging.rewards.mix import OwnConstraintsReward, RewardMix, Weighted
from coalign.judging.rewards.specs import RewardOptions, build_rewards, judge_over
from coalign.judging.verifiers.constraints import Constraint
from coalign.measures.statistics import paired_bootstrap
from coalign.models.backends.open import open_transformers
from coalign.models.fluency import text_logps
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.methods import Method, MethodModels
from coalign.models.options import ModelOptions
from coalign.models.types import Generator, Sampling


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
    seed: int = option(0, "seed of the samples")

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = self.changed_adapter_options()
        if changed or self.tuning != "auto":
            raise ValueError(f"{(changed or ['tuning'])[0]} has no effect: nothing is trained; leave it out")


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


@dataclass(frozen=True)
class KeywordTask:
    """The check's world for one seed: sets of words, prompts that ask for a sentence with them, and a model."""

    seed: int
    words: list[list[str]]
    base: TransformersGenerator

    @property
    def prompts(self) -> list[Messages]:
        texts = [f"Write one sentence that uses the words {', '.join(one)}." for one in self.words]
        return [[{"role": "user", "content": text}] for text in texts]

    @property
    def rewards(self) -> RewardMix:
        own = {n: [Constraint("must_include_stems", {"stems": one})] for n, one in enumerate(self.words)}
        return RewardMix([Weighted(OwnConstraintsReward(own))])


CHECK_SETS, CHECK_TOKENS = 8, 24
DEAL, BLOCKS, PROMPTED, RERANKED = "DeAL", "DeAL, blocks", "greedy", "best of 8"


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """The search covers more of the words that a sentence must use than greedy decoding of the same prompt, without
    a loss of fluency.

    Best-of-8 by the same reward, at a quarter of the search's tokens, and the search by blocks, at about as many as
    best-of-8, are reported and have no part in the rule.
    """
    base = cache(lambda: open_transformers(ModelOptions(device="cpu")))
    options = SearchOptions(candidates=5, beams=1, lookahead=8, reward_weight=10.0)
    greedy = Sampling(max_new_tokens=CHECK_TOKENS, temperature=0.0)

    def best_of(count: int) -> Callable[[KeywordTask], Measures]:
        def arm(task: KeywordTask) -> Measures:
            generator = BestOfGenerator(task.base, task.rewards, count)
            sampling = replace(greedy, temperature=1.0, seed=task.seed)
            return _measured(run, f"best of {count}", task, generator, sampling)

        return arm

    def search(name: str, options: SearchOptions) -> Callable[[KeywordTask], Measures]:
        def arm(task: KeywordTask) -> Measures:
            return _measured(run, name, task, SearchGenerator(task.base, task.rewards, options), greedy)

        return arm

    arms = {
        PROMPTED: lambda task: _measured(run, PROMPTED, task, task.base, greedy),
        RERANKED: best_of(8),
        DEAL: search(DEAL, options),
        BLOCKS: search(BLOCKS, replace(options, mode="block")),
    }
    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=lambda seed: KeywordTask(seed, keyword_sets(seed, CHECK_SETS), base()),
        arms=arms,
    )
    change = paired_bootstrap(_coverage(run, PROMPTED, seeds), _coverage(run, DEAL, seeds))
    drop = -mean_of(paired_gaps(rows, "log-probability", DEAL, PROMPTED))
    return Verdict(
        slug="deal",
        outcome=decide(
            seen=change.low > 0 and change.mean >= 0.10 and drop <= 1.0, not_seen=not change.low > 0
        ),
        claim=get("deal").claim,
        rule="Seen: soft coverage above greedy decoding's by 0.10 or more, the 95 % interval of a bootstrap over all "
        "sets of words above 0, and the log-probability of a token lower by at most 1.0 nat. Not seen: the interval "
        "holds 0 or is below. Mixed: between.",
        setting="SmolLM2-135M-Instruct (bfloat16 where the processor has it), chat template, asked for one sentence with three given words; "
        "8 sets a seed out of 120 common words, 24 new tokens. Search: 5 candidates, 1 beam, lookahead of 8, weight 10.",
        measures=rows,
        summary={
            "sets of words": change.n,
            "soft coverage, DeAL - greedy": change.mean,
            "its interval, low": change.low,
            "its interval, high": change.high,
            "hard coverage, DeAL - greedy": mean_of(paired_gaps(rows, "hard", DEAL, PROMPTED)),
            "fall of a token's log-probability": drop,
            "soft coverage, DeAL - best of 8": mean_of(paired_gaps(rows, "soft", DEAL, RERANKED)),
            "soft coverage, blocks - best of 8": mean_of(paired_gaps(rows, "soft", BLOCKS, RERANKED)),
        },
        tried=[
            (
                "Blocks, the whole lookahead taken at a time: soft coverage "
                f"{mean_of(paired_gaps(rows, 'soft', BLOCKS, PROMPTED)):+.3f} against greedy decoding, a token's "
                f"log-probability {mean_of(paired_gaps(rows, 'log-probability', BLOCKS, PROMPTED)):+.3f}."
            )
        ],
        seconds=seconds_spent(run),
    )


def _measured(run: Run, name: str, task: KeywordTask, generator: Generator, sampling: Sampling) -> Measures:
    """Mean coverage, sets that are covered whole, and the log-probability of a token; coverage set by set is kept."""
    texts = [one[0].text for one in generator.generate(task.prompts, sampling, label=name)]
    stems = [Constraint("must_include_stems", {"stems": one}) for one in task.words]
    soft = [one.verify("", text) for one, text in zip(stems, texts, strict=True)]
    keep_items(run, name, task.seed, soft=soft, words=task.words, texts=texts)
    logps = text_logps(task.base.model, task.base.tokenizer, task.prompts, [[text] for text in texts])
    return {
        "soft": sum(soft) / len(soft),
        "hard": sum(one == 1 for one in soft) / len(soft),
        "log-probability": sum(logps.sums) / max(1, sum(logps.tokens)),
    }


def _coverage(run: Run, arm: str, seeds: int) -> Sequence[float]:
    """Soft coverage of every set of words, by seed."""
    return [value for row in kept_items(run, arm, seeds) for value in row["soft"]]
