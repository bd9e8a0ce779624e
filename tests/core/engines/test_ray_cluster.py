"""Ray clusters of several machines, which are raylets of this one here; without the extra `ray` these are skipped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coalign.core.engines.options import EngineOptions
from coalign.core.errors import CoalignError
from tests.core.engines import works

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'coalign[ray]'"
    ),
]
BATCHES = [list(range(start, start + 3)) for start in range(0, 90, 3)]
DOUBLED = [[2 * one for one in batch] for batch in BATCHES]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three machines of two cores, the first of which is that of the command."""
    from coalign.core.engines.ray_data import open_ray

    open_ray()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.others = [made.add_node(num_cpus=2) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


def over_cluster(cluster: Any, make: Any, said: list[str]) -> Iterator[list]:
    from coalign.core.engines.ray_data import over_ray

    options = EngineOptions(engine="ray", ray_address=cluster.address)
    return over_ray(BATCHES, make, options, said.append)


def test_workers_of_several_machines_give_results_in_order(cluster: Any, tmp_path: Path) -> None:
    said: list[str] = []
    made = list(over_cluster(cluster, works.OnMachines(tmp_path, meet=3), said))
    assert [[one for one, _ in batch] for batch in made] == DOUBLED
    assert "5 workers of one core each" in said[-1]
    assert len({machine for batch in made for _, machine in batch}) == 3


def test_a_machine_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    made = []
    for batch in over_cluster(cluster, works.OnMachines(tmp_path, meet=3, seconds=0.5), []):
        made.append(batch)
        if len(made) == 3:
            cluster.remove_node(cluster.others[0], allow_graceful=False)
    assert [[one for one, _ in batch] for batch in made] == DOUBLED
    killed = cluster.others[0].node_id
    assert (tmp_path / killed).exists()


def test_what_is_missing_on_another_machine_is_said_with_its_name(cluster: Any) -> None:
    with pytest.raises(CoalignError, match=r"'nowhere' is not there"):
        list(over_cluster(cluster, works.broken, []))


def test_scores_of_a_cluster_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    from tests.cli.test_corpus import answer
    from tests.preference.tiny_runs import write

    write(tmp_path / "answers.jsonl", [answer(number) for number in range(600)])
    command = [sys.executable, "-m", "coalign", "score", "amg", "answers.jsonl"]
    here = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    subprocess.run([*command, "--out", "one.parquet"], **here)
    spread = ["--engine", "ray", "--ray-address", cluster.address, "--worker-rows", "20"]
    found = subprocess.run([*command, *spread, "--out", "many.parquet"], **here)
    assert "5 workers of one core each" in found.stderr
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_machines_need_no_folder_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second machine has another disk in place of the folder in which batches wait."""
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode
    ):
        pytest.skip("needs Linux and the right to mount")
    from coalign.core.engines.ray_data import open_ray

    ray = open_ray()
    from ray.cluster_utils import Cluster

    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("COALIGN_CACHE", str(cache))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    joins = (
        f"exec {sys.executable} -m ray.scripts.scripts start --block --num-cpus 3 --address {cluster.address}"
    )
    other = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs tmpfs {cache} && {joins}"], stdout=subprocess.DEVNULL
    )
    try:
        ray.init(cluster.address, log_to_driver=False)
        limit = time.monotonic() + 120
        while ray.cluster_resources().get("CPU", 0) < 3:
            assert time.monotonic() < limit
            time.sleep(0.5)
        made = list(over_cluster(cluster, works.LooksInto(cache), []))
    finally:
        ray.shutdown()
        other.terminate()
        other.wait()
        cluster.shutdown()
    assert list(cache.rglob("*"))
    assert made == [[(2 * one, []) for one in batch] for batch in BATCHES]
