"""Captions of drawn scenes that are wrong in known ways, and how people would rank them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coalign.checks.worlds.drawn.captions import caption, vocabulary
from coalign.checks.worlds.drawn.scene import COLOURS, PLACES, SHAPES, SIZES, DrawnObject, Scene

JUNK = ("img", "jpg", "best", "free", "hd", "click", "photo", "stock", "buy", "now")
"""Words of alt text."""
ORIGINS = ("full", "short", "one wrong", "two wrong", "alt text", "other picture")
WRONG = ORIGINS[2:]
FACTS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES), "colour": tuple(COLOURS), "size": tuple(SIZES), "place": tuple(PLACES),
}  # fmt: skip


@dataclass(frozen=True)
class Captioned:
    """A caption with what is known of it.

    Attributes:
        origin: one of `ORIGINS`.
        right, wrong: facts that it states.
        junk: words that say nothing.
    """

    text: str
    origin: str
    right: int
    wrong: int
    junk: int = 0

    @property
    def utility(self) -> float:
        """`(2 right - 4 wrong - junk) / 2`: what people think of it, but for their noise."""
        return (2 * self.right - 4 * self.wrong - self.junk) / 2


def words() -> list[str]:
    """The words of the world, those of alt text included."""
    return [*vocabulary(), *JUNK]


def captioned(scene: Scene, origin: str, others: Sequence[Scene], rng: np.random.Generator) -> Captioned:
    """A caption of a scene.

    Args:
        origin: `full` tells every fact, `short` shapes and colours, `one wrong` and `two wrong` every fact with so many of
            them changed, `alt text` the words of a short caption in any order among two to four that say nothing, `other
            picture` a full caption of one of `others`.

    Raises:
        ValueError: an unknown origin.
    """
    facts = len(FACTS) * len(scene)
    if origin == "full":
        return Captioned(caption(scene, rng, size=1, place=1), origin, facts, 0)
    if origin == "short":
        return Captioned(caption(scene, rng, size=0, place=0), origin, 2 * len(scene), 0)
    if origin in ("one wrong", "two wrong"):
        wrong = 1 + (origin == "two wrong")
        return Captioned(
            caption(changed(scene, wrong, rng), rng, size=1, place=1), origin, facts - wrong, wrong
        )
    if origin == "alt text":
        junk = rng.choice(JUNK, size=rng.integers(2, 5), replace=False).tolist()
        said = [*caption(scene, frames=("{}",), size=0, place=0).split(), *junk]
        return Captioned(" ".join(rng.permutation(said).tolist()), origin, 2 * len(scene), 0, len(junk))
    if origin == "other picture":
        other = others[int(rng.integers(len(others)))]
        right = agreeing(scene, other)
        return Captioned(caption(other, rng, size=1, place=1), origin, right, len(FACTS) * len(other) - right)
    raise ValueError(f"{origin!r} is no origin, expected one of {', '.join(ORIGINS)}")


def changed(scene: Scene, count: int, rng: np.random.Generator) -> list[DrawnObject]:
    """The scene with so many of its facts changed, each to another value."""
    found = list(scene)
    places = [(number, name) for number in range(len(scene)) for name in FACTS]
    order: list[int] = rng.permutation(len(places)).tolist()
    for chosen in order[:count]:
        number, name = places[chosen]
        found[number] = with_other(found[number], name, rng)
    return found


def with_other(one: DrawnObject, name: str, rng: np.random.Generator) -> DrawnObject:
    """The object with another value of a property."""
    values = [value for value in FACTS[name] if value != getattr(one, name)]
    change: dict[str, Any] = {name: values[rng.integers(len(values))]}
    return replace(one, **change)


def agreeing(scene: Scene, other: Scene) -> int:
    """Facts told of `other` that are true of the scene, objects matched so that most are."""

    def alike(a: DrawnObject, b: DrawnObject) -> int:
        return sum(getattr(a, name) == getattr(b, name) for name in FACTS)

    if len(scene) == len(other) == 2:
        straight = alike(scene[0], other[0]) + alike(scene[1], other[1])
        return max(straight, alike(scene[0], other[1]) + alike(scene[1], other[0]))
    return max(alike(a, b) for a in scene for b in other)


def ranks_of(utilities: Sequence[float], rng: np.random.Generator, noise: float = 0.5) -> list[int]:
    """Ranks that people give, 1 the best: by utility with normal noise, rounded to whole numbers, so that ties occur."""
    seen = np.rint(np.asarray(utilities) + rng.normal(0, noise, len(utilities)))
    levels = np.unique(-seen)
    return [int(np.searchsorted(levels, -one)) + 1 for one in seen]
