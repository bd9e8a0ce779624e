"""Arms of a check in the world of sums: each model alone, the base model guided by the aligned one, their ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Literal

import torch

from coalign.checks.arms import Measures
from coalign.checks.worlds.words.sums import AdditionWorld, answer_of
from coalign.decoding.collaboration.cached_speakers import CachedSpeaker, converse
from coalign.decoding.collaboration.guided import BASE, NUDGING, Guided, Settings, guide, nudged_words
from coalign.decoding.collaboration.mixtures import ENSEMBLE_TOP, ensemble, mix
from coalign.decoding.collaboration.speakers import Conversation, Length, Talk
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling

GAMMA, LONGEST, ROWS = 0.4, 60, 100
OPENING = " Sure ."


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
