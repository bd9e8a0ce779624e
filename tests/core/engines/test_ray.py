"""Ray Data for real; without the extra `ray` these are skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from coalign.core.engines.batches import TRIES, Failed
from coalign.core.engines.options import EngineOptions
from coalign.core.errors import CoalignError, ConfigError
from tests.core.engines import works

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'coalign[ray]'"
)
OPTIONS = EngineOptions(engine="ray", workers=1)
BATCHES = [list(range(start, start + 3)) for start in range(0, 15, 3)]


def over_ray(make, said: list[str] | None = None, options: EngineOptions = OPTIONS, batches=BATCHES) -> list:
    from coalign.core.engines.ray_data import over_ray

    return list(over_ray(batches, make, options, ([] if said is None else said).append))


def test_results_come_in_order(tmp_path: Path) -> None:
    said: list[str] = []
    many = EngineOptions(engine="ray", workers=1000)
    made = over_ray(works.doubler, said, many)
    assert made == [[2 * one for one in batch] for batch in BATCHES]
    assert "1000 workers were asked for" in said[0]
    assert "one stays free" in said[0]


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    made = over_ray(works.DiesAt(7, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert made == [[2 * one for one in batch] for batch in BATCHES]


def test_a_row_at_which_workers_always_die_comes_back_as_failed(tmp_path: Path) -> None:
    made = over_ray(works.DiesAt(7, tmp_path, times=99))
    assert len(list(tmp_path.iterdir())) == 2 * TRIES
    expected = [[2 * one for one in batch] for batch in BATCHES]
    expected[2][1] = Failed("the worker died 2 times at this row")
    assert made == expected


def test_workers_that_die_while_they_begin_end_the_work(tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="Workers die while they begin"):
        over_ray(works.DiesWhileItBegins())


def test_errors_come_back_as_rows() -> None:
    made = over_ray(works.picky)
    assert made[0] == [Failed("ZeroDivisionError: division by zero"), 10.0, 5.0]
    assert [isinstance(one, Failed) for batch in made for one in batch] == [n % 5 == 0 for n in range(15)]


def test_what_keeps_a_worker_from_beginning_is_said_once() -> None:
    with pytest.raises(ConfigError, match="'nowhere' is not there"):
        over_ray(works.broken)
