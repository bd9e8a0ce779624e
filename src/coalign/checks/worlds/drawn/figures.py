"""Drawn figures with attributes and identities, and captions of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coalign.checks.worlds.drawn.scene import COLOURS, SIDE, Style, coverage
from coalign.vision.search.lexicon import Lexicon, lexicon_of

TARGET = Style((0.05, 0.3), tint=0.04, paleness=0.15, colour_jitter=0.03, noise=0.05)
"""The style that is searched in; the labeller has learnt plain ones."""
VIEWS = 6
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "upper": tuple(COLOURS),
    "lower": tuple(COLOURS),
    "hair": ("short", "long"),
    "hat": ("no hat", "a hat"),
    "bag": ("no bag", "a bag"),
}
SKIN, HAIR, HAT, BAG = (0.85, 0.65, 0.5), (0.4, 0.25, 0.12), (0.7, 0.9, 0.6), (0.65, 0.4, 0.3)


@dataclass(frozen=True)
class Figure:
    """An identity: its attributes by place, and how its parts lie, which no text says."""

    attributes: tuple[int, ...]
    offsets: tuple[tuple[float, float], ...]

    def word(self, name: str) -> str:
        return ATTRIBUTES[name][self.attributes[list(ATTRIBUTES).index(name)]]


def random_figure(rng: np.random.Generator) -> Figure:
    """An identity, every attribute evenly."""
    attributes = tuple(int(rng.integers(len(values))) for values in ATTRIBUTES.values())
    return Figure(attributes, tuple((float(x), float(y)) for x, y in rng.uniform(-1.5, 1.5, size=(3, 2))))


def draw_figure(figure: Figure, style: Style, rng: np.random.Generator) -> Tensor:
    """[3, 32, 32] one view: moved as a whole by up to a pixel, 10 % brighter or darker, with noise."""
    base = rng.uniform(*style.background) + rng.uniform(-style.tint, style.tint, size=3)
    picture = np.broadcast_to(base[:, None, None], (3, SIDE, SIDE)).astype(np.float32)
    shift, light = rng.uniform(-1, 1, size=2), rng.uniform(0.9, 1.1)
    (hx, hy), (ux, uy), (lx, ly) = figure.offsets
    long, hat, bag = (figure.word(name) in ("long", "a hat", "a bag") for name in ("hair", "hat", "bag"))
    parts: list[tuple[str, float, float, float, Any]] = [
        ("circle", 16 + hx, 7 + hy, 5.4 if long else 3.4, HAIR),
        ("circle", 16 + hx, 7.8 + hy, 2.8, SKIN),
        ("square", 16 + ux, 15.5 + uy, 5.5, COLOURS[figure.word("upper")]),
        ("square", 16 + lx, 25 + ly, 5.0, COLOURS[figure.word("lower")]),
    ]
    parts += [("triangle", 16 + hx, 4 + hy, 5.0, HAT)] if hat else []
    parts += [("diamond", 25 + ux, 19 + uy, 5.5, BAG)] if bag else []
    for shape, x, y, radius, colour in parts:
        pale = rng.uniform(0, style.paleness)
        seen = np.asarray(colour) * (1 - pale) + pale + rng.normal(size=3) * style.colour_jitter
        cover = coverage(shape, x + shift[0], y + shift[1], radius)
        picture = picture * (1 - cover) + seen[:, None, None] * cover
    picture = picture * light + rng.normal(size=picture.shape) * style.noise
    return torch.from_numpy(picture.clip(0, 1).astype(np.float32))


HUMAN = (
    "somebody in {upper} and {lower} who has {hair} hair and {hat} and {bag}",
    "i see {bag} and {hat} on one with {hair} hair the trousers are {lower} the top is {upper}",
    "{upper} top {lower} trousers {hair} hair {hat} {bag}",
)
TEMPLATES = [
    f"{start} {middle}{end}"
    for start in ("a figure in {upper} with {lower} trousers", "it wears a {upper} top over {lower}", "{upper} above {lower} is seen",
                  "the top is {upper} and the trousers {lower}", "one dressed in {upper} and {lower}")
    for middle in ("and {hair} hair", "the hair is {hair}")
    for end in ("[ with {hat}][ with {bag}]", "[ it has {bag}][ it has {hat}]")
]  # fmt: skip
SAID = {
    "upper": "in a {} top",
    "lower": "in {} trousers",
    "hair": "with {} hair",
    "hat": "with {}",
    "bag": "with {}",
}
"""Of an attribute in the captions that the labeller has learnt."""


def figure_lexicon() -> Lexicon:
    """The attributes as the labeller is asked for them, and 20 templates."""
    categories = {
        name: {
            "phrases": list(values),
            "prompt": f"a figure {SAID[name]}",
            "required": name not in ("hat", "bag"),
        }
        | ({"negative": 0} if name in ("hat", "bag") else {})
        for name, values in ATTRIBUTES.items()
    }
    return lexicon_of({"categories": categories, "templates": TEMPLATES}, "figures")


def generic_caption(figure: Figure, rng: np.random.Generator) -> str:
    """Each attribute with a chance of a half, "and" between them; at least one."""
    told = [name for name in ATTRIBUTES if rng.random() < 0.5] or [
        list(ATTRIBUTES)[int(rng.integers(len(ATTRIBUTES)))]
    ]
    return "a figure " + " and ".join(SAID[name].format(figure.word(name)) for name in told)


def described(
    figure: Figure, template: str, rng: np.random.Generator | None = None, dropped: float = 0.0
) -> str:
    """A template filled; with `rng` each attribute's word is left out with the chance `dropped`."""
    words = {
        name: "" if rng is not None and rng.random() < dropped else figure.word(name) for name in ATTRIBUTES
    }
    return " ".join(template.format(**words).split())


def words_of_figures() -> list[str]:
    """Every word of the world, and the mask."""
    texts = [
        "a figure and",
        *HUMAN,
        *TEMPLATES,
        *SAID.values(),
        *(one for part in ATTRIBUTES.values() for one in part),
    ]
    told = "".join(" " if one in "{}[]" else one for one in " ".join(texts)).split()
    return list(dict.fromkeys(["<mask>", *told]))
