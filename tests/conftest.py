"""What every test gets: a cache of its own, so that a test run leaves the user's alone, a folder that all processes of the run
share, and a tiny model for all.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.models.stand_in import StandIn

# Examples are not timed: how long one takes is a matter of what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
FROZEN = {"modules": 0}
"""How many modules there were when what was there was last left out of collections."""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        own = tmp_path_factory.getbasetemp()
        patch.setenv("COALIGN_TESTS_SHARED", str(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own))
        yield


def pytest_runtest_setup() -> None:
    """Leave out of collections what was imported since the last test: every training begins with a full one (accelerate), which
    would look at all of it, and that is most of the time of a tiny training.
    """
    if len(sys.modules) > FROZEN["modules"]:
        FROZEN["modules"] = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a chat model with random weights; only read."""
    from tests.preference.tiny_runs import save_tiny_model

    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for vLLM's server, which ends with the test; coalign's cache is empty."""
    from coalign.models.backends.vllm_server import end_server
    from tests.models.stand_in import StandIn

    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    yield StandIn(tmp_path, monkeypatch)
    end_server()


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a system that is only planned, as long as the test runs."""
    from coalign.core.catalogue import get

    monkeypatch.setitem(vars(get("cream")), "status", "planned")
    return "cream"
