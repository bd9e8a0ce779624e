"""A pipeline at work: results go on by name, a failure keeps what was made, a killed pipeline goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from coalign.core.runs import Run

PAIRS = [
    {"prompt": f"Say {index}.", "chosen": f"It is {index}.", "rejected": f"No {index}."}
    for index in range(24)
]


@pytest.fixture
def written(tmp_path, tiny_model):
    """A function that writes a pipeline of the stages and gives its file."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PAIRS))

    def write(**stages) -> Path:
        file = tmp_path / "chain.yaml"
        file.write_text(
            yaml.safe_dump(
                {"settings": {"model": tiny_model, "pairs": str(tmp_path / "pairs.jsonl")}, "stages": stages}
            )
        )
        return file

    return write


def dpo(model: str, data: str = "${pairs}", steps: int = 2):
    return {"run": "dpo", "options": {"model": model, "data": data, "max-steps": steps, "batch-size": 4}}


def start(file: Path, *words: str) -> subprocess.Popen[str]:
    out = str(file.parent / "out")
    command = [sys.executable, "-m", "coalign", "pipeline", "run", str(file), "--out", out, *words]
    environment = {**os.environ, "COALIGN_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_failure_keeps_what_was_made_and_the_next_start_goes_on(written, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "no answers"}\n')
    file = written(
        first=dpo("${model}"),
        second=dpo("${first}", str(bad)),
        third={"run": "merge", "options": {"base": "${model}", "models": ["${first}", "${second}"]}},
        apart={"run": "merge", "options": {"method": "linear", "models": ["${model}", "${first}"]}},
    )
    process = start(file, "--keep-going")
    said = process.communicate(timeout=250)[1]
    assert process.returncode == 1
    assert "Error: Stage second (dpo) failed: DataError:" in said
    assert "third: merge: left out, since second is not done" in said
    stages = tmp_path / "out" / "stages"
    assert {name: Run(stages / name).state for name in ("first", "second", "apart")} == {
        "first": "done",
        "second": "failed",
        "apart": "done",
    }
    weights = (stages / "first" / "model" / "adapter_model.safetensors").stat().st_mtime_ns
    bad.write_text((tmp_path / "pairs.jsonl").read_text())
    process = start(file)
    shown, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert "first: dpo: done before" in said
    assert (stages / "first" / "model" / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert "2 models merged by model-stock" in shown
    run = Run.open(tmp_path / "out")
    assert run.state == "done"
    assert run.status()["headline"].startswith("4 of 4 stages are done.")
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_a_killed_pipeline_ends_its_stage_and_goes_on_inside_it(written, tmp_path):
    stage = dpo("${model}", steps=400)
    stage["options"]["save-steps"] = 20
    file = written(only=stage)
    process = start(file)
    folder = tmp_path / "out" / "stages" / "only" / "checkpoints"
    while not list(folder.rglob("trainer_state.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=30)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children)
    again = start(file)
    said = again.communicate(timeout=280)[1]
    assert again.returncode == 0, said
    events = [one["event"] for one in Run(tmp_path / "out" / "stages" / "only").events()]
    assert "resumed" in events
