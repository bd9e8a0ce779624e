"""A server under clients that leave: 200 requests for every run of the tests, 10,000 behind `-m slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.drill.soak import WAYS, Soaked, soak


def test_a_server_keeps_its_memory_and_its_answers(tmp_path: Path) -> None:
    found = soak(tmp_path, 200)
    assert not found.faults, found.told()
    assert found.asked.total() == 200
    assert {*found.asked} == {*WAYS}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_requests(tmp_path: Path) -> None:
    found = soak(tmp_path, 10_000)
    assert not found.faults, found.told()


def test_growth_is_told() -> None:
    found = Soaked(megabytes=(400.0, 440.0))
    assert found.growth == pytest.approx(0.1)
    assert "+10.0%" in found.told()
