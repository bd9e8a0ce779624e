"""Reinforcement learning whose policy samples on a vLLM server: every rollout and evaluation with the weights of its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.loops import policy
from coalign.loops.held_out import held_out_rows
from coalign.loops.online import online_learner
from coalign.models.backends import vllm_server
from tests.contract.small import SMALL, VARIANTS, Small, furnish
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


WRITES = " 9 Say W{weights} and {seed}.\n2. Input:\n<noinput>\n###\n"
"""A task, an answer and a grade at once."""


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("i-sheep", {"model": "models/wide", "max_new_tokens": 60, "rules": ["empty"]}),
        ("self-specialization", {"model": "models/wide", "max_new_tokens": 60, "task_tokens": 64}),
    ],
)
def test_tasks_are_written_and_answered_by_the_model_of_the_round(
    name: str, changes: dict[str, Any], stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stand_in.set(text=WRITES)
    run = served_run(name, tmp_path, monkeypatch, **changes)
    models = [one["model"] for one in stand_in.asked() if one["model"] != "base"]
    pushed = [one["lora_name"] for one in stand_in.asked("/v1/load_lora_adapter")]
    assert list(dict.fromkeys(models)) == pushed
    assert len({*pushed}) == len(pushed) >= 2
    said = []
    for number in (1, 2):
        rows = read_rows(run.artefacts / f"round-{number}/tasks/kept.jsonl")
        weights = [
            {text.split("W")[1].split()[0] for text in (row["prompt"], row["completion"])} for row in rows
        ]
        said.append(set().union(*weights))
    assert [len(one) for one in said] == [1, 1]
    assert said[0] != said[1]
    assert not any(is_running(one["started"]) for one in stand_in.starts())


def test_a_critic_judges_answers_of_the_model_of_the_round(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = served_run("cut over rounds", tmp_path, monkeypatch, max_new_tokens=48)
    said = [weights_of(run.artefacts / f"round-{number}/generate.jsonl") for number in (1, 2)]
    assert [len(one) for one in said] == [1, 1]
    assert said[0] != said[1]
    assert len(stand_in.asked("/v1/load_lora_adapter")) == 1


def test_rewards_are_compared_with_those_of_the_base_on_the_server(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = served_run("infalign", tmp_path, monkeypatch, reward=["must_include:|0"], max_new_tokens=48)
    base = weights_of(run.artefacts / "base.jsonl")
    assert len(base) == 1
    assert base.isdisjoint(weights_of(run.artefacts / "rollouts/rollout-00001.jsonl"))  # with an adapter


def served_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """The tiny run of a row of the contract, over the stand-in."""
    slug, small = VARIANTS[name] if name in VARIANTS else (name, SMALL[name])
    monkeypatch.chdir(folder)
    options = {**small.options, "backend": "vllm-server", "vllm_command": COMMAND, **changes}
    furnish(folder, Small(options, small.files))
    system: Any = load_system(slug)
    run = Run.start(folder / "run", slug, build(system.Config, options), seed=0)
    system.run(build(system.Config, options), run)
    return run


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
