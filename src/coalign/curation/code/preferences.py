"""Coding preferences: criteria and score levels for a judge, and principles that are put before a request.

The five of CodeUltraFeedback (arXiv 2403.09032, section 3) are shipped, in words of our own; a file in the form of
`preferences.json` brings others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.files import parse_json
from coalign.data.records import Message, Messages
from coalign.judging.protocol import Rubric

FILE = Path(__file__).with_name("preferences.json")


@dataclass(frozen=True)
class CodingPreference:
    """A preference.

    Attributes:
        rubric: what a judge rates by.
        principles: statements of the preference; a response is asked for under one of them.
    """

    name: str
    rubric: Rubric
    principles: tuple[str, ...]


def read_preferences(path: Path | None = None) -> dict[str, CodingPreference]:
    """The preferences of a file by name, in its order; by default the shipped ones.

    Raises:
        ConfigError: the file cannot be read, or a preference has not what it needs.
    """
    file = path or FILE
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: no preferences can be read ({error}).") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            f"{file}: expected an object of preferences: name to criteria, levels and principles."
        )
    return {name: _preference(f"{file}: {name}", name, one) for name, one in found.items()}


def _preference(where: str, name: str, value: Any) -> CodingPreference:
    value = value if isinstance(value, dict) else {}
    criteria, levels, principles = (value.get(one) for one in ("criteria", "levels", "principles"))
    if not isinstance(criteria, str) or not criteria.strip():
        raise ConfigError(f"{where}.criteria: missing or no text, expected what to rate by, in words")
    if not isinstance(levels, dict) or not all(
        key.isdigit() and isinstance(one, str) for key, one in levels.items()
    ):
        raise ConfigError(f"{where}.levels: expected whole numbers to what they mean, in words")
    if (
        not isinstance(principles, list)
        or not principles
        or not all(isinstance(one, str) and one.strip() for one in principles)
    ):
        raise ConfigError(f"{where}.principles: expected a list of one or more texts")
    rubric = Rubric(criteria=criteria, levels={int(key): one for key, one in levels.items()})
    return CodingPreference(name, rubric, tuple(principles))


def assign(n: int, names: Sequence[str], seed: int) -> list[tuple[int, str]]:
    """(place, preference) of n instructions in a shuffled order: the i-th of a first shuffle gets preference i modulo their
    number, and all are shuffled again, so that each has an equal share.
    """
    draw = random.Random(seed)
    places = [*range(n)]
    draw.shuffle(places)
    assigned = [(place, names[i % len(names)]) for i, place in enumerate(places)]
    draw.shuffle(assigned)
    return assigned


def draw_models(pool: Sequence[str], n: int, draw: random.Random) -> list[str]:
    """n models of the pool: different ones where it has so many, else each equally often, up to one."""
    drawn: list[str] = []
    while len(drawn) < n:
        drawn += draw.sample(pool, min(len(pool), n - len(drawn)))
    return drawn


def with_principle(prompt: Messages, principle: str, *, system: bool) -> Messages:
    """The prompt under a principle: in a system message of its own, or at the beginning of the first turn."""
    first, *rest = prompt
    if first["role"] == "system":
        return [Message(role="system", content=f"{first['content']}\n\n{principle}"), *rest]
    if system:
        return [Message(role="system", content=principle), *prompt]
    return [Message(role=first["role"], content=f"{principle}\n\n{first['content']}"), *rest]
