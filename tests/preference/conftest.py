"""A tiny model for all runs, and runs of a system on rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coalign.core.runs import Run
from coalign.core.system import load_system
from tests.preference.tiny_runs import Rows, pairs, run_system, save_tiny_model, write


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def pair_file(tmp_path: Path) -> str:
    return str(write(tmp_path / "pairs.jsonl", pairs()))


@pytest.fixture
def start(model: str, tmp_path: Path) -> Callable[..., Run]:
    """`start("pro", rankings(), max_steps=1)` runs a system on rows; runs of one test need a `folder` each."""

    def run(slug: str, rows: Rows, *, folder: str = "run", **options: object) -> Run:
        data = write(tmp_path / f"{folder}.jsonl", rows)
        options = {"data": str(data), "model": model, **options}
        return run_system(slug, load_system(slug), tmp_path / folder, **options)

    return run
