"""Asking a score-conditioned model for a score: a generator around any back end that puts the goal into every prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from coalign.core.errors import ConfigError
from coalign.core.options import option
from coalign.data.records import Messages
from coalign.models.types import Generating, Generator, Prompts, Samples, Sampling
from coalign.preference.data.goal_conditioning import Placement, Scale, format_score, with_goal

GOAL_FILE = "goal.json"
"""In the folder of a score-conditioned model: scale and placement that it was trained with."""

SHARED = ("stream", "encode", "context", "tokenizer", "last_stats", "description")
"""What a generator around another one has when that one has it."""


@dataclass(kw_only=True)
class GoalOptions:
    """What to ask for."""

    __group__ = "Goal"

    goal: float | None = option(None, "score that replies should reach; by default the highest of the scale")
    lowest: float | None = option(None, "lower end of the scale; by default as the model was trained, else 1")
    highest: float | None = option(
        None, "upper end of the scale; by default as the model was trained, else 10"
    )
    placement: Placement | None = option(
        None, "message that carries the goal; by default as the model was trained, else the system message"
    )


@dataclass(frozen=True)
class GoalGenerator:
    """A generator whose every prompt asks for a score. Streams where the back end streams.

    Attributes:
        inner: any back end.
        goal: the score.
        scale: as in training.
        placement: as in training. A prompt that is text gets the goal before it.
    """

    inner: Generator
    goal: float
    scale: Scale
    placement: Placement

    def generate(self, prompts: Prompts, sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        """See `coalign.models.types.Generator.generate`."""
        return self.inner.generate([self.asked(one) for one in prompts], sampling, **how)

    def asked(self, prompt: Messages | str) -> Messages | str:
        """The prompt with the goal."""
        if isinstance(prompt, str):
            return f"{self.scale.goal_text(self.goal)}\n\n{prompt}"
        return with_goal(prompt, self.goal, scale=self.scale, placement=self.placement)

    def __getattr__(self, name: str) -> Any:
        """What the back end has of `SHARED`; a stream and what is encoded get the goal too."""
        if name not in SHARED:
            raise AttributeError(name)
        found = getattr(self.inner, name)
        if name == "encode":
            return lambda prompt, *rest: found(self.asked(prompt), *rest)
        if name != "stream":
            return found
        return lambda prompts, *rest, **more: found([self.asked(one) for one in prompts], *rest, **more)


def goal_generator(options: GoalOptions, inner: Generator) -> GoalGenerator:
    """The back end with the goal that the options name, on the scale that its model was trained with.

    Raises:
        ConfigError: a goal off the scale, or an empty scale.
    """
    trained = trained_goal(inner)
    low, high = (
        given if given is not None else trained.get(name, otherwise)
        for name, given, otherwise in (("lowest", options.lowest, 1.0), ("highest", options.highest, 10.0))
    )
    try:
        scale = Scale(float(low), float(high))
    except ValueError as error:
        raise ConfigError(f"lowest, highest: {error}") from error
    goal = scale.highest if options.goal is None else options.goal
    if goal not in scale:
        ends = " to ".join(map(format_score, (scale.lowest, scale.highest)))
        raise ConfigError(f"goal: {format_score(goal)} is off the scale, expected {ends}")
    placement: Placement = options.placement or trained.get("placement", "system")
    return GoalGenerator(inner, goal, scale=scale, placement=placement)


def trained_goal(inner: Generator) -> dict[str, Any]:
    """What the folder of the back end's model says of its goals; empty where there is no such file."""
    name = getattr(getattr(inner, "tokenizer", None), "name_or_path", "")
    file = Path(str(name)) / GOAL_FILE
    return json.loads(file.read_text(encoding="utf-8")) if name and file.is_file() else {}
