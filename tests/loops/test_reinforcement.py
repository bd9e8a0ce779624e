"""Reinforcement learning as a whole, on a tiny model: it learns, resumes, and counts what must not count."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError
from coalign.core.files import read_rows
from coalign.loops.held_out import held_out_rows, reward_at_kl
from coalign.loops.rollouts import stream_places
from coalign.models.types import Generation
from tests.contract.killing import Killed, watched
from tests.loops.reinforced import asked, learn, liked_share, loop_of


def history(result: Any, key: str) -> list[float]:
    return [row[key] for row in result.history if key in row]


@pytest.mark.parametrize("method", ["grpo", "rloo", "online-dpo", "ppo"])
def test_a_rule_that_can_be_checked_is_learnt(method: str, tmp_path: Path):
    own: Any = {"rloo": {"beta": 0.0}, "ppo": {"updates": 1, "beta": 0.0}}.get(method, {})
    loop = loop_of(
        tmp_path, method, max_steps=15, prompts_per_step=4, samples=8, held_out=asked(4, "h"),
        eval_samples=8, eval_steps=15, epochs=20, learning_rate=3e-2, **own,
    )  # fmt: skip
    result, _ = learn(loop)
    before, after = held_out_rows(loop.run)
    assert before["step"] == 0
    assert abs(before["kl"]) < 1e-3
    assert after["reward"] > before["reward"] + 0.1
    assert after["kl"] > 0.5
    rewards = history(result, "reward")
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.15
    assert max(history(result, "sampler/largest_gap")) < 1e-3


def test_all_weights_learn_too(tmp_path: Path):
    loop = loop_of(tmp_path, "rloo", updates=2, held_out=asked(2, "h"), max_steps=4)
    result, _ = learn(loop, adapter=False)
    assert result.steps == 4
    assert held_out_rows(loop.run)[0]["kl"] == 0
    assert held_out_rows(loop.run)[-1]["kl"] != 0


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("grpo", {"updates": 2, "beta": 0.1, "dynamic_sampling": True}),
        pytest.param("rloo", {"minibatches": 2, "max_steps": 2}, marks=pytest.mark.slow),
        ("ppo", {"samples": 2, "updates": 2}),
    ],
)
def test_a_run_killed_anywhere_ends_like_the_undisturbed_one(
    method: str, options: dict[str, Any], tmp_path: Path
):
    settings: Any = {"save_steps": 1, "max_steps": 3, "held_out": asked(2, "h"), "eval_steps": 2, **options}
    whole = loop_of(tmp_path / "whole", method, **settings)
    writes: list[str] = []
    with watched(lambda path, data: writes.append(path.name)):
        _, model = learn(whole)
    expected = weights(model)
    for stop in range(1, len(writes), max(1, len(writes) // 3)):
        folder, seen = tmp_path / f"killed-{stop}", [0]

        def kill(path: Path, data: bytes, seen: list[int] = seen, stop: int = stop) -> None:
            seen[0] += 1
            if seen[0] == stop:
                raise Killed

        with pytest.raises(Killed), watched(kill):
            learn(loop_of(folder, method, **settings))
        again = loop_of(folder, method, **settings)
        _, model = learn(again)
        for name, one in weights(model).items():
            assert torch.equal(one, expected[name]), (stop, name)
        for path in sorted(whole.folder.glob("*.jsonl")):
            assert read_rows(again.folder / path.name) == read_rows(path), path.name
        assert held_out_rows(again.run) == held_out_rows(whole.run)


def test_every_prompt_comes_once_a_pass_also_where_groups_are_replaced(tmp_path: Path):
    places = stream_places(5, 3, 0, 15)
    assert [sorted(places[start : start + 5]) for start in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert stream_places(5, 3, 4, 7) == places[4:11]

    def equal_for_some(rows: Any) -> list[dict[str, Any]]:
        return [
            {"rewards": [1.0] * 4} if row["id"].startswith(("p0", "p1")) else one
            for row, one in zip(rows, liked_share(rows), strict=True)
        ]

    loop = loop_of(tmp_path, score=equal_for_some, dynamic_sampling=True, max_steps=6, epochs=6)
    result, _ = learn(loop)
    taken = [json.loads(path.read_text()) for path in sorted(loop.folder.glob("rollout-?????.json"))]
    assert [one["first"] for one in taken[1:]] == [one["first"] + one["taken"] for one in taken[:-1]]
    ids = [row["id"] for path in sorted(loop.folder.glob("*[0-9].jsonl")) for row in read_rows(path)]
    assert sorted(int(one.partition("#")[2]) for one in ids) == list(
        range(sum(one["taken"] for one in taken))
    )
    assert any("refill" in path.name for path in loop.folder.glob("*.jsonl"))
    assert result.steps == 6


def test_what_cannot_be_scored_is_counted_and_stays_out(tmp_path: Path):
    def partly(rows: Any) -> list[dict[str, Any]]:
        return [{"rewards": [None, math.nan, *one["rewards"][2:]]} for one in liked_share(rows)]

    loop = loop_of(tmp_path, score=partly)
    result, _ = learn(loop)
    assert history(result, "responses/not_scorable") == [0.5] * 4
    rows = read_rows(loop.folder / "rollout-00001-scored.jsonl")
    kept = [one for row in rows for one in row["rewards"] if one is not None]
    assert history(result, "reward")[0] == pytest.approx(sum(kept) / len(kept))


def test_a_judge_that_never_answers_stops_the_run_with_what_to_do(tmp_path: Path):
    def never(rows: Any) -> list[dict[str, Any]]:
        return [{"rewards": [None] * 4, "failure": "the reply was 'hm'"} for _ in rows]

    with pytest.raises(CoalignError, match=r"8 of 8 responses of rollout 1 have no reward.*'hm'"):
        learn(loop_of(tmp_path, score=never))
    assert len(read_rows(tmp_path / "artefacts/rollouts/rollout-00001.jsonl")) == 2


def test_constant_rewards_change_nothing_and_are_told(tmp_path: Path):
    loop = loop_of(tmp_path, score=lambda rows: [{"rewards": [1.0] * 4} for _ in rows], max_steps=6, epochs=9)
    result, model = learn(loop)
    assert history(result, "values/all_equal") == [1.0] * 6
    assert "nothing_to_learn" in {event["key"] for event in loop.run.events("warning")}
    for name, one in weights(model).items():
        if "lora_B" in name:
            assert not one.any(), name


def test_masked_truncated_responses_are_in_no_mean(tmp_path: Path):
    loop = loop_of(tmp_path, truncated="mask")
    result, _ = learn(loop)
    share = history(result, "responses/truncated")
    assert share[0] > 0
    assert all(math.isfinite(one) for one in history(result, "loss"))


def test_a_reward_of_another_length_is_refused(tmp_path: Path):
    with pytest.raises(CoalignError, match="3 values for 4 responses"):
        learn(loop_of(tmp_path, score=lambda rows: [{"rewards": [1.0] * 3} for _ in rows]))


def test_a_back_end_without_token_ids_is_refused(tmp_path: Path):
    class Silent:
        def __init__(self, *given: Any) -> None: ...

        def encode(self, prompt: Any, index: int) -> list[int]:
            return [1]

        def generate(self, prompts: Any, sampling: Any, *, on_batch: Any, **how: Any) -> Any:
            on_batch({0: [Generation("text") for _ in range(sampling.n)]})

    from dataclasses import replace

    loop = replace(loop_of(tmp_path), open_generator=Silent)
    with pytest.raises(CoalignError, match="does not say which tokens it sampled"):
        learn(loop)


def test_rewards_are_transformed_before_they_are_learnt_from(tmp_path: Path):
    seen: list[Any] = []

    def transform(rewards: torch.Tensor, ids: Any) -> torch.Tensor:
        seen.append((rewards, list(ids)))
        return torch.zeros_like(rewards)

    result, _ = learn(loop_of(tmp_path, transform=transform, max_steps=1))
    assert seen[0][0].shape == (2, 4)
    assert all(one.startswith("p") and "#" not in one for one in seen[0][1])
    assert history(result, "loss") == [0.0]
    assert history(result, "reward")[0] > 0


def test_a_run_can_stop_at_a_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    loop = loop_of(
        tmp_path,
        held_out=asked(2, "h"),
        eval_steps=1,
        max_steps=12,
        epochs=9,
        stop_at_kl=0.05,
        learning_rate=3e-2,
        save_steps=1,
    )
    result, _ = learn(loop)
    rows = held_out_rows(loop.run)
    again, _ = learn(loop)  # as if it had been killed before its model was saved
    assert again.steps == result.steps
    assert held_out_rows(loop.run) == rows
    assert result.steps < 12
    assert rows[-1]["kl"] >= 0.05 > rows[-2]["kl"]
    assert "Stopped after step" in capsys.readouterr().err


def test_rewards_are_read_at_a_divergence():
    rows = [
        {"kl": 0.0, "reward": 0.2},
        {"kl": 2.0, "reward": 0.6},
        {"kl": 1.0, "reward": 0.6},
        {"kl": 3.0, "reward": None},
    ]
    assert reward_at_kl(rows, 0.5) == pytest.approx(0.4)
    assert reward_at_kl(rows, 2.0) == pytest.approx(0.6)
    assert reward_at_kl(rows, 2.5) is None


@pytest.mark.parametrize(
    ("method", "own"), [("rloo", {}), ("grpo", {"beta": 0.1, "updates": 2}), ("ppo", {"samples": 2}), ("online-dpo", {})]
)  # fmt: skip
def test_rollouts_of_which_nothing_is_left_move_no_weight(method: str, own: dict[str, Any], tmp_path: Path):
    loop = loop_of(
        tmp_path, method, score=lambda rows: [{"rewards": [1.0] * len(row["responses"])} for row in rows],
        dynamic_sampling=True, refills=1, max_steps=2, minibatches=2, **own,
    )  # fmt: skip
    result, _ = learn(loop)
    assert result.steps == 2
    assert history(result, "loss") == [0.0, 0.0]
    assert history(result, "grad_norm") == [0.0, 0.0]
    assert any("could not be replaced" in event["text"] for event in loop.run.events("note"))
