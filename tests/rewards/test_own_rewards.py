"""Rewards that are functions of the user, with the arguments that TRL's trainers give."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError, ConfigError
from coalign.data.readers import read_records
from coalign.data.records import Message, Record, Source
from coalign.judging.rewards.functions import FunctionReward
from coalign.judging.rewards.mix import Draft
from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward

TALK: list[Message] = [{"role": "user", "content": "Two and two?"}]
FILE = """
def right(completions, answer, **rest):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [None if truth is None else float(truth in text) for text, truth in zip(texts, answer)]

def brief(completions):
    return [1 / (1 + len(one)) for one in completions]

def nothing(prompts):
    return [0.0 for one in prompts]

limit = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def columns() -> dict[int, Record]:
    extras: list[dict[str, Any]] = [{"answer": "4"}, {"answer": "5"}, {}]
    return {
        number: Record(prompt=TALK, source=Source("p.jsonl", number + 1, number), extra=extra)
        for number, extra in enumerate(extras)
    }


def test_a_function_written_for_trl(file: Path) -> None:
    options = RewardOptions(reward=[f"{file}:right@2"], combine="total")
    mix = build_rewards(options, columns=columns(), unscorable="leave out")
    found = mix([Draft(0, TALK, "It is 4."), Draft(1, TALK, "It is 4."), Draft(2, TALK, "It is 4.")])
    assert found[:2] == [2.0, 0.0]
    assert math.isnan(found[2])
    assert mix.names == [f"{file}:right"]


def test_texts_are_given_as_texts(file: Path) -> None:
    mix = build_rewards(RewardOptions(reward=[f"{file}:brief"]))
    assert mix([Draft(0, "Say", "abc"), Draft(0, "Say", "")]) == [0.25, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}:wrong", "has no 'wrong'"),
        ("{}:nothing", "not a reward, expected a function"),
        ("{}:limit", "has no 'limit'|not a reward"),
        ("no{}:right", "no such file"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(text: str, message: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_reward(text.format(file))
    with pytest.raises(ConfigError, match=r"expected file\.py:name after function:"):
        parse_reward({"function": ""})
    assert parse_reward({"function": f"{file}:right", "weight": 3}).weight == 3


def called(function: Callable[..., Any], *texts: str) -> list[float]:
    return FunctionReward(function, "mine").score([Draft(0, "Say", one) for one in texts])


def test_one_completion_at_which_it_fails_costs_no_other() -> None:
    def first_word(completions: list[str]) -> list[float]:
        return [float(len(one.split()[0])) for one in completions]

    assert called(first_word, "abc d", "xy") == [3.0, 2.0]
    found = called(first_word, "abc d", "", "xy")
    assert found[::2] == [3.0, 2.0]
    assert math.isnan(found[1])
    with pytest.raises(CoalignError, match="mine fails: IndexError"):
        called(first_word, "", " ")


def test_what_it_returns() -> None:
    assert called(lambda completions: torch.tensor([1.5, 2.0]), "a", "b") == [1.5, 2.0]
    with pytest.raises(CoalignError, match="returned 1 values for 2"):
        called(lambda completions: [1.0], "a", "b")
    with pytest.raises(CoalignError, match="returned float for 1"):
        called(lambda completions: 1.0, "a")
    with pytest.raises(CoalignError, match="returned 'good', expected a number"):
        called(lambda completions: ["good"], "a")


def test_the_message_of_a_reward_that_fails_is_cut() -> None:
    def loud(completions: list[str]) -> list[float]:
        raise ValueError("long\n" * 1000)

    with pytest.raises(CoalignError) as raised:
        called(loud, "a")
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_completions_are_texts_where_the_file_has_texts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Say it", "truth": "yes"},
        {"prompt": [{"role": "user", "content": "Say it"}], "truth": "no"},
    ]
    seen: list[object] = []

    def look(prompts: list[object], completions: list[object], truth: list[str]) -> list[float]:
        seen.extend(zip(prompts, completions, truth, strict=True))
        return [1.0] * len(completions)

    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        records = read_records(path).records
        reward = FunctionReward(look, "mine", dict(enumerate(records)))
        assert reward.score([Draft(0, records[0].prompt, "yes")]) == [1.0]
    talk = [{"role": "user", "content": "Say it"}]
    assert seen == [("Say it", "yes", "yes"), (talk, [{"role": "assistant", "content": "yes"}], "no")]
