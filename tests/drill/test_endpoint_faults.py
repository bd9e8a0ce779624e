"""An endpoint with each kind of fault, and with all of them at once."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.drill import endpoint_faults
from tests.drill.endpoint_faults import FAULTS, drill
from tests.models.endpoint_server import Handler


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_there_are_kinds_enough() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("kind", FAULTS)
def test_nothing_is_lost_mixed_up_or_paid_twice(kind: str, tmp_path: Path) -> None:
    drill(kind, tmp_path)


def test_all_kinds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, lock = random.Random(3), threading.Lock()

    def any_of_them(handler: Handler, body: dict[str, Any]) -> bool:
        with lock:
            chosen = draw.choice([*FAULTS])
        return FAULTS[chosen](handler, body)

    monkeypatch.setitem(endpoint_faults.FAULTS, "any", any_of_them)
    drill("any", tmp_path, prompts=60, limit=2)


def test_the_drill_sees_what_is_paid_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answering_before_it_fails(handler: Handler, body: dict[str, Any]) -> bool:
        handler.server.answered.append((body["messages"][-1]["content"], body.get("seed"), body.get("n", 1)))
        handler.send(500, {})
        return True

    monkeypatch.setitem(endpoint_faults.FAULTS, "paid", answering_before_it_fails)
    with pytest.raises(AssertionError, match="paid twice"):
        drill("paid", tmp_path)
