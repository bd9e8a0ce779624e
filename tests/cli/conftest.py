"""A command line in this process, and a small method for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pytest

from coalign.cli.main import main
from coalign.cli.running import run as run_module
from coalign.core.catalogue import get
from coalign.core.options import Count, Positive, option, required
from coalign.core.runs import Run


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def coalign(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Call the command line: `coalign("run", "act")` gives exit code, output and messages."""

    def call(*argv: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(argv)
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return call


@dataclass(kw_only=True)
class Shared:
    __group__ = "Training"

    epochs: Count = option(3, "passes over the data")


@dataclass(kw_only=True)
class Config(Shared):
    data: Path = required("file of pairs")
    beta: Positive = option(0.1, "temperature", source="paper")
    reduction: Literal["sum", "mean"] = option("sum", "over tokens")
    limit: int | None = option(8, "at most so many")
    words: list[str] = option(["a"], "some words")
    shuffle: bool = option(True, "mix the data")
    seed: int = option(7, "seed")


class Method(SimpleNamespace):
    """Does nothing, on purpose."""


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The system `act` replaced by one that records its configuration; `.fail` makes it raise."""
    monkeypatch.chdir(tmp_path)
    made = Method(Config=Config, seen=[], fail=None)

    def work(config: Config, folder: Run) -> None:
        made.seen.append(config)
        if made.fail is not None:
            raise made.fail

    made.run = work
    monkeypatch.setattr(run_module, "find", lambda name: (get(name), made))
    return made
