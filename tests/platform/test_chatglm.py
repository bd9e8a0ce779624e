"""Which stages there are, with which options, and how agent and general data are mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.platform.chatglm import Config, mixture_weights, stages
from coalign.platform.pipeline.chain import plan
from coalign.platform.recipes import recipe


def planned(**options: Any) -> list[tuple[str, str]]:
    return [(one.name, one.method) for one in stages(build(Config, options))]


def test_stages_follow_from_the_data_and_start_from_each_other() -> None:
    config = build(
        Config,
        {"data": "a", "long_data": "b", "contrast": "c", "questions": "q", "right": "final_answer:{answer}", "preferences": "p",
         "tuning": "full", "max_length": 512},
    )  # fmt: skip
    parts = {one.name: one for one in recipe(config, stages(config), "chatglm").stages}
    assert [*parts] == [
        "sft",
        "long",
        "contrast",
        "contrast-dpo",
        "critique",
        "critique-sft",
        "critique-dpo",
        "preference",
    ]
    models = [one.options.get("model") for one in parts.values()]
    assert models == [
        None, "${sft}", "${long}", "${long}", "${contrast-dpo}", "${contrast-dpo}", "${critique-sft}", "${critique-dpo}",
    ]  # fmt: skip
    long = parts["long"].options
    assert (long["loss_average"], long["batching"], long["max_length"]) == ("sequences", "sorted", 65536)
    assert parts["sft"].options["max_length"] == 512
    assert [parts[one].options["learning_rate"] for one in ("long", "preference")] == [2e-5, 1e-6]
    assert parts["critique-dpo"].options["nll_weight"] == 1.0
    assert parts["critique-sft"].options["data"].endswith("demonstrations.jsonl")


def test_prompts_ask_for_a_reward_model_and_ppo_in_place_of_dpo() -> None:
    assert planned(preferences="p") == [("preference", "dpo")]
    assert planned(preferences="p", prompts="q") == [("reward-model", "reward-model"), ("ppo", "ppo")]
    ppo = stages(build(Config, {"preferences": "p", "prompts": "q"}))[1].options
    assert (ppo["baseline"], ppo["whiten"], ppo["min_reward_variance"]) == ("reference", False, 1e-3)
    assert ppo["reward"] == ["model:${reward-model}"]


def test_an_adapter_keeps_the_usual_rates_and_a_given_rate_wins() -> None:
    assert "learning_rate" not in stages(build(Config, {"data": "a"}))[0].options
    config = build(Config, {"data": "a", "tuning": "full", "learning_rate": 3e-6})
    assert recipe(config, stages(config), "chatglm").stages[0].options["learning_rate"] == 3e-6


def test_how_files_are_read_and_what_is_trained_does_not_reach_stages_without(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "2?", "completion": "2", "answer": "2"}) + "\n")
    given = {"contrast": str(path), "questions": str(path), "right": "final_answer:{answer}", "tuning": "lora",
             "adapter_rank": 4, "column": ["prompt=question"], "limit": 1}  # fmt: skip
    config = build(Config, given)
    parts = {one.name: one for one in plan(recipe(config, stages(config), "chatglm"), tmp_path / "run", [])}
    sampled, trained = ("contrast", "critique"), ("contrast-dpo", "critique-sft", "critique-dpo")
    assert parts.keys() == {*sampled, *trained}
    used = {name: one.config for name, one in parts.items()}
    assert {(used[one].column["prompt"], used[one].limit, used[one].tuning) for one in sampled} == {
        ("question", 1, "auto")
    }
    assert {(used[one].limit, used[one].tuning, used[one].adapter_rank) for one in trained} == {
        (None, "lora", 4)
    }
    assert not any(used[one].column for one in trained)


def test_without_data_there_is_nothing_to_do() -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        planned()


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.01, 0.99))
def test_agent_data_have_their_share(agent: int, general: int, share: float) -> None:
    one, other = mixture_weights([agent, general], share)
    assert one * agent / (one * agent + other * general) == pytest.approx(share)


def test_the_tool_stage_mixes_by_what_the_files_hold(tmp_path: Path) -> None:
    for name, count in (("agent", 4), ("general", 16)):
        rows = [{"prompt": f"{name} {i}?", "completion": "Yes."} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "data": str(tmp_path / "general.jsonl"),
        "agent_data": f"{tmp_path / 'agent.jsonl'},weight=2",
        "agent_share": 0.5,
    }
    data = stages(build(Config, given))[-1].options["data"]
    assert [one["weight"] for one in data] == [4.0, 1.0]  # twice as often as said: 2 * 4 records become 16
