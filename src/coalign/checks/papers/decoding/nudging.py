"""Check of `nudging`: a base model nudged by a small aligned one, in the world of sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Literal

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import best_of, decide, gaps_between, mean_of, most_seeds
from coalign.checks.worlds.words.sums import AdditionWorld, answer_of, make_world
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.decoding.collaboration.cached_speakers import CachedSpeaker, converse
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Settings, guide, nudged_words
from coalign.decoding.collaboration.mixtures import ENSEMBLE_TOP, ensemble, mix
from coalign.decoding.collaboration.speakers import Conversation, Length, Talk
from coalign.measures.statistics import mcnemar
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling

GAMMA, LONGEST, ROWS = 0.4, 60, 100
OPENING = " Sure ."


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
    gaps = gaps_between(accuracy["nudged"], best_of([accuracy["base"], accuracy["aligned"]]))
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


def alone(side: Literal["base", "aligned"], world: AdditionWorld) -> Measures:
    """One model's greedy answers."""
    return {"accuracy": fmean(right(world, _greedy(side, world)))}


def begun(world: AdditionWorld) -> Measures:
    """The base model's greedy answers after the words with which the aligned model begins: what it can do once it
    answers at all.
    """
    return {"accuracy": fmean(right(world, _greedy("base", world, OPENING)))}


def nudged(world: AdditionWorld) -> Measures:
    """Guided answers; how often they alone are right, and how often a model alone is; where the models differ."""
    settings = Settings(gamma=GAMMA, max_length=LONGEST)
    answers = _answers(world, lambda length: guide(settings, length))
    mine = right(world, [one.text for one in answers])
    measures = {
        "accuracy": fmean(mine),
        "nudge ratio": fmean(nudged_words(one.text, one.nudges)[1] for one in answers),
        "ended by the aligned model": fmean(one.stop_reason == "nudging_model_stop" for one in answers),
    }
    for side in ("base", "aligned"):
        theirs = right(world, _greedy(side, world))
        measures[f"won against {side}"] = float(sum(a and not b for a, b in zip(mine, theirs, strict=True)))
        measures[f"lost against {side}"] = float(sum(b and not a for a, b in zip(mine, theirs, strict=True)))
    return {**measures, **differences(world)}


def ensembled(world: AdditionWorld) -> Measures:
    """Answers from the sum of both models' probabilities."""
    mixing = partial(mix, ensemble, (BASE, NUDGING), max_length=LONGEST, chunk_tokens=1)
    answers = _answers(world, mixing, alternatives=ENSEMBLE_TOP)
    return {"accuracy": fmean(right(world, [one.text for one in answers]))}


@torch.inference_mode()
def differences(world: AdditionWorld) -> Measures:
    """How often the models' most probable tokens differ, where the base model is unsure and where it is sure.

    Over the positions of the aligned model's own answers, both models reading the same text.
    """
    tokenizer = world.tokenizer
    texts = [
        one.prompt + answer for one, answer in zip(world.questions, _greedy("aligned", world), strict=True)
    ]
    unsure: list[bool] = []
    sure: list[bool] = []
    for question, text in zip(world.questions, texts, strict=True):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        start = len(tokenizer(question.prompt, add_special_tokens=False)["input_ids"]) - 1  # type: ignore[arg-type]
        base = world.base(input_ids=ids).logits[0, start:].softmax(-1)
        aligned = world.aligned(input_ids=ids).logits[0, start:]
        differ = (base.argmax(-1) != aligned.argmax(-1)).tolist()
        for top, other in zip(base.amax(-1).tolist(), differ, strict=True):
            if top < 0.3:
                unsure.append(other)
            elif top > 0.8:
                sure.append(other)
    return {
        "models differ, below 0.3": fmean(unsure) if unsure else 0.0,
        "models differ, above 0.8": fmean(sure) if sure else 0.0,
    }


def right(world: AdditionWorld, texts: Sequence[str]) -> list[bool]:
    """Whether each answer names its question's sum."""
    return [answer_of(text) == one.total for text, one in zip(texts, world.questions, strict=True)]


def _answers(world: AdditionWorld, talk: Callable[[Length], Talk[Guided]], **speaking: int) -> list[Guided]:
    """What both models say together to every question, each answer by a `talk` of its own."""
    models = {BASE: world.base, NUDGING: world.aligned}
    speakers = {side: CachedSpeaker(model, world.tokenizer, **speaking) for side, model in models.items()}
    conversations = [
        Conversation(talk(speakers[BASE].length), dict.fromkeys(speakers, one.prompt), (n, 0))
        for n, one in enumerate(world.questions)
    ]
    return converse(conversations, speakers, rows=ROWS)


def _greedy(side: str, world: AdditionWorld, opening: str = "") -> list[str]:
    generator = TransformersGenerator(getattr(world, side), world.tokenizer)
    sampling = Sampling(max_new_tokens=LONGEST, temperature=0.0)
    prompts = [one.prompt + opening for one in world.questions]
    return [one[0].text for one in generator.generate(prompts, sampling)]
