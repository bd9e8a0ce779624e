"""`coalign run` for objectives and for the systems that are one objective and its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file as load_tensors

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build, load_file, options_of
from coalign.models.files.loading import load_model
from coalign.preference import ln_dpo
from coalign.training.learning import learner
from tests.preference.tiny_runs import (
    assert_complete,
    feedback,
    notes,
    pairs,
    run_system,
    write,
)


def test_an_objective_runs_end_to_end(
    model: str, pair_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_system("dpo", learner("dpo"), tmp_path / "run", data=pair_file, model=model, eval_fraction=0.25)
    report = assert_complete(run)
    assert "6 to train, 2 held out" in json.dumps(report)
    assert (run.model / "adapter_config.json").exists(), "on a CPU an adapter is trained"
    assert "preference pairs" in notes(run)
    assert "preference pairs" in capsys.readouterr().err, "the user is told how the data was read"
    assert load_file(run.path / "config.yaml")["beta"] == 0.1
    load_model(str(run.path), training=False)


def test_full_tuning_with_a_copy_as_reference(model: str, pair_file: str, tmp_path: Path) -> None:
    options = {"data": pair_file, "model": model, "tuning": "full", "eval_fraction": 0.0, "batch_size": 8}
    run = run_system("dpo", learner("dpo"), tmp_path / "run", **{**options, "max_steps": 2})
    report = assert_complete(run)
    assert "Nothing was held out" in json.dumps(report)
    start, end = (load_tensors(one / "model.safetensors") for one in (Path(model), run.model))
    assert any(not start[name].equal(end[name]) for name in start)
    losses = [event["loss"] for event in run.events("train") if "loss" in event]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference agree at first"


def test_a_finished_run_is_not_trained_again(model: str, pair_file: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": pair_file, "model": model, "save_steps": 0}
    run = run_system("simpo", learner("simpo"), tmp_path / "run", **options)
    before = (run.model / "adapter_model.safetensors").stat().st_mtime_ns
    (run.path / "report.html").unlink()
    again = run_system("simpo", learner("simpo"), tmp_path / "run", **options)
    assert_complete(again)
    assert (again.model / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["kto", "rrhf", "sft", "cdpo"])
def test_pairs_become_what_the_objective_needs(name: str, model: str, pair_file: str, tmp_path: Path) -> None:
    options = {"data": pair_file, "model": model, "max_steps": 1, "eval_fraction": 0.25}
    run = run_system(name, learner(name), tmp_path / "run", **options)
    assert_complete(run)
    assert ("were read as" in notes(run)) == (name != "cdpo")


def test_ln_dpo_runs_by_default(model: str, pair_file: str, tmp_path: Path) -> None:
    run = run_system("ln-dpo", ln_dpo, tmp_path / "run", data=pair_file, model=model, max_steps=1)
    report = assert_complete(run)
    assert report["title"].startswith("ln_dpo")
    assert report["arxiv"] == "2407.15229"
    assert load_file(run.path / "config.yaml")["beta"] == 1.0, "the objective's default is on record"


@pytest.mark.parametrize("name", ln_dpo.COMPARED)
def test_each_compared_objective_takes_its_own_constants(name: str) -> None:
    config = build(ln_dpo.Config, {"data": "x", "objective": name})
    objective = ln_dpo.get_objective(name)
    for one in options_of(objective.constants):
        assert getattr(config, one.name) == one.default


def test_a_compared_objective_runs(model: str, pair_file: str, tmp_path: Path) -> None:
    options = {"data": pair_file, "model": model, "objective": "simpo", "gamma": 0.3, "max_steps": 1}
    run = run_system("ln-dpo", ln_dpo, tmp_path / "run", **options)
    assert assert_complete(run)["title"].startswith("simpo")
    config = load_file(run.path / "config.yaml")
    assert (config["beta"], config["gamma"], config["tau"]) == (2.0, 0.3, None)


def test_a_learner_checks_constants_and_model_options() -> None:
    config = learner("cdpo").Config
    for options in ({"label_smoothing": 0.6}, {"tuning": "full", "adapter_rank": 2}):
        with pytest.raises(ConfigError):
            build(config, {"data": "x", **options})


def test_what_cannot_be_converted_is_refused_before_anything_loads(tmp_path: Path) -> None:
    data = str(write(tmp_path / "feedback.jsonl", feedback()))
    with pytest.raises(DataError, match="preference records are needed"):
        run_system("dpo", learner("dpo"), tmp_path / "run", data=data, model="/nowhere")


def test_bad_records_of_both_files_are_kept_apart(model: str, tmp_path: Path) -> None:
    broken = [*pairs(6), {"prompt": "x", "chosen": "y"}]
    data = str(write(tmp_path / "a.jsonl", broken))
    held_out = str(write(tmp_path / "b.jsonl", broken[2:]))
    options = {"data": data, "eval_data": held_out, "model": model, "on_bad_record": "skip", "max_steps": 1}
    run = run_system("dpo", learner("dpo"), tmp_path / "run", **options)
    assert_complete(run)
    assert (run.path / "rejects.jsonl").exists()
    assert (run.path / "eval_rejects.jsonl").exists()
    assert notes(run).count("1 bad records were skipped") == 2


def test_held_out_records_that_cannot_be_used_say_so(model: str, pair_file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Held-out records: KTO needs responses to at least two") as caught:
        run_system("kto", learner("kto"), tmp_path / "run", data=pair_file, model=model)
    assert "--eval-fraction" in str(caught.value)
