"""`coalign run grpo` and its siblings on files: whole runs, refused options, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.judging.protocol import Rating
from coalign.loops import online_run
from coalign.loops.held_out import held_out_rows
from coalign.loops.online import online_learner
from coalign.models.files.loading import load_model
from coalign.models.options import ModelOptions
from tests.preference.tiny_runs import WORDS, assert_same_weights, run_system, write

ROWS = [{"prompt": f"Say {word}.", "answer": word, "id": word} for word in WORDS]
SMALL: dict[str, Any] = {
    "max_length": None, "reward": ["max_words:2", "must_include:{answer}@0.5"], "max_new_tokens": 8, "samples": 3,
    "prompts_per_step": 2, "max_steps": 3, "eval_fraction": 0.25, "save_steps": 1,
}  # fmt: skip


def tiny_run(method: str, folder: Path, tiny_model: str, **options: Any) -> Run:
    prompts = folder.parent / "prompts.jsonl"
    if not prompts.exists():
        write(prompts, ROWS)
    given = {"prompts": str(prompts), "model": tiny_model, **SMALL, **options}
    from tests.preference import tiny_runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_runs, "SMALL", {"learning_rate": 1e-2, "device": "cpu", "batch_size": 4})
        given.pop("max_length")
        return run_system(method, online_learner(method), folder, **given)


@pytest.mark.parametrize("method", ["grpo", "rloo", "online-dpo", "ppo"])
def test_a_run_leaves_model_card_report_and_rows(method: str, tmp_path: Path, tiny_model: str):
    run = tiny_run(method, tmp_path / "run", tiny_model)
    assert run.state == "done"
    assert (run.model / "README.md").read_text(encoding="utf-8").startswith("---\n")
    load_model(ModelOptions(model=str(run.path), device="cpu"), training=False)
    report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    titles = [one["title"] for one in report["sections"]]
    assert {"Held-out prompts", "Held-out prompts side by side", "Training", "Data"} <= set(titles)
    rows = held_out_rows(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    rollouts = run.artefacts / "rollouts"
    scored = read_rows(rollouts / "rollout-00001-scored.jsonl")
    assert set(scored[0]["values"]) == {"at most 2 words", "must_include:{answer}"}
    assert read_records(str(rollouts / "rollout-00001.jsonl"), kind="prompt").records
    logged = [event for event in run.events("train") if "reward" in event]
    wanted = {
        "reward",
        "entropy",
        "length/response",
        "responses/truncated",
        "responses/not_scorable",
        "sampler/gap",
    }
    assert wanted <= logged[0].keys()
    assert ("kl/policy_reference" in logged[0]) == (method != "grpo")


def test_a_finished_run_is_not_trained_again_and_the_same_seed_gives_the_same_weights(
    tmp_path: Path, tiny_model: str
):
    first = tiny_run("rloo", tmp_path / "run", tiny_model)
    weights = (first.model / "adapter_model.safetensors").stat().st_mtime_ns
    again = tiny_run("rloo", tmp_path / "run", tiny_model)
    assert (again.model / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert_same_weights(first, tiny_run("rloo", tmp_path / "other", tiny_model))


def test_the_number_of_responses_in_a_pass_changes_no_result(tmp_path: Path, tiny_model: str):
    import torch
    from safetensors.torch import load_file

    runs = [
        tiny_run("grpo", tmp_path / f"run-{size}", tiny_model, batch_size=size, max_steps=1)
        for size in (2, 6)
    ]
    first, second = (load_file(run.model / "adapter_model.safetensors") for run in runs)
    for name, one in first.items():
        torch.testing.assert_close(one, second[name], atol=1e-4, rtol=1e-3)


def test_prompts_of_their_own_are_held_out(tmp_path: Path, tiny_model: str):
    other = write(tmp_path / "other.jsonl", [{"prompt": "Say so.", "answer": "so", "id": "sky"}])
    run = tiny_run(
        "grpo", tmp_path / "run", tiny_model, eval_prompts=str(other), eval_fraction=0.1, max_steps=1
    )
    assert len(held_out_rows(run)[0]["rewards"]) == 1


def test_prompts_of_several_sources_are_mixed(tmp_path: Path, tiny_model: str):
    renamed = [
        {"question": f"{row['prompt']} Now.", "answer": row["answer"], "id": row["id"]} for row in ROWS
    ]
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", ROWS), ("b", renamed))]
    sources = [f"{paths[0]},max=6", f"{paths[1]},column.prompt=question,tag=bee"]
    run = tiny_run("grpo", tmp_path / "run", tiny_model, prompts=sources, max_steps=1)
    figures = {event["tag"]: (event["held_out"], event["in_pass"]) for event in run.events("source")}
    assert figures == {"a": (2, 4), "bee": (2, 6)}
    rows = read_rows(run.artefacts / "rollouts" / "rollout-00001.jsonl")
    assert all(row["id"].partition(":")[0] in ("a", "bee") for row in rows), (
        "the same ids stand in both files"
    )
    report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    assert "Sources" in [one["title"] for one in report["sections"]]
    with pytest.raises(ConfigError, match="a weight has no effect: each of these records counts once"):
        tiny_run("grpo", tmp_path / "other", tiny_model, prompts=f"{paths[0]},weight=2")


def test_prompts_without_an_answer_are_named_before_a_model_is_loaded(tmp_path: Path):
    write(tmp_path / "prompts.jsonl", [*ROWS, {"prompt": "Say it.", "id": "x"}])
    with pytest.raises(DataError, match=r"prompts.jsonl:9: answer: is missing"):
        tiny_run("grpo", tmp_path / "run", "no/such-model")


def test_a_judge_that_never_parses_stops_the_run_and_loses_nothing(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
):
    class Judge:
        name = "judge"

        def rate(self, items: Any, **terms: Any) -> list[Rating]:
            return [Rating(id=item.id, score=None, failure="malformed") for item in items]

    monkeypatch.setattr(online_run, "judge_over", lambda generator, store: lambda name: Judge())
    with pytest.raises(CoalignError, match=r"6 of 6 responses of rollout 1 have no reward.*judge:"):
        tiny_run("grpo", tmp_path / "run", tiny_model, reward=["judge:is it kind?"], eval_fraction=0.0)
    assert len(read_rows(tmp_path / "run/artefacts/rollouts/rollout-00001.jsonl")) == 2


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("grpo", {"reward": []}, "reward: is required"),
        ("grpo", {"samples": 1}, "compared with nothing"),
        ("grpo", {"kl_estimator": "k2"}, "kl_estimator has no effect without beta"),
        ("grpo", {"epsilon": 1.5}, "below 1"),
        ("grpo", {"delta": 1.1}, "inside the clip"),
        ("grpo", {"truncation_penalty": 2.0}, "truncation_penalty has no effect with truncated: keep"),
        ("grpo", {"refills": 2}, "refills has no effect without dynamic_sampling"),
        ("grpo", {"adapter_dropout": 0.1}, "adapter_dropout has no place here"),
        ("grpo", {"eval_fraction": 0.0, "stop_at_kl": 1.0}, "stop_at_kl has no effect without held-out"),
        ("grpo", {"reward": ["final_answr:{answer}"]}, "final_answer"),
        ("rloo", {"beta": 0.0, "kl_in": "loss"}, "kl_in has no effect without beta"),
        ("online-dpo", {"beta": 0.0}, "above 0"),
        ("online-dpo", {"epsilon": 0.1}, "is not an option"),
    ],
)
def test_options_work_or_are_refused(method: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(online_learner(method).Config, {"prompts": "p", "reward": ["max_words:2"], **options})
