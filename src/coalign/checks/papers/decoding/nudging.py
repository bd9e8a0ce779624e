"""Check of `nudging`: a base model nudged by a small aligned one, in the world of sums."""

from __future__ import annotations

from functools import partial

from coalign.checks.arms import measure_arms
from coalign.checks.papers.decoding.nudging_arms import alone, begun, ensembled, nudged
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.worlds.words.sums import make_world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.measures.statistics import mcnemar


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """A base model that can add, nudged by a small one that knows how answers look, beats both, in a world of sums.

    The base model with the first words of an answer is reported and has no part in the rule.

    Rule:
        Seen: the nudged answers' accuracy is above that of both models alone by 0.05 or more in at least 4 of 5 seeds,
        McNemar's exact test against the better of the two (by mean accuracy), pooled over seeds, gives p < 0.05, and
        the mean share of nudged words is below 0.5. Otherwise not seen.

    Setting:
        Sums of two numbers of two digits, worked out in words. Base: transformer of 3 layers and width 96, 700 steps on
        documents in which a question is followed by a solution in one of 8 x 3 x 3 x 5 ways of writing or, as often, by
        unrelated text, which begins with one of 4 words, so that it never answers by itself. Aligned: 1 layer and width
        32, 500 steps on answers in one way of writing. One vocabulary of words. 300 held-out questions, greedy, gamma
        0.4, at most 60 tokens; an answer's number is what follows "The answer is", else its last number. Mended after
        its first run, under the same rule: there the base model answered by itself and was right on every question, and
        the aligned model (2 layers) on 96 %, so that no arm could be better by 0.05.
    """
    arms = {
        "base": partial(alone, "base"),
        "base, answer begun": begun,
        "aligned": partial(alone, "aligned"),
        "nudged": nudged,
        "ensemble": ensembled,
    }
    rows = measure_arms(run, seeds=seeds, prepare=make_world, arms=arms)
    accuracy = {arm: rows.values("accuracy", arm) for arm in arms}
    better = "base" if mean_of(accuracy["base"]) >= mean_of(accuracy["aligned"]) else "aligned"
    gaps = {
        seed: accuracy["nudged"][seed] - max(accuracy["base"][seed], accuracy["aligned"][seed])
        for seed in accuracy["nudged"]
    }
    won, lost = (
        round(sum(rows.values(f"{what} against {better}", "nudged").values())) for what in ("won", "lost")
    )
    p = mcnemar(won, lost)
    ratio = rows.mean("nudge ratio", "nudged")
    unsure, sure = (rows.mean(f"models differ, {where}", "nudged") for where in ("below 0.3", "above 0.8"))
    hits = {seed: gap >= 0.05 for seed, gap in gaps.items()}
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(hits) and p < 0.05 and ratio < 0.5),
        summary={
            "seeds that hit": sum(hits.values()),
            "accuracy, nudged - better of both": mean_of(gaps),
            "better alone": better,
            "pooled p": p,
            "nudged words": ratio,
            "accuracy, nudged - ensemble": rows.gap("accuracy", "nudged", "ensemble"),
            "accuracy, nudged - base with its answer begun": rows.gap(
                "accuracy", "nudged", "base, answer begun"
            ),
            "models differ where the base is below 0.3": unsure,
            "models differ where the base is above 0.8": sure,
        },
        tried=[
            (
                "The world before it was mended, in which the base model answers by itself: accuracy of the base model "
                "1.000, aligned 0.960, nudged 0.972, ensemble 1.000, with 10 % of the words nudged (not seen)."
            ),
            (
                "Proposals of the aligned model of 8, 4 and 2 tokens in place of 16, seed 0: accuracy 0.667, 1.000 and 1.000 "
                "against 0.500. Where a proposal holds the end of the answer it is taken whole, here with the number."
            ),
        ],
    )
