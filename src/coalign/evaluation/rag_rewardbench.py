"""RAG-RewardBench: which reward model, judge or policy prefers the right answer where answers rest on retrieved passages.

RAG-RewardBench: Benchmarking Reward Models in Retrieval Augmented Generation for Preference Alignment (arXiv 2412.13746).

    coalign run rag-rewardbench --data pairs.jsonl --reward model:PATH --reward likelihood:default --judges default
    coalign run rag-rewardbench --mode build --data questions.jsonl --generators A B --judges C D

`rank` (the default) gives every reward, policy and judge its accuracy on pairs, by subset, by six categories (helpful,
reason, citation, harmless, abstain, conflict) and overall, and ranks them by the share of all pairs (micro), as the
paper's table does; a length baseline is always among them. `build` makes such pairs from questions with gold answers and
passages: prompts for each category, answers of several models, scores of several judges, pairs on which the judges agree.

Reconstruction: no scoring code is public. Ours are the thresholds of the pair filter, half a point for a tie (`--tie wrong`
is RewardBench's rule), sums of log-probabilities over tokens for policies (`reduction=mean` is the other reading), all
wordings of prompts and criteria, and how passages are shortened to a model's context: evenly from their ends. Judges choose
one of two without a tie, each pair in both orders; a reply that cannot be read counts as wrong. The study of best-of-n is
not part of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from coalign.core.errors import DataError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, NonNegative, option, required
from coalign.core.runs import Run
from coalign.evaluation.retrieval.building import BuildingOptions, build, judge_opener
from coalign.evaluation.retrieval.pairs import BLOCKS, Pair, parse_categories, read_pairs
from coalign.evaluation.retrieval.preferring import (
    Preferences,
    Tie,
    judge_preferences,
    length_preferences,
    open_named_reward,
    reward_preferences,
)
from coalign.evaluation.retrieval.report import write_leaderboard
from coalign.judging.options import JudgeOptions
from coalign.judging.protocol import Cost, check_failures
from coalign.judging.run import verdict_row
from coalign.training.distributed.leading import led

_RANK: Any = {"mode": "rank"}


@dataclass(kw_only=True)
class Config(BuildingOptions, JudgeOptions):
    """Options of `coalign run rag-rewardbench`; --judges name language models, on the endpoint where one is given."""

    __group__ = "Method"

    data: str = required(
        "pairs (prompt, chosen, rejected, subset); with build questions (question, answers, passages)"
    )
    limit: Count | None = option(None, "read only so many rows")
    reward: list[str | dict[str, Any]] = option(
        [], "model:PATH, likelihood:PATH[,reference=PATH][,reduction=mean], judge:CRITERION or a verifier; several are ranked",
        split=False, only_with=_RANK,
    )  # fmt: skip
    judges: list[str] = option([], "language models that compare two answers (rank), or score them (build)")
    judge_form: Literal["relation", "choice", "score", "likert"] = option(
        "choice",
        "how judges compare: choice is one of two without a tie",
        source="paper",
        only_with=_RANK,
        group="Judge",
    )
    judge_explain: bool = option(False, "ask for reasons before the verdict", source="paper", group="Judge")
    categories: list[str] = option(
        [], "SUBSET=CATEGORY, where the name of a subset does not say it", only_with=_RANK
    )
    tie: Tie = option(
        "half",
        "what equal scores count; wrong: nothing, as in RewardBench",
        source="reconstruction",
        only_with=_RANK,
    )
    min_gap: NonNegative = option(
        0.0,
        "leave out pairs whose scores by the judges who labelled them are nearer than this",
        only_with=_RANK,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        who = "here: --judges and --reward say who judges"
        self.refuse(("judge", "model", "stored_verdicts", "tie_margin", "scale_low", "scale_high"), who)
        parse_categories(self.categories)
        if self.mode == "rank":
            from coalign.judging.rewards.specs import parse_reward

            for one in self.reward:
                parse_reward(one)
            if not self.judges:
                self.refuse(
                    ("judge_template", "judge_readout", "judge_form", "judge_explain", "criteria"),
                    "without judges",
                )
        elif not self.judges:
            raise ValueError("judges is empty, expected one model or more that scores the answers")


@dataclass(frozen=True)
class PairAccuracy:
    """Shares of pairs in the right order: by subset, by category, over all pairs, and means over subsets and categories."""

    per_subset: dict[str, float]
    per_category: dict[str, float]
    micro: float
    macro_subsets: float
    macro_categories: float


def pair_accuracy(
    credits: Sequence[float], subsets: Sequence[str], category_of_subset: Mapping[str, str]
) -> PairAccuracy:
    """Accuracy of a reward on pairs. A category pools the pairs of its subsets, `micro` those of all.

    Args:
        credits: [pairs] 1 for the right order, 0 for the wrong one, what a tie counts between.
        subsets: [pairs].

    Raises:
        ValueError: no pair, or different numbers of credits and subsets.
    """
    if not credits or len(credits) != len(subsets):
        raise ValueError(f"{len(credits)} credits and {len(subsets)} subsets, expected as many, one or more")

    def means(names: Sequence[str]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for name, one in zip(names, credits, strict=True):
            found.setdefault(name, []).append(one)
        return {name: sum(values) / len(values) for name, values in found.items()}

    by_subset, by_category = means(subsets), means([category_of_subset[one] for one in subsets])
    micro = sum(credits) / len(credits)
    return PairAccuracy(
        by_subset, by_category, micro, *(sum(one.values()) / len(one) for one in (by_subset, by_category))
    )


@led
def run(config: Config, run: Run) -> None:
    """Rank rewards and judges on pairs, or build pairs.

    Raises:
        ConfigError: a reward or a judge that cannot be used.
        DataError: pairs, questions or passages that cannot be used.
        CoalignError: a judge of whose verdicts too many are missing.
    """
    build(config, run) if config.mode == "build" else rank(config, run)


def rank(config: Config, run: Run) -> None:
    """Measure every reward and judge; write `scores-*.jsonl`, `verdicts-*.jsonl`, `results.json` and the report."""
    pairs = read_pairs(config.data, parse_categories(config.categories), limit=config.limit)
    kept = [one for one in pairs if one.judges_gap is None or one.judges_gap >= config.min_gap]
    if not kept:
        raise DataError(f"{config.data}: no pair whose judges' scores differ by {config.min_gap:g} or more.")
    open_judge, cost = judge_opener(config, run), Cost()
    found = [length_preferences(kept, config.tie)]
    for number, spec in enumerate(config.reward):
        name = spec if isinstance(spec, str) else ",".join(f"{key}={one}" for key, one in spec.items())
        path = run.artefacts / f"scores-{number}.jsonl"
        found.append(
            reward_preferences(
                path,
                kept,
                name,
                partial(open_named_reward, spec, open_judge),
                config.tie,
            )
        )
    for number, judge in enumerate(map(open_judge, config.judges)):
        preferences, verdicts = judge_preferences(judge, kept, config.tie, config.rubric)
        write_rows(run.artefacts / f"verdicts-{number}.jsonl", [verdict_row(one) for one in verdicts])
        check_failures(verdicts, limit=config.max_failures)
        found.append(preferences)
        cost += sum((one.cost for one in verdicts), Cost())
    results = measured(found, kept)
    write_json(run.artefacts / "results.json", results)
    write_leaderboard(run, config, kept, found, results, left_out=len(pairs) - len(kept), cost=cost)


def measured(found: Sequence[Preferences], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Name to the figures of `pair_accuracy` and of the two blocks, with the number of pairs."""
    results: dict[str, Any] = {}
    labels = [f"{one.category}/{one.subset}" for one in pairs]  # a subset's name may occur in two categories
    category_of = {label: one.category for label, one in zip(labels, pairs, strict=True)}
    for one in found:
        figures = asdict(pair_accuracy(one.credits, labels, category_of))
        for block, categories in BLOCKS.items():
            values = [
                credit for credit, pair in zip(one.credits, pairs, strict=True) if pair.category in categories
            ]
            figures[block] = sum(values) / len(values) if values else None
        if one.strict is not None:
            figures |= {"strict": sum(one.strict) / len(one.strict), "first_position_rate": one.first_shown}
        results[one.name] = {
            "kind": one.kind, "pairs": len(pairs), **figures, "shortened": one.shortened, "too_long": one.cut, "unscored": one.unscored
        }  # fmt: skip
    return results
