"""Loops of rounds with trainings in parts, in two processes, are those of one: the first leads, all sample, score and learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loops import led_in_processes
from tests.loops.test_in_processes import assert_same_rounds
from tests.training.in_processes import started

NAMES = (led_in_processes.CHOSEN, *led_in_processes.OTHERS, *led_in_processes.SAMPLING)
UNDER_ZERO = ("cream", "act")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    led_in_processes.furnish_for(folder, *NAMES)
    ended = started("tests.loops.led_in_processes", folder, "fsdp2", ",".join(NAMES), timeout=1200)
    assert ended.returncode == 0, ended.stderr[-9000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_the_rounds_of_one(launched: Path, name: str) -> None:
    run = assert_same_rounds(launched, name)
    kinds = [event["arrangement"].partition(",")[0] for event in run.events("processes")]
    assert kinds
    assert set(kinds) == {"FSDP2 over 2 processes"}


@pytest.fixture(scope="module", params=["zero2", "zero3"])
def by_deepspeed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    led_in_processes.furnish_for(folder, *UNDER_ZERO)
    ended = started("tests.loops.led_in_processes", folder, request.param, ",".join(UNDER_ZERO), timeout=600)
    assert ended.returncode == 0, ended.stderr[-9000:]
    return folder, f"DeepSpeed ZeRO stage {request.param[-1]} over 2 processes"


@pytest.mark.parametrize("name", UNDER_ZERO)
def test_rounds_trained_by_deepspeed_are_those_of_one_process(
    by_deepspeed: tuple[Path, str], name: str
) -> None:
    folder, arrangement = by_deepspeed
    run = assert_same_rounds(folder, name)
    assert {event["arrangement"] for event in run.events("processes")} == {arrangement}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copied")
    led_in_processes.furnish_for(folder, *led_in_processes.WHOLE)
    ended = started("tests.loops.led_in_processes", folder, "ddp", ",".join(led_in_processes.WHOLE))
    assert ended.returncode == 0, ended.stderr[-9000:]
    return folder


@pytest.mark.parametrize("name", led_in_processes.WHOLE)
def test_processes_with_the_whole_model_make_the_artefacts_of_one(copied: Path, name: str) -> None:
    run = assert_same_rounds(copied, name)
    assert {event["arrangement"] for event in run.events("processes")} == {
        "DDP over 2 processes, each with the whole model"
    }
