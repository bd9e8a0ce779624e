"""Reinforcement learning in two processes is that of one: the same samples, the same steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coalign.core.files import read_rows, write_rows
from coalign.core.runs import Run
from coalign.loops.rows import fill_rows_together
from tests.contract.artefacts import artefacts, assert_close
from tests.loops import in_processes, led_in_processes
from tests.training.in_processes import started


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    led_in_processes.furnish_for(folder, led_in_processes.CHOSEN)
    ended = started("tests.loops.in_processes", folder, "ddp")
    assert ended.returncode == 0, ended.stderr[-9000:]
    return folder


@pytest.mark.parametrize("method", in_processes.METHODS)
def test_two_processes_make_the_steps_of_one(launched: Path, method: str) -> None:
    alone, shared = in_processes.train(launched, method, 1), Run(launched / f"{method}-2")
    for path in sorted(alone.artefacts.rglob("*.jsonl")):
        ours, theirs = read_rows(path), read_rows(shared.path / path.relative_to(alone.path))
        assert len(ours) == len(theirs), path
        for one, two in zip(ours, theirs, strict=True):
            assert one.keys() == two.keys()
            for name in {"id", "index", "responses", "token_ids", "rewards"} & one.keys():
                assert one[name] == two[name], (path.name, name)
            if "kl" in one:
                assert two["kl"] == pytest.approx(one["kl"], abs=1e-4)
    assert not [*shared.artefacts.rglob("*-part-*")]
    ours, theirs = ([row for row in run.events("train") if "loss" in row] for run in (alone, shared))
    assert len(ours) == len(theirs) == 2
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name in [
            key
            for key, value in one.items()
            if isinstance(value, float) and key not in {"time", "step_seconds"}
        ]:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
    before, after = (load_file(run.model / "adapter_model.safetensors") for run in (alone, shared))
    assert any(value.abs().max() > 0 for name, value in before.items() if "lora_B" in name)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)


def assert_same_rounds(folder: Path, name: str) -> Run:
    """All artefacts but the models are those of one process, numbers up to rounding."""
    alone, shared = led_in_processes.run_loop(name, folder, 1), Run(folder / f"{name}-2")
    expected, found = (
        {
            path: lasting(value)
            for path, value in artefacts(run.path).items()
            if "/model/" not in path and not path.endswith("adapter_config.json")  # its modules have no order
        }
        for run in (alone, shared)
    )
    if any("FSDP" in event["arrangement"] for event in shared.events("processes")):
        expected = {
            path: value for path, value in expected.items() if path in found or "/answers/" not in path
        }  # which whole models alone give
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(found[path], value, path, rtol=1e-3, atol=1e-4)
    assert (shared.path / "report.html").exists()
    return shared


def lasting(value: Any) -> Any:
    """Without the number of processes in names of folders, and without signs of margins that are nothing but rounding."""
    if isinstance(value, dict):
        rounding = {"step_seconds", "rewards/accuracies"}
        return {key: lasting(one) for key, one in value.items() if key not in rounding}
    if isinstance(value, list):
        return [lasting(one) for one in value]
    return value.replace("-1/", "/").replace("-2/", "/") if isinstance(value, str) else value


def test_rounds_of_two_processes_are_those_of_one(launched: Path) -> None:
    run = assert_same_rounds(launched, led_in_processes.CHOSEN)
    assert {one["arrangement"][:20] for one in run.events("processes")} == {"DDP over 2 processes"}
    assert not [*run.artefacts.rglob("*-part-*")]


def test_rows_that_a_process_made_before_a_kill_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.loops.rows.process_count", lambda: 2)
    monkeypatch.setattr("coalign.loops.rows.wait_for_all", lambda: None)
    monkeypatch.setattr("coalign.loops.rows.own_share", range)  # the other one has nothing left to do
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"index": 2, "id": "c", "x": 2}])
    write_rows(
        tmp_path / "rows-part-1.jsonl", [{"index": 1, "id": "b", "x": 1}, {"index": 2, "id": "c", "x": 9}]
    )
    made: list[list[int]] = []

    def work(done: list[int], keep) -> None:
        made.append(done)
        keep({place: {"x": place} for place in range(4) if place not in done})

    rows = fill_rows_together(path, ["a", "b", "c", "d"], work)
    assert [row["x"] for row in rows] == [0, 1, 2, 3]
    assert made == [[1, 2]]
    assert read_rows(path) == rows
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]
