"""Odd input: 200 inputs for every run of the tests, 1,500 others behind `-m slow`; no traceback, no hang, no silent drop."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.drill.fuzz import drill as module
from tests.drill.fuzz.bench import Bench, FoundError, HangError, watchdog
from tests.drill.fuzz.drill import drill, inputs
from tests.drill.fuzz.targets import TARGETS


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # one input is ~, which is read as a folder of data
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_few_odd_inputs(alone: Path) -> None:
    found = drill(alone, inputs(200))
    assert {*found.inputs} == {*TARGETS}
    assert not found.faults, found.told()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_odd_inputs(alone: Path) -> None:
    found = drill(alone, inputs(1500), seed=1)
    assert not found.faults, found.told()


def test_shares_are_kept() -> None:
    taken = list(inputs(500))
    assert len(set(taken)) == 500
    assert {name for name, _ in itertools.islice(taken, 40)} >= {
        "configurations",
        "judge",
        "pages",
        "generate",
    }
    counts = {name: sum(one == name for one, _ in taken) for name in TARGETS}
    assert counts["data check --json"] > 3 * counts["judge"]


def hanging(bench: Bench, draw: object) -> None:
    while True:
        pass


def failing(bench: Bench, draw: object) -> None:
    raise KeyError("x")


def lying(bench: Bench, draw: object) -> None:
    raise FoundError("two rows given, one used")


def test_the_drill_finds_what_it_looks_for(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {"hanging": (hanging, 1), "failing": (failing, 1), "lying": (lying, 1)}
    monkeypatch.setattr(module, "TARGETS", targets)
    monkeypatch.setattr(module, "watchdog", lambda: watchdog(0.2))
    found = drill(alone, [("hanging", 0), ("failing", 0), ("lying", 0)])
    assert found.faults == {
        "hanging 0": "hangs",
        "failing 0": "KeyError: 'x'",
        "lying 0": "two rows given, one used",
    }
    with pytest.raises(HangError), watchdog(0.1):
        hanging(Bench(alone), None)


def test_a_fault_behind_the_command_line_is_found(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coalign.cli.files import data

    monkeypatch.setattr(data, "_check", lambda *_, **__: {}["gone"])
    with pytest.raises(FoundError, match="KeyError: 'gone'"):
        Bench(alone).coalign("data", "check", "x.jsonl")
