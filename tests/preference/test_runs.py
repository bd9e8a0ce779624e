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
from tests.preference.tiny_runs import assert_complete, feedback, notes, pairs


def test_an_objective_runs_end_to_end(learn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = learn("dpo", pairs(), eval_fraction=0.25)
    assert "6 to train, 2 held out" in json.dumps(assert_complete(run))
    assert (run.model / "adapter_config.json").exists(), "on a CPU an adapter is trained"
    assert "preference pairs" in notes(run)
    assert "preference pairs" in capsys.readouterr().err, "the user is told how the data was read"
    assert load_file(run.path / "config.yaml")["beta"] == 0.1
    load_model(str(run.path), training=False)


def test_full_tuning_with_a_copy_as_reference(model: str, learn: Any) -> None:
    run = learn("dpo", pairs(), tuning="full", eval_fraction=0.0, batch_size=8, max_steps=2)
    assert "Nothing was held out" in json.dumps(assert_complete(run))
    start, end = (load_tensors(one / "model.safetensors") for one in (Path(model), run.model))
    assert any(not start[name].equal(end[name]) for name in start)
    losses = [event["loss"] for event in run.events("train") if "loss" in event]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference agree at first"


def test_a_finished_run_is_not_trained_again(learn: Any) -> None:
    run = learn("simpo", pairs(), save_steps=0)
    before = (run.model / "adapter_model.safetensors").stat().st_mtime_ns
    (run.path / "report.html").unlink()
    again = learn("simpo", pairs(), save_steps=0)
    assert_complete(again)
    assert (again.model / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["kto", "rrhf", "sft", "cdpo"])
def test_pairs_become_what_the_objective_needs(name: str, learn: Any) -> None:
    run = learn(name, pairs(), max_steps=1, eval_fraction=0.25)
    assert_complete(run)
    assert ("were read as" in notes(run)) == (name != "cdpo")


@pytest.mark.parametrize("name", ln_dpo.COMPARED)
def test_each_compared_objective_takes_its_own_constants(name: str) -> None:
    config = build(ln_dpo.Config, {"data": "x", "objective": name})
    objective = ln_dpo.get_objective(name)
    for one in options_of(objective.constants):
        assert getattr(config, one.name) == one.default


def test_a_compared_objective_runs(learn: Any) -> None:
    run = learn("ln-dpo", pairs(), objective="simpo", gamma=0.3, max_steps=1)
    assert assert_complete(run)["title"].startswith("simpo")
    config = load_file(run.path / "config.yaml")
    assert (config["beta"], config["gamma"], config["tau"]) == (2.0, 0.3, None)


def test_a_learner_checks_constants_and_model_options() -> None:
    config = learner("cdpo").Config
    for options in ({"label_smoothing": 0.6}, {"tuning": "full", "adapter_rank": 2}):
        with pytest.raises(ConfigError):
            build(config, {"data": "x", **options})


def test_what_cannot_be_converted_is_refused_before_anything_loads(learn: Any) -> None:
    with pytest.raises(DataError, match="preference records are needed"):
        learn("dpo", feedback(), model="/nowhere")


def test_bad_records_of_both_files_are_kept_apart(learn: Any) -> None:
    broken = [*pairs(6), {"prompt": "x", "chosen": "y"}]
    run = learn("dpo", broken, eval_data=broken[2:], on_bad_record="skip", max_steps=1)
    assert_complete(run)
    assert (run.path / "rejects.jsonl").exists()
    assert (run.path / "eval_rejects.jsonl").exists()
    assert notes(run).count("1 bad records were skipped") == 2


def test_held_out_records_that_cannot_be_used_say_so(learn: Any) -> None:
    with pytest.raises(DataError, match=r"Held-out records: KTO needs responses to at least two") as caught:
        learn("kto", pairs())
    assert "--eval-fraction" in str(caught.value)
