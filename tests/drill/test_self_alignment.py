"""Loops in which a model makes its own data, killed at random writes, in random processes and between more rounds."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.core.catalogue import entries
from coalign.core.runs import Run
from tests.contract.artefacts import artefacts, assert_close
from tests.contract.killing import Killed, watched
from tests.contract.test_contract import Whole, ready, root, row_of, tiny_run, whole
from tests.drill.kills import drill as kill_at_random
from tests.drill.kills import run_of

assert [root, whole]  # fixtures

LOOPS = [entry.slug for entry in entries() if entry.available and entry.room == "selfalign"]
FEW, MANY = 2, 25
ALWAYS = ("act", "cream")
"""Loops of every run of the tests; the contract tests kill all of them at every kind of moment."""


@pytest.fixture(params=[one if one in ALWAYS else pytest.param(one, marks=pytest.mark.slow) for one in LOOPS])
def name(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return ready(request.param, root, monkeypatch)


def drilled(name: str, folder: Path, undisturbed: Whole, *, kills: int, seed: int, **changes: Any) -> Run:
    """The run in `folder`, killed before `kills` random writes (of rows, files and folders) and started again each time.
    What remains after a kill is drawn from anew, so late stages are hit as well as early ones.
    """
    draw, left = random.Random(f"{name} {seed}"), sum(undisturbed.rows.values()) + len(undisturbed.rows)
    for _ in range(kills):
        wait = draw.randint(1, max(2, left // 2))

        def kill(path: Path, data: bytes) -> None:
            nonlocal wait
            wait -= 1
            if wait < 0:
                raise Killed

        before = wait
        with contextlib.suppress(Killed), watched(kill):
            return tiny_run(name, folder, **changes)
        left -= before
    return tiny_run(name, folder, **changes)


def assert_alike(run: Run, undisturbed: Run) -> None:
    assert run.status().get("figures") == undisturbed.status().get("figures")
    assert_close(artefacts(run.path), artefacts(undisturbed.path), rtol=0, atol=0)
    for file in undisturbed.model.glob("*.safetensors"):
        assert (run.model / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_few_kills_change_nothing(name: str, whole: Callable[[str], Whole]) -> None:
    undisturbed = whole(name)
    run = drilled(name, Path("drill") / name, undisturbed, kills=FEW, seed=0)
    assert_alike(run, undisturbed.run)


@pytest.mark.parametrize("slug", ["cream"])
def test_a_kill_after_more_rounds_were_asked_for(
    slug: str, root: Path, whole: Callable[[str], Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, fixed = whole(ready(slug, root, monkeypatch)), {"prompts_per_round": 2}
    assert row_of(slug)[1].options["rounds"] == 2
    at_once = tiny_run(slug, Path("drill") / f"{slug} at once", **fixed)
    later = Path("drill") / f"{slug} later"
    tiny_run(slug, later, rounds=1, **fixed)
    run = drilled(slug, later, undisturbed, kills=1, seed=1, **fixed)
    assert_alike(run, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_change_nothing(seed: int, name: str, whole: Callable[[str], Whole]) -> None:
    undisturbed = whole(name)
    run = drilled(name, Path("drill") / f"{name} {seed}", undisturbed, kills=MANY, seed=seed + 1)
    assert_alike(run, undisturbed.run)


@pytest.mark.slow
def test_processes_that_are_killed_end_like_the_undisturbed_run(name: str) -> None:
    found = kill_at_random([run_of(name)], 10, folder=Path("terminated"))
    assert not found.faults, found.told()
