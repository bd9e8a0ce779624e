"""Transforms in the reward language: how they are written, what they compare with, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.judging.rewards.mix import Draft, RewardMix, Weighted
from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward
from coalign.judging.rewards.transforms import (
    CalibratedReward,
    ExponentialReward,
    LogSigmoidReward,
    prompt_key,
    read_base_rewards,
)
from tests.preference.tiny_runs import write

PROMPT = [{"role": "user", "content": "Say it."}]
NAME = "max_words:2"


class Lengths:
    """Letters of a response; none cannot be scored."""

    name = "letters"
    lowest = 0.0

    def score(self, drafts: Any) -> list[float]:
        return [float(len(one.text)) if one.text else math.nan for one in drafts]


def drafts(*texts: str, prompt: Any = PROMPT) -> list[Draft]:
    return [Draft(0, prompt, text) for text in texts]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    rows = [
        {"prompt": PROMPT, "reward": NAME, "rewards": [0.0, 0.5, 0.5, 1.0], "reference": 0.8},
        {"prompt": PROMPT, "reward": "letters", "rewards": [1, 2, 4], "reference": 3},
    ]
    return write(tmp_path / "base.jsonl", rows)


def test_they_stand_before_the_reward_that_they_transform(base: Path):
    spec = parse_reward(f"exponential:10:calibrated:{base}:{NAME}@0.5")
    assert (spec.kind, spec.given, spec.weight) == ("exponential", "10", 0.5)
    assert spec.inner is not None
    assert (spec.inner.kind, spec.inner.given) == ("calibrated", str(base))
    assert spec.name == f"exponential:10:calibrated:{base}:{NAME}"
    assert parse_reward({"transform": "log_sigmoid", "by": 0.5, "reward": NAME}) == parse_reward(
        f"log_sigmoid:0.5:{NAME}"
    )


def test_best_of_n_and_training_get_the_same_numbers(base: Path):
    options = RewardOptions(reward=[f"log_sigmoid:{base}:{NAME}", f"log_sigmoid:0.5:{NAME}"], combine="total")
    mix = build_rewards(options)
    good, bad = mix(drafts("one two", "one two three four"))
    values = build_rewards(RewardOptions(reward=[NAME])).values(drafts("one two", "one two three four"))
    for found, (raw,) in zip((good, bad), values, strict=True):
        assert found == pytest.approx(sum(-math.log1p(math.exp(ref - raw)) for ref in (0.8, 0.5)))
    assert good > bad


def test_a_prompt_is_found_as_text_and_as_a_turn(base: Path):
    rewards = read_base_rewards(base, NAME)
    assert rewards.reference("Say it.") == rewards.reference(PROMPT) == 0.8  # type: ignore[arg-type]
    assert prompt_key("a") != prompt_key([{"role": "system", "content": "a"}])
    with pytest.raises(DataError, match=r"base\.jsonl: has no reference of the prompt 'Other'"):
        rewards.reference("Other")


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=8), st.floats(-5, 5))
@settings(deadline=None)
def test_one_transformed_reward_keeps_the_order_and_the_sum_of_two_asks_for_both(
    values: list[float], reference: float
):
    class Given:
        name = "given"

        def score(self, drafts: Any) -> list[float]:
            return values[: len(drafts)]

    asked = drafts(*map(str, range(len(values))))
    found = LogSigmoidReward(Given(), reference, "x").score(asked)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert max(found) <= 0


def test_what_cannot_be_scored_stays_so_or_has_the_lowest_value():
    reward = LogSigmoidReward(Lengths(), 2.0, "x")
    assert math.isnan(reward.score(drafts(""))[0])
    assert RewardMix([Weighted(reward)])(drafts("")) == [pytest.approx(-math.log1p(math.exp(2)))]
    kept = RewardMix([Weighted(reward)], unscorable="leave out")
    assert math.isnan(kept(drafts(""))[0])


def test_calibrated_rewards_count_ties_half(base: Path):
    rewards = CalibratedReward(Lengths(), read_base_rewards(base, "letters"), "x")
    assert rewards.score(drafts("a", "ab", "abc", "abcde")) == pytest.approx([1 / 6, 1 / 2, 2 / 3, 1])
    assert math.isnan(rewards.score(drafts(""))[0])
    steep = ExponentialReward(rewards, 10.0, "y")
    assert steep.score(drafts("abcde")) == [1.0]
    assert steep.lowest == pytest.approx(math.exp(-10))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("log_sigmoid:0.5", "expected log_sigmoid:NUMBER-OR-FILE:REWARD"),
        ("log_sigmoid::max_words:2", "expected log_sigmoid:NUMBER-OR-FILE:REWARD"),
        ("exponential:much:max_words:2", "'much' is not usable, expected a number"),
        ("log_sigmoid:0.5:max_word:2", "Did you mean max_words"),
        ("log_sigmod:0.5:max_words:2", "Did you mean log_sigmoid"),
        ({"transform": "log", "by": 1, "reward": NAME}, "expected transform"),
        ({"transform": "log_sigmoid", "by": 1, "reward": f"{NAME}@2"}, "the weight stands outside"),
    ],
)
def test_what_is_written_wrong(reward: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        RewardOptions(reward=[reward])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no rewards of the base model in it"),
        ([{"prompt": PROMPT, "reward": "other", "rewards": [1]}], f"is about other, and not about {NAME}"),
        ([{"prompt": PROMPT, "rewards": [math.nan]}], ":1: rewards: not usable"),
        ([{"prompt": PROMPT, "rewards": [1]}, {"prompt": PROMPT}], ":2: rewards: not usable"),
        ([{"rewards": [1]}], ":1: rewards: not usable"),
    ],
)
def test_files_that_cannot_be_used(rows: list[Any], message: str, tmp_path: Path):
    path = write(tmp_path / "base.jsonl", rows)
    with pytest.raises(ConfigError, match=message):
        build_rewards(RewardOptions(reward=[f"log_sigmoid:{path}:{NAME}"]))
    with pytest.raises(ConfigError, match="none"):
        build_rewards(RewardOptions(reward=[f"calibrated:{tmp_path / 'none.jsonl'}:{NAME}"]))
