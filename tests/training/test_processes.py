"""Several processes: the same step as one, whatever is trained; one that fails ends all; wrong starts are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import accelerate.state
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file as load_tensors
from torch import nn

from coalign.core.errors import ConfigError, DataError
from coalign.core.runs import Run
from coalign.training.processes import arrangement, assert_group
from tests.training import in_processes


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Three trainings in two gloo processes, then one in which the second fails; and the same three in this process."""
    folder = tmp_path_factory.mktemp("launched")
    in_processes.material(folder)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--dynamo_backend", "no"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "src")]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    ended = subprocess.run(
        [*launcher, "--main_process_port", "0", "-m", "tests.training.in_processes", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    at = time.time()
    assert (folder / "failed").exists(), ended.stderr[-9000:]
    return SimpleNamespace(folder=folder, ended=ended, at=at, alone=in_processes.train(folder, 1))


@pytest.mark.parametrize("method", in_processes.METHODS)
def test_two_processes_make_the_step_of_one(launched: SimpleNamespace, method: str) -> None:
    alone, shared = launched.alone[method], Run(launched.folder / f"{method}-2")
    (one,), (two,) = ([row for row in run.events("train") if "loss" in row] for run in (alone, shared))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    assert one["grad_norm"] > in_processes.STEP["max_grad_norm"], "the step is one of clipped gradients"
    before = load_tensors(launched.folder / "tiny" / "model.safetensors")
    first, second = (
        {
            name: value
            for path in sorted(run.model.glob("*.safetensors"))
            for name, value in load_tensors(path).items()
        }
        for run in (alone, shared)
    )
    assert first.keys() == second.keys()
    assert any(name not in before or not torch.equal(value, before[name]) for name, value in first.items())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6, msg=name)
    assert [run.events("processes")[0]["arrangement"] for run in (alone, shared)] == [
        "one process",
        "DDP over 2 processes, each with the whole model",
    ]


def test_a_process_that_fails_ends_all(launched: SimpleNamespace) -> None:
    assert launched.ended.returncode != 0
    assert "RuntimeError: only here" in launched.ended.stderr
    assert launched.at - float((launched.folder / "failed").read_text()) < 10
    assert Run(launched.folder / "failing").state != "done"


def test_the_plan_says_what_the_processes_became(launched: SimpleNamespace) -> None:
    assert launched.ended.stderr.count("DDP over 2 processes") == 3, "once for each training"


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, and each of them knows of itself alone"):
        assert_group(8)


@pytest.mark.parametrize("records", [0, 1, 2])
def test_fewer_records_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(num_processes=3))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(DataError, match=rf"{records} records? to train on, .* each of the 3 processes"):
        assert_group(records)
    assert_group(3)


@pytest.mark.parametrize(
    ("kind", "count", "asked", "said"),
    [
        ("NO", 1, "", "one process"),
        ("MULTI_GPU", 4, "", "DDP over 4 processes, each with the whole model"),
        ("MULTI_CPU", 2, "FSDP", "(FSDP was asked for, which needs GPUs)"),
        ("MULTI_CPU", 2, "DEEPSPEED", "(DeepSpeed was asked for, which needs GPUs)"),
        ("FSDP", 2, "FSDP", "no parameter is a DTensor"),
        ("DEEPSPEED", 8, "DEEPSPEED", "DeepSpeed ZeRO stage 3 over 8 processes"),
    ],
)
def test_arrangements(monkeypatch: pytest.MonkeyPatch, kind: str, count: int, asked: str, said: str) -> None:
    state = SimpleNamespace(
        num_processes=count,
        distributed_type=SimpleNamespace(value=kind),
        deepspeed_plugin=SimpleNamespace(zero_stage=3),
    )
    monkeypatch.setattr(accelerate.state, "AcceleratorState", lambda: state)
    if asked:
        monkeypatch.setenv(f"ACCELERATE_USE_{asked}", "true")
    assert arrangement(nn.Linear(2, 2)).endswith(said)


def test_sharded_parameters_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real DTensor on a group of one; the number of processes is the state's."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Linear(4, 4)
        sharded = distribute_tensor(model.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
        model.weight = nn.Parameter(sharded)
        state = SimpleNamespace(num_processes=2, distributed_type=SimpleNamespace(value="FSDP"))
        monkeypatch.setattr(accelerate.state, "AcceleratorState", lambda: state)
        assert arrangement(model) == "FSDP2 over 2 processes, 1 of 2 parameters sharded"
    finally:
        dist.destroy_process_group()
