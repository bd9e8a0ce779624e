"""What the start model's answers say before anything is learnt: prompts that are left out, and a baseline for rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.loops.online import online_learner
from coalign.loops.policy import with_start_rewards
from coalign.training.losses.policy_gradient import above_reference, varied
from tests.loops.reinforced import learn, loop_of

NAN = float("nan")


def _never() -> Any:
    raise AssertionError("what is there is not sampled again")


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=3), min_size=1, max_size=5), st.floats(1e-3, 9)
)
def test_variance_is_that_of_the_whole_group(rows: list[list[float]], least: float) -> None:
    rewards = torch.tensor(rows, dtype=torch.float64)
    apart = (rewards.var(1, correction=0) - least).abs() > 1e-9
    assert torch.equal(varied(rewards, least)[apart], (rewards.var(1, correction=0) >= least)[apart])


def test_rewards_that_are_missing_do_not_count() -> None:
    rewards = torch.tensor([[1.0, NAN, 0.0], [5.0, NAN, NAN], [NAN, NAN, NAN], [2.0, 2.0, NAN]])
    assert varied(rewards, 0.2).tolist() == [True, False, False, False]


def test_the_baseline_is_zero_where_the_policy_answers_as_the_start_did() -> None:
    found = above_reference(torch.tensor([[1.5, 2.0], [-2.0, NAN]]), torch.tensor([1.5, -2.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5], [0.0, NAN]]), equal_nan=True)


def by_prompt(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of prompts with an even number the length of an answer, of the others always 3."""
    even = [int(row["id"].partition("#")[0][1:]) % 2 == 0 for row in rows]
    return [
        {"rewards": [float(sum(ids)) if mine else 3.0 for ids in row["token_ids"]]}
        for row, mine in zip(rows, even, strict=True)
    ]


def test_prompts_on_which_rewards_do_not_differ_are_not_learnt_on(tmp_path: Path) -> None:
    loop = loop_of(tmp_path / "run", min_reward_variance=1e-3, score=by_prompt)
    learn(loop)
    kept = json.loads((loop.run.artefacts / "start" / "kept.json").read_text())
    assert kept == {"prompts": 6, "kept": 3, "least_variance": 1e-3}
    asked = {row["id"].partition("#")[0] for row in read_rows(loop.folder / "rollout-00001.jsonl")}
    assert asked <= {"p0", "p2", "p4"}
    assert len(read_rows(loop.run.artefacts / "start" / "answers.jsonl")[0]["responses"]) == 4


def test_a_filter_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="None of 6 prompts is left"):
        learn(loop_of(tmp_path / "run", min_reward_variance=1e9))


def test_ppo_learns_from_what_is_above_the_start_models_answer(tmp_path: Path) -> None:
    """A reward that is the same for all answers to a prompt is 0 above the start model's, so nothing is learnt without a KL term."""

    def constant(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"rewards": [float(row["id"].partition("#")[0][1:]) + 1.0 for _ in row["token_ids"]]}
            for row in rows
        ]

    loop = loop_of(tmp_path / "run", "ppo", baseline="reference", score=constant, samples=1)
    result, _ = learn(loop)
    answers = read_rows(loop.run.artefacts / "start" / "answers.jsonl")
    assert [len(row["responses"]) for row in answers] == [1] * 6
    rewards = [row["reward"] for row in result.history if "reward" in row]
    assert min(rewards) >= 1.0  # told as they are, learnt from above the baseline
    transform: Any = with_start_rewards(loop, _never).transform
    assert transform(torch.tensor([[1.0], [4.0]], dtype=torch.float64), ["p0", "p2"]).tolist() == [
        [0.0],
        [1.0],
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variance_samples": 5}, "without min_reward_variance"),
        ({"min_reward_variance": 0.1, "variance_samples": 1}, "no variance"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(online_learner("grpo").Config, {"prompts": "x", "reward": ["max_words:3"], **options})
