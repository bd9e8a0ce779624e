"""Several processes: the same step as one, whatever is trained; one that fails ends all; wrong starts are refused."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.state
import pytest
import torch
import transformers
from accelerate import PartialState
from safetensors.torch import load_file as load_tensors
from torch import nn
from transformers import BertConfig, CLIPConfig, LlamaConfig, MixtralConfig

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.training import processes
from coalign.training.distributed import sharding
from coalign.training.modules import fit_module
from coalign.training.processes import arrangement, assert_group, may_leave_unused
from coalign.training.task import Task
from tests.training import in_processes, objectives


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Trainings in two gloo processes under two recipes, the last of which fails in the second process."""
    folder = tmp_path_factory.mktemp("launched")
    ended = in_processes.start(folder, "fsdp2")
    at = time.time()
    assert (folder / "failed").exists(), ended.stderr[-9000:]
    return SimpleNamespace(folder=folder, ended=ended, at=at)


@pytest.fixture(scope="module")
def alone(launched: SimpleNamespace) -> Callable[[str], Run]:
    """A case in this process, made once."""

    @functools.cache
    def case(name: str) -> Run:
        if name == "distilled":
            return in_processes.distil(launched.folder / "distilled-one", launched.folder, 1)
        if name == "several":
            return in_processes.several(launched.folder, "one")
        return in_processes.train_case(name, launched.folder, "one")

    return case


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    files = sorted(run.model.glob("*.safetensors"))
    return {name: value for path in files for name, value in load_tensors(path).items()}


SHARED = [(name, "ddp") for name in in_processes.UNDER_DDP] + [
    (name, "fsdp2") for name in (*in_processes.CASES, "distilled")
]


@pytest.mark.parametrize(("name", "recipe"), SHARED)
def test_two_processes_make_the_step_of_one(
    launched: SimpleNamespace, alone: Callable[[str], Run], name: str, recipe: str
) -> None:
    one_run, run = alone(name), Run(launched.folder / f"{name}-{recipe}")
    (one,), (two,) = (
        [row for row in each.events("train") if "loss" in row and "grad_norm" in row]
        for each in (one_run, run)
    )
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    assert name == "distilled" or one["grad_norm"] > in_processes.STEP["max_grad_norm"], "clipped"
    before = load_tensors(launched.folder / "tiny" / "model.safetensors")
    first, second = weights_of(one_run), weights_of(run)
    assert first.keys() == second.keys()
    assert any(name not in before or not torch.equal(value, before[name]) for name, value in first.items())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6, msg=name)
    assert sorted(path.name for path in one_run.model.iterdir()) == sorted(
        path.name for path in run.model.iterdir()
    )


def assert_same_steps(alone: Run, shared: Run) -> None:
    """Losses and clipped norms to 1e-5, weights to 1e-6; all parameters were in parts. Before the first step the policy is its
    reference, and the signs of margins are those of rounding: metrics are compared after it.
    """
    ours, theirs = ([row for row in run.events("train") if "grad_norm" in row] for run in (alone, shared))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2]
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for metric in ("loss", "grad_norm"):
            assert two[metric] == pytest.approx(one[metric], rel=1e-5, abs=1e-6), metric
    for metric, value in ours[1].items():
        if isinstance(value, float) and metric not in {"time", "epoch", "step_seconds"}:
            assert theirs[1][metric] == pytest.approx(value, rel=1e-5, abs=2e-5), metric
    first, second = weights_of(alone), weights_of(shared)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-6, msg=key)
    (event,) = shared.events("processes")
    kind, _, rest = event["arrangement"].partition(", ")
    cut, _, whole = rest.removesuffix(" parameters sharded").partition(" of ")
    assert kind == "FSDP2 over 2 processes"
    assert int(cut) == int(whole) > 0


@pytest.mark.parametrize(("name", "way"), objectives.CHOSEN)
def test_two_processes_learn_an_objective_like_one(launched: SimpleNamespace, name: str, way: str) -> None:
    folder = launched.folder / "objectives"
    assert_same_steps(objectives.train(name, way, folder, 1), Run(folder / f"{name}-{way}-2"))


@pytest.mark.parametrize(("name", "recipe"), SHARED)
def test_the_plan_says_what_the_processes_became(launched: SimpleNamespace, name: str, recipe: str) -> None:
    (event,) = Run(launched.folder / f"{name}-{recipe}").events("processes")
    if recipe == "ddp":
        assert event["arrangement"] == "DDP over 2 processes, each with the whole model"
    else:
        found = re.fullmatch(
            r"FSDP2 over 2 processes, (\d+) of (\d+) parameters sharded", event["arrangement"]
        )
        assert found, event
        assert int(found[1]) == int(found[2]) > 0
    told = " ".join(launched.ended.stderr.split())
    assert event["arrangement"] in told
    assert "a process waits at most 30:00 for the others, then all end" in told
    assert "find_unused_parameters" not in told


