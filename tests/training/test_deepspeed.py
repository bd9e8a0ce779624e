"""ZeRO in two gloo processes: the step of one process, and goes on, also in one and in four. DeepSpeed is not in the pinned
versions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from coalign.core.runs import Run
from tests.training import in_processes
from tests.training.test_processes import alone, weights_of  # noqa: F401

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["zero2", "zero3"])
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("launched")
    ended = in_processes.start(folder, request.param)
    assert ended.returncode == 0, ended.stderr[-9000:]
    return SimpleNamespace(folder=folder, ended=ended, recipe=request.param)


@pytest.mark.parametrize("name", [*in_processes.CASES, "distilled"])
def test_two_processes_make_the_step_of_one(
    launched: SimpleNamespace,
    alone: Callable[[str], Run],  # noqa: F811
    name: str,
) -> None:
    one_run, run = alone(name), Run(launched.folder / f"{name}-{launched.recipe}")
    (one,), (two,) = (
        [row for row in each.events("train") if "loss" in row and "grad_norm" in row]
        for each in (one_run, run)
    )
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    first, second = weights_of(one_run), weights_of(run)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-6, msg=key)
    (event,) = run.events("processes")
    assert event["arrangement"] == f"DeepSpeed ZeRO stage {launched.recipe[-1]} over 2 processes"


def test_a_stopped_training_goes_on(launched: SimpleNamespace) -> None:
    undisturbed, resumed = (
        Run(launched.folder / f"several-{launched.recipe}"),
        Run(launched.folder / "stopped"),
    )
    assert [row["done"] for row in resumed.events("plan")] == [0, 2]
    first, second = weights_of(undisturbed), weights_of(resumed)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-6, msg=key)


@pytest.fixture(scope="module")
def moved(launched: SimpleNamespace) -> Path:
    """What two processes wrote continued in one and in four, and what four wrote in two."""
    folder = launched.folder
    for processes in (1, 4, 2):
        ended = in_processes.started(
            "tests.training.in_other_processes", folder, launched.recipe, processes=processes
        )
        assert ended.returncode == 0, ended.stderr[-9000:]
    return folder


@pytest.mark.parametrize(
    ("undisturbed", "resumed"),
    [("several", "to-1"), ("several", "to-4"), ("adapted", "adapted-to-4"), ("several", "from-4")],
)
def test_another_number_of_processes_goes_on(
    launched: SimpleNamespace, moved: Path, undisturbed: str, resumed: str
) -> None:
    one, other = Run(moved / f"{undisturbed}-{launched.recipe}"), Run(moved / resumed)
    assert [row["done"] for row in other.events("plan")] == [0, 2]
    assert [row["batch_size"] for row in other.events("plan")] == [8, 8], "records of a step, as before"
    checkpoint = other.checkpoints / "train" / "checkpoint-2"
    assert (checkpoint / "latest_universal").read_text() == "universal"
    assert not list(checkpoint.glob(".*"))
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-6, msg=key)


def test_an_optimizer_that_would_lose_its_state_is_refused_by_all(
    launched: SimpleNamespace, moved: Path
) -> None:
    said = {(moved / f"refused-{rank}").read_text() for rank in range(4)}
    assert len(said) == 1
    assert "an optimizer that keeps" in min(said)
    assert "Continue with --processes 2" in min(said)
    assert not (moved / "by-sgd" / "checkpoints" / "train" / "checkpoint-2" / "universal").exists()


def test_a_loss_that_is_no_number_is_found_by_all(launched: SimpleNamespace) -> None:
    first, second = (
        Path(launched.folder / f"diverged-{launched.recipe}-{rank}").read_text() for rank in (0, 1)
    )
    assert first == second
