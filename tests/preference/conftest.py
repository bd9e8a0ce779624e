"""A tiny model, and what learns with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalign.core.catalogue import entries
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.training.learning import learner
from tests.preference.tiny_runs import run_system, write

SLUGS = {entry.slug for entry in entries()}


@pytest.fixture
def model(tiny_model: str) -> str:
    return tiny_model


@pytest.fixture
def learn(model: str, tmp_path: Path) -> Callable[..., Run]:
    """Run a system or an objective with the tiny model; the same run again continues. An option may be rows: they
    are written to `RUN-OPTION.jsonl`."""

    def learn(slug: str, rows: Any = None, run: str = "run", **options: Any) -> Run:
        given: dict[str, Any] = {"model": model, **({"data": rows} if rows else {}), **options}
        for name, value in given.items():
            if isinstance(value, list) and isinstance(value[0], dict):
                given[name] = str(write(tmp_path / f"{run}-{name}.jsonl", value))
        return run_system(
            slug, load_system(slug) if slug in SLUGS else learner(slug), tmp_path / run, **given
        )

    return learn
