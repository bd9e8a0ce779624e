"""A generator that asks for a score: alone, by the registry of methods, and on a trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.models.methods import get_method, open_methods
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Sampling
from coalign.preference.data.goal_conditioning import Scale
from coalign.preference.data.goal_generation import GoalGenerator, GoalOptions, goal_generator
from tests.preference.tiny_runs import pairs

QUESTION: Any = [{"role": "user", "content": "Why?"}]


class Echo:
    """Remembers what it was asked."""

    def __init__(self, folder: Path | str = "") -> None:
        self.asked: list[Any] = []
        self.tokenizer = SimpleNamespace(name_or_path=str(folder))

    def generate(self, prompts: Sequence[Any], sampling: Sampling, **rest: Any) -> list[list[Generation]]:
        self.asked += prompts
        return [[Generation("So.")] for _ in prompts]


class Streamer(Echo):
    def stream(self, prompts: Sequence[Any], sampling: Sampling) -> Iterator[str]:
        self.asked += prompts
        yield "So."


def asked_of(options: dict[str, Any], inner: Echo) -> Any:
    goal_generator(build(GoalOptions, options), inner).generate([QUESTION], Sampling())
    return inner.asked[-1]


def test_the_highest_score_is_asked_for_by_default() -> None:
    asked = asked_of({}, Echo())
    assert asked[0]["role"] == "system"
    assert asked[0]["content"].endswith("Overall score: 10")
    assert "from 1 to 10" in asked[0]["content"]
    assert asked[1:] == QUESTION
    assert asked_of({"goal": 7.5, "placement": "user"}, Echo())[0]["content"].endswith("7.5\n\nWhy?")


def test_the_scale_is_that_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "goal.json").write_text(json.dumps({"placement": "user", "lowest": 0, "highest": 4}))
    asked = asked_of({}, Echo(tmp_path))
    assert "from 0 to 4" in asked[0]["content"]
    assert asked[0]["content"].endswith("Overall score: 4\n\nWhy?")
    assert "from 0 to 5" in asked_of({"highest": 5}, Echo(tmp_path))[0]["content"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": 11}, "goal: 11 is off the scale"),
        ({"lowest": 10}, "is empty"),
        ({"goal": 0}, "expected 1 to 10"),
    ],
)
def test_goals_off_the_scale_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked_of(options, Echo())
    assert message in str(caught.value)


def test_text_and_streams_get_the_goal() -> None:
    inner = Streamer()
    generator = GoalGenerator(inner, 3, scale=Scale(), placement="system")
    generator.generate(["Once upon"], Sampling())
    assert inner.asked[0].endswith("Overall score: 3\n\nOnce upon")
    assert list(generator.stream([QUESTION], Sampling())) == ["So."]
    assert inner.asked[1][0]["content"].endswith("Overall score: 3")
    assert not hasattr(GoalGenerator(Echo(), 3, scale=Scale(), placement="system"), "stream")
    assert not hasattr(generator, "model")


def test_a_trained_model_is_asked_on_its_own_scale(learn: Any) -> None:
    rows = pairs(chosen_score=4, rejected_score=2)
    run = learn("reward-augmented", rows, lowest=0, highest=5, max_steps=1, eval_fraction=0.0)
    assert json.loads((run.model / "goal.json").read_text())["highest"] == 5
    generator = open_methods(["reward-augmented"], {}, ModelOptions(model=str(run.path), device="cpu"))
    assert isinstance(generator, GoalGenerator)
    asked: Any = generator.asked(QUESTION)
    assert asked[0]["content"].endswith("Overall score: 5")
    ((sample,),) = generator.generate([QUESTION], Sampling(max_new_tokens=2))
    assert sample.length <= 2
    assert get_method("reward-augmented").wrap is not None
