"""Every objective under FSDP2 in two processes makes the steps of one: all weights or adapters, activations kept or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalign.core.runs import Run
from coalign.training.objective import all_objectives
from tests.training import objectives
from tests.training.in_processes import started
from tests.training.test_processes import assert_same_steps


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    objectives.material(folder)
    ended = started("tests.training.objectives", folder, "fsdp2", timeout=1800)
    assert ended.returncode == 0, ended.stderr[-9000:]
    return folder


def test_the_names_are_all_that_the_library_has() -> None:
    own = [name for name, one in all_objectives().items() if one.loss.__module__.startswith("coalign.")]
    assert sorted(objectives.NAMES) == sorted(one.replace("_", "-") for one in own)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), objectives.cases())
def test_two_processes_make_the_steps_of_one(launched: Path, name: str, way: str) -> None:
    alone, shared = objectives.train(name, way, launched, 1), Run(launched / f"{name}-{way}-2")
    assert_same_steps(alone, shared)
