"""Check of `response-selection`: does self-aligned perplexity foresee which way of writing answers will work?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.records.strategies import GOLD, StoredTask, read_strategies
from coalign.checks.worlds.words.styles import STYLES, StyleWorld, is_right, make_world, shown_before
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.answer_styles.scores import (
    against_truth,
    example_places,
    ifd_ratio,
    perplexity,
    spread,
    weighted_mean,
)

EXAMPLES, SCORED = 2, 30
STEPS, RATE = 20, 1e-3


@dataclass(frozen=True)
class Material:
    """What the scores of a seed are held against.

    Attributes:
        accuracies: strategy to the accuracy after training on its answers.
        scores: score to strategy to its value.
    """

    accuracies: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]


def prepare(seed: int) -> Material:
    """The world of a seed: every strategy scored, and trained on."""
    world = make_world(seed)
    accuracies = {name: world.accuracy(world.tuned(name, steps=STEPS, learning_rate=RATE)) for name in STYLES}
    return Material(accuracies, scores_of(world))


def scores_of(world: StyleWorld) -> dict[str, dict[str, float]]:
    """The scores of every strategy over the first questions, as the library defines them."""
    said = world.answers(world.model, world.asked)
    pool = [one for one, question in zip(said, world.asked, strict=True) if is_right(one, question)]
    questions = world.learnt[:SCORED]
    contexts = {
        "perplexity": [one.prompt for one in questions],
        "self-aligned": [
            shown_before(one, [pool[place] for place in example_places(number, len(pool), EXAMPLES)])
            for number, one in enumerate(questions)
        ],
        "alone": ["A :" for _ in questions],
    }
    found: dict[str, dict[str, float]] = {"self-aligned": {}, "perplexity": {}, "ifd": {}}
    for name, style in STYLES.items():
        texts = [style(one) for one in questions]
        logps = {kind: world.logps(before, texts) for kind, before in contexts.items()}
        for kind in ("self-aligned", "perplexity"):
            found[kind][name] = fmean(map(perplexity, logps[kind]))
        ratios = [
            ifd_ratio(-fmean(one), -fmean(other))
            for one, other in zip(logps["perplexity"], logps["alone"], strict=True)
        ]
        found["ifd"][name] = fmean(one for one in ratios if one is not None)
    return found


def held_against_truth(name: str) -> Callable[[Material], Measures]:
    """Rank correlation of a score with the accuracies, and what its choice has."""

    def arm(material: Material) -> Measures:
        rho, regret = against_truth(material.scores[name], material.accuracies, "lower")
        truth = material.accuracies
        return {
            "correlation": rho,
            "accuracy of the choice": max(truth.values()) - regret,
            "mean accuracy": fmean(truth.values()),
            "best accuracy": max(truth.values()),
            "spread": spread(truth),
            **{f"accuracy, {style}": value for style, value in truth.items()},
            **{f"score, {style}": value for style, value in material.scores[name].items()},
        }

    return arm


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Self-aligned perplexity on 30 answers of eight ways of writing ranks them more like their accuracies after training than
    plain perplexity does, in a world of sums.

    Rule:
        Seen: the mean over seeds of Spearman's correlation between the ranking and the accuracies after training is
        above 0 for self-aligned perplexity, and above that of plain perplexity by 0.02 or more. Not seen: it is at or
        below 0, or below that of plain perplexity by 0.02 or more. Mixed: between.

    Setting:
        Styles of sums: the last digit of a sum of three digits; a transformer of 2 layers and width 64 from scratch that
        read four of eight styles (1,000 steps of 32 documents). Its own right answers to 50 questions are the pool, two of
        them before each question. 30 questions a strategy are scored; the same model is trained on 150 answers of each
        strategy (20 steps of 16, rate up to 1e-3), and tested on 150 questions.
    """
    names = ("self-aligned", "perplexity", "ifd")
    rows = measure_arms(
        run, seeds=seeds, prepare=prepare, arms={name: held_against_truth(name) for name in names}
    )
    gaps = rows.gaps("correlation", "self-aligned", "perplexity")
    rho, ahead = rows.mean("correlation", "self-aligned"), mean_of(gaps)
    return rows.verdict(
        check,
        outcome=decide(seen=rho > 0 and ahead >= 0.02, not_seen=rho <= 0 or ahead <= -0.02),
        summary={
            **{f"correlation, {name}": rows.mean("correlation", name) for name in names},
            "self-aligned - perplexity": ahead,
            **{
                f"accuracy of the choice, {name}": rows.mean("accuracy of the choice", name) for name in names
            },
            "mean accuracy of the strategies": rows.mean("mean accuracy", "perplexity"),
            "best accuracy": rows.mean("best accuracy", "perplexity"),
        },
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """The authors' stored scores and accuracies (a checkout of XuanRen4470/SPPL): seventeen tasks and three models.

    Rule:
        Seen: for every model the mean over tasks of Spearman's correlation between ranking and accuracies, weighed by how
        much the strategies' accuracies differ, is higher for self-aligned than for plain perplexity, and the accuracy of
        the strategies that self-aligned perplexity chooses is at least the mean of all strategies. Not seen: the
        correlation is lower for two models or more. Mixed: between.

    Setting:
        {data}: means of 100 answers a strategy with three examples before the question, accuracies after tuning on 1,000
        answers averaged over the stored seeds; nothing is drawn, so that there is one seed.
    """
    tasks = read_strategies(data)
    models = list(dict.fromkeys(one.model for one in tasks))
    arms = {
        f"{model}, {name}": stored_arm(model, column)
        for model in models
        for name, column in (("self-aligned", "self_aligned"), ("perplexity", "perplexity"))
    }
    rows = measure_arms(run, seeds=1, prepare=lambda _: tasks, arms=arms)
    ahead, over_mean = {}, {}
    for model in models:
        ours, plain = f"{model}, self-aligned", f"{model}, perplexity"
        ahead[model] = rows.gap("weighted correlation", ours, plain)
        over_mean[model] = rows.mean("accuracy of the choice", ours) - rows.mean("mean accuracy", ours)
    seen = min(ahead.values()) > 0 and min(over_mean.values()) >= 0
    return rows.verdict(
        check_on_data,
        outcome=decide(seen=seen, not_seen=sum(one < 0 for one in ahead.values()) >= 2),
        summary={
            **{
                f"{model}: self-aligned - perplexity, weighted correlation": value
                for model, value in ahead.items()
            },
            **{f"{model}: accuracy of the choice - mean": value for model, value in over_mean.items()},
        },
        data=data.name,
    )


def stored_arm(model: str, column: str) -> Callable[[list[StoredTask]], Measures]:
    """What a stored score of a model is worth over its tasks."""

    def arm(tasks: list[StoredTask]) -> Measures:
        mine = [one for one in tasks if one.model == model]
        found = [against_truth(getattr(one, column), one.accuracies, "lower") for one in mine]
        best = [max(one.accuracies.values()) for one in mine]
        return {
            "correlation": fmean(rho for rho, _ in found),
            "weighted correlation": weighted_mean(
                [rho for rho, _ in found], [spread(one.accuracies, ignore=[GOLD]) for one in mine]
            ),
            "accuracy of the choice": fmean(
                top - regret for top, (_, regret) in zip(best, found, strict=True)
            ),
            "mean accuracy": fmean(fmean(one.accuracies.values()) for one in mine),
            "best accuracy": fmean(best),
            "tasks": len(mine),
        }

    return arm
