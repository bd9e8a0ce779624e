"""Processes killed at random moments: ten kills for every run of the tests, a hundred behind `-m slow`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.drill import kills as module
from tests.drill.kills import SYSTEMS, Victim, attempt, drill, victims

FEW = ("ln-dpo", "urial", "alignscore that learns", "act")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_ten_kills_change_nothing() -> None:
    with victims(FEW) as chosen:
        found = drill(chosen, 10)
    assert not found.faults, found.told()
    assert found.kills.total() == 10
    assert len(found.finished) == len(chosen)
    assert found.resumed >= len(chosen)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_change_nothing() -> None:
    with victims(SYSTEMS) as chosen:
        found = drill(chosen, 100)
    assert not found.faults, found.told()
    assert found.kills.total() == 100


def writing(argv: list[str]) -> None:
    """Stands for the command line: writes a file in two halves, and does not look for the first."""
    target = Path(argv[0])
    target.mkdir(parents=True, exist_ok=True)
    with (target / "out").open("a") as file:
        file.write("a")
        file.flush()
        time.sleep(0.3)
        file.write("b")


def test_the_drill_sees_what_a_kill_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(one: Path, other: Path) -> None:
        assert (one / "out").read_text() == (other / "out").read_text(), "half a file"

    monkeypatch.setattr(module, "main", writing)
    found = drill([Victim("writer", lambda folder: [str(folder)], alike)], 2)
    assert "half a file" in found.faults[0]
    assert found.kills.total() >= 1


def test_a_process_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.3)
    monkeypatch.setattr(module, "main", lambda argv: time.sleep(60))
    with pytest.raises(AssertionError, match="hangs"):
        attempt(["x"])


def test_how_a_process_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "main", lambda argv: os._exit(3))
    assert attempt(["x"]).status == 3
    monkeypatch.setattr(module, "main", lambda argv: time.sleep(60))
    assert attempt(["x"], after=0.1, by=signal.SIGTERM).status == -signal.SIGTERM
