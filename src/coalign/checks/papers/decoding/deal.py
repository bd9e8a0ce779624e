"""Check of `deal`: reward-guided search beside greedy decoding, on sets of words that a sentence must use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

from coalign.checks.arms import Measures, keep_items, kept_values, measure_arms
from coalign.checks.rules import decide
from coalign.checks.worlds.prompts.keyword_sets import keyword_sets
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Messages
from coalign.decoding.search.best_of_n import BestOfGenerator
from coalign.decoding.search.generator import SearchGenerator, SearchOptions
from coalign.judging.rewards.mix import OwnConstraintsReward, RewardMix, Weighted
from coalign.judging.verifiers.constraints import Constraint
from coalign.measures.statistics import paired_bootstrap
from coalign.models.backends.open import open_transformers
from coalign.models.fluency import text_logps
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Generator, Sampling

CHECK_SETS, CHECK_TOKENS = 8, 24
DEAL, BLOCKS, PROMPTED, RERANKED = "DeAL", "DeAL, blocks", "greedy", "best of 8"


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


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """The search covers more of the words that a sentence must use than greedy decoding of the same prompt, without
    a loss of fluency.

    Best-of-8 by the same reward, at a quarter of the search's tokens, and the search by blocks, at about as many as
    best-of-8, are reported and have no part in the rule.

    Rule:
        Seen: soft coverage above greedy decoding's by 0.10 or more, the 95 % interval of a bootstrap over all sets of
        words above 0, and the log-probability of a token lower by at most 1.0 nat. Not seen: the interval holds 0 or is
        below. Mixed: between.

    Setting:
        SmolLM2-135M-Instruct (bfloat16 where the processor has it), chat template, asked for one sentence with three
        given words; 8 sets a seed out of 120 common words, 24 new tokens. Search: 5 candidates, 1 beam, lookahead of 8,
        weight 10.
    """
    base = cache(lambda: open_transformers(ModelOptions(device="cpu")))
    options = SearchOptions(candidates=5, beams=1, lookahead=8, reward_weight=10.0)
    greedy = Sampling(max_new_tokens=CHECK_TOKENS, temperature=0.0)

    def prepare(seed: int) -> KeywordTask:
        return KeywordTask(seed, keyword_sets(seed, CHECK_SETS), base())

    def reranked(task: KeywordTask) -> Measures:
        sampling = replace(greedy, temperature=1.0, seed=task.seed)
        return _measured(run, RERANKED, task, BestOfGenerator(task.base, task.rewards, 8), sampling)

    def searched(name: str, options: SearchOptions, task: KeywordTask) -> Measures:
        return _measured(run, name, task, SearchGenerator(task.base, task.rewards, options), greedy)

    arms = {
        PROMPTED: lambda task: _measured(run, PROMPTED, task, task.base, greedy),
        RERANKED: reranked,
        DEAL: partial(searched, DEAL, options),
        BLOCKS: partial(searched, BLOCKS, replace(options, mode="block")),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    change = paired_bootstrap(*(kept_values(run, arm, seeds, "soft") for arm in (PROMPTED, DEAL)))
    drop = -rows.gap("log-probability", DEAL, PROMPTED)
    return rows.verdict(
        check,
        outcome=decide(
            seen=change.low > 0 and change.mean >= 0.10 and drop <= 1.0, not_seen=not change.low > 0
        ),
        summary={
            "sets of words": change.n,
            "soft coverage, DeAL - greedy": change.mean,
            "its interval, low": change.low,
            "its interval, high": change.high,
            "hard coverage, DeAL - greedy": rows.gap("hard", DEAL, PROMPTED),
            "fall of a token's log-probability": drop,
            "soft coverage, DeAL - best of 8": rows.gap("soft", DEAL, RERANKED),
            "soft coverage, blocks - best of 8": rows.gap("soft", BLOCKS, RERANKED),
        },
        tried=[
            (
                f"Blocks, the whole lookahead taken at a time: soft coverage {rows.gap('soft', BLOCKS, PROMPTED):+.3f} "
                "against greedy decoding, a token's log-probability "
                f"{rows.gap('log-probability', BLOCKS, PROMPTED):+.3f}."
            )
        ],
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