def test_precomputed_references_are_shared_out_and_kept_once(launched: SimpleNamespace) -> None:
    rows = [read_rows(launched.folder / f"references-{rank}.jsonl") for rank in (0, 1)]
    scored = [[one for row in each for one in row.get("scored", ())] for each in rows]
    assert all(scored)
    together = [one for each in scored for one in each]
    assert len(together) == len(set(together)) == 12  # each of the records by one process
    first, second = ([row["wrote"] for row in each if "wrote" in row] for each in rows)
    assert not second
    assert len(first) == len(set(first)) >= 1
    assert all((launched.folder / "cache/reference" / name).exists() for name in first)
    assert all(row["recipe"] == "ddp" for each in rows for row in each)  # fsdp2 comes later, and reads


@pytest.mark.parametrize("recipe", ["ddp", "fsdp2"])
def test_a_step_that_cannot_be_shared_evenly_holds_each_record_once(
    launched: SimpleNamespace, alone: Callable[[str], Run], recipe: str
) -> None:
    one, two = (
        {row["step"]: row for row in run.events("train") if "grad_norm" in row}
        for run in (alone("several"), Run(launched.folder / f"several-{recipe}"))
    )
    assert list(one) == list(two) == [1, 2, 3, 4]
    for step, row in one.items():
        for name in ("loss", "grad_norm", "length/response"):
            assert two[step][name] == pytest.approx(row[name], rel=1e-5), (step, name)


def test_a_checkpoint_of_two_processes_is_in_parts_and_one_goes_on_with_it(launched: SimpleNamespace) -> None:
    undisturbed = Run(launched.folder / "several-fsdp2")
    checkpoint = undisturbed.checkpoints / "train" / "checkpoint-2"
    parts = checkpoint / sharding.WEIGHTS_IN_PARTS
    assert {path.name for path in parts.iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert not list(checkpoint.glob("*.safetensors"))
    run = in_processes.again(launched.folder)
    rows, expected = (
        {row["step"]: row["loss"] for row in each.events("train") if "loss" in row}
        for each in (run, undisturbed)
    )
    assert rows == pytest.approx(expected, rel=1e-5)
    assert [row["done"] for row in run.events("plan")] == [0, 2]
    assert [row["batch_size"] for row in run.events("plan")] == [8, 8], "records of a step, as before"
    first, second = weights_of(undisturbed), weights_of(run)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("recipe", ["ddp", "fsdp2"])
def test_a_loss_that_is_no_number_is_found_by_all(launched: SimpleNamespace, recipe: str) -> None:
    first, second = ((launched.folder / f"diverged-{recipe}-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("The loss is NaN or infinite after step 0, in the batch of records ")


def test_a_process_that_fails_ends_all(launched: SimpleNamespace) -> None:
    assert launched.ended.returncode == 1
    assert "RuntimeError: only here" in launched.ended.stderr
    assert "Process 1 ended with exit code 1; the others were ended." in launched.ended.stderr
    assert "ChildFailedError" not in launched.ended.stderr
    assert launched.at - float((launched.folder / "failed").read_text()) < 10
    assert Run(launched.folder / "failing").state != "done"


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, and each of them knows of itself alone"):
        assert_group(8)


@pytest.mark.parametrize("records", [0, 1, 2])
def test_fewer_records_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: SimpleNamespace(num_processes=3))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(DataError, match=rf"{records} records? to train on, .* each of the 3 processes"):
        assert_group(records)
    assert_group(3)


def test_a_training_that_the_others_would_not_join_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "form_group", lambda: SimpleNamespace(num_processes=2))
    with processes.alone():
        with pytest.raises(ConfigError, match="by itself"):
            assert_group(8)
        with processes.together():
            assert_group(8)


@pytest.mark.parametrize(
    ("kind", "count", "asked", "said"),
    [
        ("NO", 1, "", "one process"),
        ("MULTI_GPU", 4, "", "DDP over 4 processes, each with the whole model"),
        ("MULTI_CPU", 2, "FSDP", "(FSDP was asked for)"),
        ("MULTI_CPU", 2, "DEEPSPEED", "(DeepSpeed was asked for)"),
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


@pytest.mark.parametrize(
    ("config", "model", "may"),
    [
        (LlamaConfig, "LlamaForCausalLM", False),
        (LlamaConfig, "LlamaForSequenceClassification", False),
        (MixtralConfig, "MixtralForCausalLM", True),  # an expert may have no token
        (BertConfig, "BertForPreTraining", True),  # two heads
        (CLIPConfig, "CLIPModel", True),
    ],
)
def test_models_whose_steps_may_leave_weights_unused(config: Any, model: str, may: bool) -> None:
    with torch.device("meta"):
        made = getattr(transformers, model)(config())
    assert may_leave_unused(made) is may
    assert may_leave_unused(nn.Linear(2, 2))


def test_a_best_evaluation_is_not_kept_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="best evaluation needs the whole model"):
        fit_module(nn.Linear(2, 2), Task(), [1], None, Run(tmp_path), load_best_model_at_end=True)
