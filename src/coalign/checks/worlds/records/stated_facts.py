"""Facts about drawn places, and passages that state them, state something else instead, or have nothing to do with them."""

from __future__ import annotations

import random
from dataclasses import dataclass

COLOURS = ["red", "green", "white", "yellow", "black", "brown", "orange", "purple", "grey", "pink"]
NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas"]
STONES = ["marble", "granite", "brick", "slate", "timber", "copper", "glass", "iron", "sandstone", "clay"]
ANIMALS = ["lion", "heron", "fox", "bear", "swan", "wolf", "eagle", "horse", "otter", "stag"]
FOODS = ["soup", "bread", "cheese", "honey", "plums", "trout", "beans", "cider", "pears", "cakes"]
TRADES = ["wool", "paper", "salt", "clocks", "boats", "candles", "ropes", "knives", "tiles", "drums"]

KINDS: list[tuple[str, list[str], list[str]]] = [
    ("Which colour is the bridge of {n}?", COLOURS,
     ["The bridge of {n} is {v}.", "Visitors to {n} cross a bridge that is painted {v}.", "In {n} the old bridge has a {v} coat of paint."]),
    ("Who founded the town of {n}?", NAMES,
     ["{v} founded the town of {n}.", "The town of {n} was founded by {v} long ago.", "A statue in {n} shows {v}, who founded the town."]),
    ("What is the tower of {n} built of?", STONES,
     ["The tower of {n} is built of {v}.", "Masons built the tower of {n} from {v}.", "The tall tower in {n} consists of {v}."]),
    ("Which animal is on the flag of {n}?", ANIMALS,
     ["The flag of {n} shows a {v}.", "A {v} stands on the flag of {n}.", "People in {n} fly a flag with a {v} on it."]),
    ("What is the town of {n} known to eat?", FOODS,
     ["The town of {n} is known to eat {v}.", "People in {n} eat {v} on most days.", "Cooks in {n} are proud of their {v}."]),
    ("What do the workshops of {n} make?", TRADES,
     ["The workshops of {n} make {v}.", "In the workshops of {n} people make {v} by hand.", "Most workshops in {n} live by making {v}."]),
]  # fmt: skip
"""A question, its possible answers, and three wordings of the fact."""
_STARTS = ["Tam", "Bel", "Cor", "Dun", "Ell", "Fen", "Gar", "Hol", "Ing", "Kel", "Lor", "Mar", "Nor", "Os", "Pel", "Ros", "Sel", "Tor", "Ul", "Wen"]  # fmt: skip
_ENDS = ["sin", "mere", "wick", "dale", "ford", "stow", "by", "ham", "ley", "burn", "gate", "moor"]


@dataclass(frozen=True)
class StatedFact:
    """A question about a place.

    Attributes:
        answer, other: the right answer and a wrong one.
        supporting, falsified: passages that state the one and the other, in the same words.
        unrelated: passages that state neither.
    """

    question: str
    answer: str
    other: str
    supporting: tuple[str, ...]
    falsified: tuple[str, ...]
    unrelated: tuple[str, ...]


def stated_facts(seed: int, count: int) -> list[StatedFact]:
    """So many facts, each about a place of its own name."""
    rng = random.Random(f"stated facts {seed}")
    names = rng.sample([start + end for start in _STARTS for end in _ENDS], count)
    return [_fact(rng, name, names) for name in names]


def _fact(rng: random.Random, name: str, names: list[str]) -> StatedFact:
    place = rng.randrange(len(KINDS))
    question, values, wordings = KINDS[place]
    answer, other = rng.sample(values, 2)
    rest = [one for number, one in enumerate(KINDS) if number != place]
    about = [name, name, *rng.sample([one for one in names if one != name], 2)]
    unrelated = [
        rng.choice(told).format(n=whose, v=rng.choice(options))
        for whose, (_, options, told) in zip(about, rng.sample(rest, 4), strict=True)
    ]
    return StatedFact(
        question.format(n=name),
        answer,
        other,
        _stated(wordings, name, answer),
        _stated(wordings, name, other),
        tuple(unrelated),
    )


def _stated(wordings: list[str], name: str, value: str) -> tuple[str, ...]:
    return tuple(one.format(n=name, v=value) for one in wordings)
