"""What several tests of models share: a tokenizer, norms in float64, and a machine without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.backends.endpoint_client import EndpointClient
from coalign.models.backends.options import BackendOptions
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.endpoint_server import FEW, PROMPTS, running
from tests.models.tiny import float64_norms


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer(CHATML)


@pytest.fixture
def exact_norms():
    with float64_norms():
        yield


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, nothing of it on the disk, and an empty cache."""
    from coalign.models.files import defaults, failures, places

    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    for module in (defaults, failures, places):
        monkeypatch.setattr(module, "hub_problem", lambda *_: "no network")
    monkeypatch.setattr(defaults, "hub_snapshot", lambda _: None)


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.fixture
def options(server, tmp_path, monkeypatch):
    """Back-end options, named without `endpoint_`; every server has a port of its own, so budgets do not meet."""
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def make(address: str = server.address, **changes: Any) -> BackendOptions:
        values = {"timeout": 5.0, "cache": str(tmp_path / "c.sqlite"), **changes}
        return BackendOptions(endpoint=address, **{f"endpoint_{name}": one for name, one in values.items()})

    return make


@pytest.fixture
def opened(options):
    def make(*, first_wait: float = 0.01, **changes: Any) -> EndpointGenerator:
        chosen = options(**changes)
        return EndpointGenerator(chosen, client=EndpointClient(chosen, first_wait=first_wait))

    return make


@pytest.fixture
def ask(opened):
    """What a new generator answers to prompts, or to the first so many of `PROMPTS`."""

    def call(prompts: int | list[Any] = 1, sampling=FEW, *, done=(), on_batch=None, **changes: Any) -> Any:
        prompts = PROMPTS[:prompts] if isinstance(prompts, int) else prompts
        return opened(**changes).generate(prompts, sampling, done=done, on_batch=on_batch)

    return call
