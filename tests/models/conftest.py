"""What several tests of models share: a tokenizer, norms in float64, and a machine without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizers import CHATML, byte_tokenizer
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
    from coalign.models.files import defaults, loading

    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    for module in (defaults, loading):
        monkeypatch.setattr(module, "hub_problem", lambda *_: "no network")
    monkeypatch.setattr(defaults, "hub_snapshot", lambda _: None)
