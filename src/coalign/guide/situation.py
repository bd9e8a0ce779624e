"""What someone has and wants: the answers from which advice follows."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from coalign.core.catalogue import DATA
from coalign.core.names import suggest
from coalign.core.options import Count, OptionGroup, Positive, option

Access = Literal["weights", "decoding", "api"]
Budget = Literal["cpu", "gpu", "cluster"]
Modality = Literal["text", "images", "video", "audio", "tables"]
ACCESS: tuple[Access, ...] = ("api", "decoding", "weights")
"""From the least to the most."""
MODALITIES: tuple[Modality, ...] = get_args(Modality)
BAD = "bad"
"""Responses that are bad, without good ones: the kind of data that the catalogue has no word for."""
KINDS = {**DATA, BAD: "prompts with bad responses, and no good ones"}
WORDS = {
    "pairs": "preferences",
    "thumbs": "feedback",
    "critiques": "judgments",
    "chats": "conversations",
    "logs": "conversations",
    "instructions": "demonstrations",
}
"""What else the kinds are called."""


@dataclass(frozen=True)
class Known:
    """What is known of a system beyond the catalogue; see `systems.toml`."""

    slug: str
    goals: tuple[str, ...]
    access: Access
    why: str
    command: str
    work: tuple[float, float, float]
    have: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    after: str | None = None


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads((resources.files("coalign.guide") / "systems.toml").read_text(encoding="utf-8"))


@functools.cache
def goals() -> dict[str, str]:
    """What can be wanted: key to words."""
    return {key: str(words) for key, words in _read()["goals"].items()}


@functools.cache
def known_systems() -> dict[str, Known]:
    """Every system of the catalogue, by slug."""
    found: dict[str, Known] = {}
    for slug, row in _read()["system"].items():
        values: dict[str, Any] = {
            "unfit" if key == "not" else key: tuple(value) if isinstance(value, list) else value
            for key, value in row.items()
        }
        found[slug] = Known(slug=slug, **values)
    return found


@dataclass(kw_only=True)
class Situation(OptionGroup):
    """What is at hand and what is wanted."""

    __group__ = "Situation"

    goal: list[str] = option([], "what should be better, or be measured (`--list-goals`)")
    have: list[str] = option([], "data at hand: " + ", ".join(KINDS))
    access: Access = option(
        "weights", "to the model: weights can be trained; decoding: probabilities are seen; api: text alone"
    )
    model_kind: Literal["base", "aligned"] | None = option(None, "base: not tuned yet; aligned: a chat model")
    strong: bool = option(False, "a stronger model can write or judge")
    reward: bool = option(False, "a reward model, or rules that a program checks")
    people: bool = option(False, "people can label or judge")
    risk: Literal["low", "high"] = option("low", "what a bad answer costs")
    budget: Budget = option("gpu", "what there is to compute on")
    modality: Modality | None = option(None, "by default what the data and the goals say, else text")
    records: Count | None = option(None, "how many records; costs are for 1,000 otherwise")
    tokens: Count = option(300, "tokens of a record")
    model: str = option("MODEL", "name of the model in the commands")
    model_size: Positive = option(135e6, "its weights, for the costs", source="the default model")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.goal = [_named(one, goals(), "goal", {}) for one in self.goal]
        self.have = [_named(one, KINDS, "have", WORDS) for one in self.have]


def _named(name: str, known: dict[str, str], what: str, words: dict[str, str]) -> str:
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    key = words.get(key, key)
    for one in (key, f"{key}s"):
        if one in known:
            return one
    advice = suggest(key, known, f"Known: {', '.join(known)}.")
    raise ValueError(f"{what}: {name!r} is not known. {advice}")
