"""`coalign launch`: refusals before anything starts, the configuration, and a run in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from coalign.core.runs import Run
from tests.preference.tiny_runs import pairs, write


@pytest.fixture
def given(tmp_path: Path, tiny_model: str) -> list[str]:
    data = write(tmp_path / "rows.jsonl", pairs(8))
    return ["run", "dpo", "--data", str(data), "--model", tiny_model, "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "1", "--", "run", "dpo"], "'--processes'"),
        (["--recipe", "fsdp2", "--processes", "1", "--", "run", "dpo"], "'--processes'"),
        (["--processes", "2", "--", "judge", "x"], "judge: launch starts `run METHOD ...`"),
        (["--processes", "2", "--", "run"], "launch starts `run METHOD ...`"),
        (["--processes", "2"], "Missing argument"),
        (["--processes", "2", "run", "dpo", "--beta", "x"], "beta"),
        (["--processes", "2", "run", "dpoo"], "dpoo"),
        (["--recipe", "zero1", "--processes", "2", "run", "dpo"], "zero1"),
    ],
)
def test_a_wrong_start_is_refused_once(coalign, words: list[str], said: str) -> None:
    result = coalign("launch", *words)
    assert result.code == 2
    assert result.err.count(said) == 1


def test_one_process_goes_on_under_deepspeed(coalign, given) -> None:
    result = coalign("launch", "--recipe", "zero3", "--processes", "1", "--print-config", "--", *given)
    assert result.code == 0
    assert "num_processes: 1" in result.out


def test_more_processes_than_gpus_are_refused(coalign, given, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    result = coalign("launch", "--processes", "3", "--", *given[:-1], "cuda")
    assert (result.code, "expected at most 2" in result.err) == (2, True)
    result = coalign("launch", "--processes", "2", "--", *given[:-1], "cuda:1")
    assert (result.code, "one GPU for all processes" in result.err) == (2, True)


@pytest.mark.parametrize("recipe", ["fsdp2", "zero2", "zero3"])
def test_parts_of_a_model_that_samples_in_training_are_refused(coalign, given, recipe: str) -> None:
    words = ["run", "grpo", "--prompts", given[3], "--reward", "max_words:3"]
    result = coalign("launch", "--recipe", recipe, "--processes", "2", "--", *words)
    assert result.code != 0
    assert f"--recipe {recipe}: grpo samples from the model while it is in training" in result.err


def test_the_configuration_is_printed_and_nothing_starts(coalign, given, tmp_path: Path) -> None:
    result = coalign(
        "launch", "--processes", "3", "--print-config", "--", *given, "--out", str(tmp_path / "run")
    )
    assert result.code == 0
    assert yaml.safe_load(result.out)["num_processes"] == 3
    assert "# ACCELERATE_USE_CPU=true DS_ACCELERATOR=cpu accelerate launch" in result.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_is_told_everything_that_it_would_choose(coalign, given, recipe: str, stage: int) -> None:
    result = coalign("launch", "--recipe", recipe, "--processes", "2", "--print-config", "--", *given)
    assert result.code == 0, result.err
    written = json.loads(
        next(line for line in result.out.splitlines() if ".json: " in line).partition(": ")[2]
    )
    assert written["zero_optimization"]["stage"] == stage
    for name in ("gradient_clipping", "gradient_accumulation_steps"):
        assert written[name] == "auto", "the run's own; without it DeepSpeed has a value that nobody chose"
    settings = yaml.safe_load(result.out)
    assert settings["distributed_type"] == "DEEPSPEED"
    assert "mixed_precision" not in settings, "accelerate refuses it beside a file of DeepSpeed"


def test_deepspeed_that_is_missing_is_named_with_its_extra(coalign, given, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setattr("coalign.cli.running.launch.is_installed", lambda module: False)
    result = coalign("launch", "--recipe", "zero3", "--processes", "2", "--", *given)
    assert result.code != 0
    assert "coalign[deepspeed]" in result.err


def test_versions_that_do_not_fit_are_refused(coalign, given, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.14.9" if name == "accelerate" else version(name))
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2", "accelerate>=1.15"])
    monkeypatch.setattr("os.execve", lambda *given: pytest.fail("it started"))
    result = coalign("launch", "--recipe", "fsdp2", "--processes", "2", "--", *given)
    assert result.code == 2
    assert "accelerate 1.14.9 is installed, expected >=1.15." in result.err


def test_restarts_have_a_rendezvous_of_their_own(coalign, given) -> None:
    result = coalign("launch", "--processes", "2", "--max-restarts", "3", "--print-config", "--", *given)
    assert "--max_restarts 3 --rdzv_backend c10d" in result.out
    assert "PET_RDZV_ENDPOINT=localhost:0 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 " in result.out


def test_a_sharded_run_in_two_processes(given: list[str], tmp_path: Path) -> None:
    words = [*given, "--max-steps", "1", "--batch-size", "2", "--show-answers", "0", "--save-steps", "0"]
    result = subprocess.run(
        [sys.executable, "-m", "coalign", "launch", "--recipe", "fsdp2", "--processes", "2", "--", *words],
        env={**os.environ, "PYTHONPATH": os.path.join(os.getcwd(), "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (folder,) = (tmp_path / "runs").iterdir()
    run = Run(folder)
    assert run.state == "done"
    assert run.events("processes")[0]["arrangement"].startswith("FSDP2 over 2 processes, 49 of 49")
    assert {path.name for path in run.model.glob("adapter*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert result.stderr.count("Plan") == 1
