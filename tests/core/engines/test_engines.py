"""What rows go through under any engine; the pool is this process here, and Ray Data in `test_ray`."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.engines import ray_data, spread
from coalign.core.engines.batches import TRIES, BatchWorker, Failed, Waiting, guarded, pool_size, results_of
from coalign.core.engines.options import EngineOptions
from coalign.core.engines.row_file import RowFile, begin
from coalign.core.engines.spool import Spool
from coalign.core.errors import CoalignError, ConfigError, MissingExtraError
from coalign.core.files import append_rows, read_rows
from coalign.core.options import build
from tests.core.engines import works
from tests.core.engines.pool import over_this_process


@given(st.lists(st.integers(0, 50), max_size=40))
def test_each_item_has_its_result_or_its_error(numbers: list[int]) -> None:
    made = guarded(works.picky(), numbers)
    assert made == [
        Failed("ZeroDivisionError: division by zero") if one % 5 == 0 else 10 / (one % 5) for one in numbers
    ]


def test_results_that_do_not_belong_to_items_are_refused() -> None:
    with pytest.raises(ValueError, match="1 results for 3 items"):
        guarded(lambda items: [0], [1, 2, 3])


@pytest.mark.parametrize(
    ("asked", "cores", "workers", "said"),
    [
        (None, 8, 7, None),
        (None, 2, 1, None),
        (None, 1, 1, None),
        (3, 8, 3, None),
        (8, 8, 7, "8 workers were asked for and there are 8 cores: 7, so that one stays free."),
        (2, 1, 1, "2 workers were asked for and there are 1 core: 1, so that one stays free."),
    ],
)
def test_a_pool_leaves_a_core_free(asked: int | None, cores: int, workers: int, said: str | None) -> None:
    assert pool_size(asked, cores) == (workers, said)


@given(st.lists(st.lists(st.text(), max_size=4), max_size=8))
def test_batches_come_back_by_their_numbers(batches: list[list[str]]) -> None:
    spool = Spool(iter(batches))
    copy = pickle.loads(pickle.dumps(spool))  # as a worker gets it
    assert [copy[number] for number in range(len(spool))] == batches
    spool.remove()
    assert not spool.folder.exists()


LEAVES = """
import os
from coalign.core.engines.spool import Spool
spool = Spool([[1]])
print(spool.folder, flush=True)
os._exit(1)
"""


def test_what_a_killed_command_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path))
    living = Spool([[1]])
    killed = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    Spool([[2]]).remove()
    assert not left.exists()
    assert living[0] == [1]


def test_an_item_that_cannot_be_sent_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match="cannot be sent to a worker"):
        Spool([[lambda: 0]], tmp_path / "spool")
    assert not (tmp_path / "spool").exists()


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CoalignError("No space left on the disk")

    monkeypatch.setattr("coalign.core.engines.spool.write_all", full)
    with pytest.raises(CoalignError, match="No space left"):
        Spool([[1]], tmp_path / "spool")
    assert not (tmp_path / "spool").exists()


def test_a_worker_that_cannot_begin_gives_the_error_itself() -> None:
    with pytest.raises(ConfigError, match="'nowhere' is not there") as found:
        list(over_this_process([[1]], works.broken))
    assert found.value.hint == "Name another."


def test_a_row_at_which_workers_died_fails_alone() -> None:
    waiting = Waiting([[0, 1, 2, 3]])
    deaths = 0

    def work(numbers: Sequence[int]) -> list[int]:
        if 2 in numbers:
            raise KeyboardInterrupt  # nothing of the worker goes on, as after a kill
        return [2 * one for one in numbers]

    while True:
        try:
            made = results_of(BatchWorker(lambda: work, waiting)(0))
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths == 2 * TRIES
    assert made == [0, 2, Failed("the worker died 2 times at this row"), 6]
    assert waiting.died(0) == {}


def test_workers_that_died_while_they_began_are_counted() -> None:
    waiting = Waiting([[1]])

    def dies() -> Any:
        raise KeyboardInterrupt

    for _ in range(TRIES + 1):
        with pytest.raises(KeyboardInterrupt):
            BatchWorker(dies, waiting)
    with pytest.raises(CoalignError, match="Workers die while they begin"):
        results_of(BatchWorker(works.doubler, waiting)(0))
    assert results_of(BatchWorker(works.doubler, waiting, "another")(0)) == [2]


def test_many_workers_begin_at_the_same_time() -> None:
    waiting = Waiting([[number] for number in range(20)])

    def begin(left: int) -> list[BatchWorker]:
        found: list[BatchWorker] = []

        def make() -> Any:  # the next one begins before this one has
            found.extend(begin(left - 1) if left else [])
            return works.doubler()

        return [BatchWorker(make, waiting, f"worker {left}"), *found]

    workers = begin(19)
    assert [results_of(one(number)) for number, one in enumerate(workers)] == [
        [2 * number] for number in range(20)
    ]


# -- rows that are kept -----------------------------------------------------------------------------------------


def test_rows_come_in_any_order_and_are_read_in_theirs(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    rows = RowFile(tmp_path / "rows.jsonl", ids)
    rows.add({2: {"value": "ü"}, 0: {"value": 1}})
    assert rows.missing == 1
    assert 1 not in rows
    again = RowFile(tmp_path / "rows.jsonl", ids)
    again.add({1: {"value": 2}, 0: {"value": 5}})
    assert [one["value"] for one in again] == [1, 2, "ü"]
    assert again[-1] == {"index": 2, "id": "c", "value": "ü"}
    assert [one["id"] for one in again[1:]] == ["b", "c"]


def test_a_torn_line_an_error_and_rows_of_other_data_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"settings": {}}, {"index": 0, "id": "other"}, {"index": 1, "id": "b", "error": "E"}])
    append_rows(path, [{"index": 2, "id": "c", "value": 3}])
    with path.open("ab") as file:
        file.write(b'{"index": 0, "id": "a", "val')
    rows = RowFile(path, ["a", "b", "c"])
    assert [place in rows for place in range(3)] == [False, False, True]
    rows.add({0: {"value": 1}, 1: {"value": 2}})
    assert [one["value"] for one in rows] == [1, 2, 3]
    assert [one["value"] for one in RowFile(path, ["a", "b", "c"])] == [1, 2, 3]


def test_rows_of_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    begin(tmp_path / "rows.jsonl", {"model": "a", "seed": 1})
    begin(tmp_path / "rows.jsonl", {"model": "a", "seed": 1})
    with pytest.raises(ConfigError, match="seed: 1 there, 2 now"):
        begin(tmp_path / "rows.jsonl", {"model": "a", "seed": 2})


@pytest.mark.parametrize("kept", [[], [0, 1, 2, 3], [5], [3, 9]])
def test_only_batches_with_a_missing_row_are_worked_on(
    kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[list[int]] = []

    def over(batches: Iterable[Sequence[int]], *rest: Any) -> Iterator[list[Any]]:
        worked.extend(list(one) for one in batches)
        return over_this_process(worked, *rest)

    monkeypatch.setattr(ray_data, "over_ray", over)
    items = list(range(10))
    rows = RowFile(tmp_path / "rows.jsonl", [spread.item_id(place, one) for place, one in enumerate(items)])
    rows.add({place: {"value": 2 * place} for place in kept})
    options = EngineOptions(engine="ray", worker_rows=4)
    failed = spread.fill(
        rows, items, works.doubler, options, label="", names=list(map(str, items)), row=lambda one: {"value": one}
    )  # fmt: skip
    assert failed.count == 0
    assert [one["value"] for one in rows] == [2 * one for one in items]
    assert worked == [one for one in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]) if not {*one} <= {*kept}]


def test_errors_are_rows_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "over_ray", over_this_process)
    items = [1, 5, 2, 10]
    rows = RowFile(tmp_path / "rows.jsonl", [spread.item_id(place, one) for place, one in enumerate(items)])
    options = EngineOptions(engine="ray")
    failed = spread.fill(
        rows, items, works.picky, options, label="", names=["p", "q", "r", "s"], row=lambda one: {"value": one}
    )  # fmt: skip
    assert [one.get("value") for one in rows] == [10, None, 5, None]
    assert rows[1]["error"] == "ZeroDivisionError: division by zero"
    with pytest.raises(
        CoalignError, match=r"2 of 4 rows failed; they stand in here .* The first, q: ZeroDivision"
    ):
        failed.check(4, "here")
    assert len(read_rows(rows.path)) == 4


# -- what does not fit ------------------------------------------------------------------------------------------


def test_options_of_workers_need_the_engine() -> None:
    with pytest.raises(ConfigError, match="workers"):
        build(EngineOptions, {"workers": 2})


def test_an_old_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("ray")
    old.__version__ = "2.9.3"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", old)
    with pytest.raises(MissingExtraError, match=r"Ray 2\.9\.3 is too old, expected 2\.60 or later"):
        ray_data.open_ray()


@pytest.mark.parametrize(
    ("cores", "said"), [(None, "Ray cannot start: ConnectionError: nobody"), (1, "has 1 CPU, expected 2")]
)
def test_a_cluster_that_cannot_be_used_is_said(
    cores: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        if cores is None:
            raise ConnectionError("nobody there")

    cluster = types.SimpleNamespace(
        init=init,
        is_initialized=lambda: False,
        cluster_resources=lambda: {"CPU": cores},
        shutdown=lambda: None,
    )
    monkeypatch.setattr(ray_data, "open_ray", lambda: cluster)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(CoalignError, match=said):
        list(ray_data.over_ray([[1]], works.doubler, EngineOptions(engine="ray")))


def test_the_address_of_a_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "open_ray", lambda: types.SimpleNamespace(is_initialized=lambda: False))
    options = build(EngineOptions, {"engine": "ray", "ray_address": "ray://head:10001"})
    with pytest.raises(ConfigError, match="is that of a Ray client, expected host:port"):
        list(ray_data.over_ray([[1]], works.doubler, options))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="the extra 'ray'"):
        ray_data.open_ray()
