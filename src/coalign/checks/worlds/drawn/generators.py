"""Text-to-image models of the drawn world that get parts of a prompt wrong, and people who say which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from coalign.checks.worlds.drawn.captions import caption
from coalign.checks.worlds.drawn.corrupted import FACTS, with_other
from coalign.checks.worlds.drawn.scene import PLACES, SHIFTED, DrawnObject, Scene, draw_many, random_scene

RATES = {"model 5 %": 0.05, "model 15 %": 0.15, "model 30 %": 0.3, "model 45 %": 0.45, "model 60 %": 0.6}
"""How often each gets an element wrong; best first."""
STYLE = SHIFTED[2]
"""What is generated looks unlike what the small CLIP learnt."""
ANNOTATORS, FLIPPED, SPREAD = 3, 0.05, 0.4


@dataclass(frozen=True)
class Generated:
    """A picture that was made of a prompt.

    Attributes:
        elements: "word (property)" to whether the picture keeps it.
        labels: the same to what annotators say, 0 or 1 each.
        overall: what they say of the whole, 1 to 5 each.
    """

    prompt: str
    generator: str
    drawn: Scene
    elements: Mapping[str, bool]
    labels: Mapping[str, tuple[float, ...]]
    overall: tuple[float, ...]


def generate(scene: Scene, generator: str, rng: np.random.Generator) -> Generated:
    """A picture of a prompt by a model that gets each element wrong by its rate."""
    drawn, elements = list(scene), dict[str, bool]()
    for number, asked in enumerate(scene):
        for name in FACTS:
            kept = rng.random() >= RATES[generator]
            elements[f"{getattr(asked, name)} ({name})"] = kept
            if not kept:
                drawn[number] = _wrong(drawn, number, name, rng)
    labels = {
        element: tuple(float(kept != (rng.random() < FLIPPED)) for _ in range(ANNOTATORS))
        for element, kept in elements.items()
    }
    share = np.mean(list(elements.values()))
    overall = np.rint(1 + 4 * share + rng.normal(0, SPREAD, ANNOTATORS)).clip(1, 5)
    return Generated(caption(scene), generator, drawn, elements, labels, tuple(overall.tolist()))


def generated(prompts: int, rng: np.random.Generator) -> tuple[list[Generated], Tensor]:
    """A picture of every prompt by every model, prompt by prompt, and the pictures [prompts x models, 3, 32, 32]. Prompts ask
    for one object.
    """
    scenes = [random_scene(rng, counts=(1,)) for _ in range(prompts)]
    found = [generate(scene, name, rng) for scene in scenes for name in RATES]
    return found, draw_many([one.drawn for one in found], STYLE, rng)


def questions(count: int, rng: np.random.Generator) -> tuple[list[str], Tensor, Tensor]:
    """Questions whether a picture of an object shows something, half of them whether it does not; pictures [count, 3, 32, 32];
    and [count] whether the answer is yes. Half of the answers are yes.
    """
    scenes = [random_scene(rng, counts=(1,)) for _ in range(count)]
    texts, answers = [], []
    for (one,) in scenes:
        name = tuple(FACTS)[rng.integers(len(FACTS))]
        shown, negated = rng.random() < 0.5, rng.random() < 0.5
        asked = one if shown else with_other(one, name, rng)
        texts.append(question(getattr(asked, name), negated))
        answers.append(shown != negated)
    return texts, draw_many(scenes, STYLE, rng), torch.tensor(answers)


def question(phrase: str, negated: bool) -> str:
    """Whether the picture shows it, or that it does not."""
    return f"is there {'no ' if negated else ''}{phrase} in this picture"


def _wrong(drawn: Sequence[DrawnObject], number: int, name: str, rng: np.random.Generator) -> DrawnObject:
    """The object with another value; never in a cell that is taken."""
    one = drawn[number]
    if name != "place":
        return with_other(one, name, rng)
    free = [place for place in PLACES if all(place != other.place for other in drawn)]
    return replace(one, place=free[rng.integers(len(free))])
