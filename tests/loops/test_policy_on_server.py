"""Reinforcement learning whose policy samples on a vLLM server: every rollout and evaluation with the weights of its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.loops import policy
from coalign.loops.held_out import held_out_rows
from coalign.loops.online import online_learner
from coalign.models.backends import vllm_server
from tests.loops.reinforced import BASE
from tests.loops.test_online_run import tiny_run
from tests.models.stand_in import COMMAND, StandIn, is_running

SERVED: dict[str, Any] = {
    "backend": "vllm-server",
    "vllm_command": COMMAND,
    "reward": ["must_include:|0"],
    "max_steps": 2,
    "max_new_tokens": 48,
    "eval_steps": 1,
    "schedule": "constant",
    "updates": 1,
}


def weights_of(path: Path) -> set[str]:
    return {text.split("|")[0] for row in read_rows(path) for text in row["responses"]}


@pytest.mark.parametrize(("method", "tuning"), [("grpo", "lora"), ("ppo", "lora"), ("rloo", "full")])
def test_every_rollout_is_sampled_with_the_weights_of_its_time(
    method: str, tuning: str, stand_in: StandIn, tmp_path: Path, tiny_model: str
):
    run = tiny_run(method, tmp_path / "run", tiny_model, tuning=tuning, **SERVED)
    rollouts = [weights_of(run.artefacts / f"rollouts/rollout-0000{one}.jsonl") for one in (1, 2)]
    evaluations = [weights_of(run.artefacts / f"held-out/step-00000{one}.jsonl") for one in (0, 1, 2)]
    assert evaluations[:2] == rollouts  # step 0 and the first rollout are one state, and so on
    assert [len(one) for one in evaluations] == [1, 1, 1]
    assert len(set().union(*evaluations)) == 3
    assert len(stand_in.starts()) == 1
    pushes = stand_in.asked("/v1/load_lora_adapter" if tuning == "lora" else "/collective_rpc")
    assert len(pushes) == 5
    row = read_rows(run.artefacts / "rollouts/rollout-00001.jsonl")[0]
    assert [len(one) for one in row["token_ids"]] == [len(one) for one in row["logprobs"]]
    assert [event for event in run.events("train") if "sampler/gap" in event]
    assert [one["step"] for one in held_out_rows(run)] == [0, 1, 2]
    assert not is_running(stand_in.starts()[0]["started"])
    assert not (run.path / "served-weights").exists()
    assert (run.path / "vllm-server.log").exists()


def test_a_server_that_dies_loses_no_rollout(stand_in: StandIn, tmp_path: Path, tiny_model: str):
    folder = tmp_path / "run"
    stand_in.set(fault="dies", after=8)
    with pytest.raises(ModelError, match="ended while it was asked"):
        tiny_run("grpo", folder, tiny_model, **SERVED)
    assert vllm_server._running is None
    kept = {path.name: read_rows(path) for path in (folder / "artefacts/rollouts").glob("*-0000?.jsonl")}
    assert kept
    stand_in.set()
    run = tiny_run("grpo", folder, tiny_model, **SERVED)
    assert run.state == "done"
    for name, rows in kept.items():
        found = {row["id"]: row for row in read_rows(run.artefacts / "rollouts" / name)}
        assert [found[row["id"]] for row in rows] == rows
    asked = [json.dumps(one["prompt"]) for one in stand_in.asked() if one["n"] == 3]
    rows = sum(len(read_rows(one)) for one in (run.artefacts / "rollouts").glob("rollout-0000?.jsonl"))
    assert len(asked) <= rows + 2  # none but those under way when it died is asked twice


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "vllm-server", "merge_rollout": False}, "merge_rollout has no effect"),
        ({"vllm_command": "python"}, "vllm_command has no effect"),
        ({"backend": "vllm"}, "one of: transformers, vllm-server"),
    ],
)
def test_options_that_cannot_be_followed(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(online_learner("grpo").Config, {**BASE, **values})


def test_several_processes_are_refused(
    stand_in: StandIn, tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(what: str) -> None:
        raise ConfigError(what)

    monkeypatch.setattr(policy, "assert_one_process", refuse)
    with pytest.raises(ConfigError, match="vllm-server samples from a policy"):
        tiny_run("grpo", tmp_path / "run", tiny_model, **SERVED)
