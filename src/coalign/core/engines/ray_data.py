"""Batches by Ray Data: a pool of actors on a local cluster, or on one that runs already, of one machine or of several.

Ray Data has the pool, its retries and the bounds on what waits; everything a row sees is `coalign.core.engines.batches`.
Batches go to workers through an actor that stays beside the command, so machines need no folder in common with it.
`max_errored_blocks` drops blocks without a word, so no error of a row ever reaches Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from coalign.core.engines.batches import BatchWorker, Failed, Waiting, Work, pool_size, results_of
from coalign.core.engines.options import EngineOptions
from coalign.core.engines.spool import Spool
from coalign.core.errors import CoalignError, ConfigError, MissingExtraError, in_one_line
from coalign.core.extras import require
from coalign.core.machine.cores import THREADS, usable_cores

Item = TypeVar("Item")
Made = TypeVar("Made")

FLOOR = (2, 60)
"""The oldest version of Ray that this was run with."""
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Nothing is told to Ray's authors, and its own log stays in its files."""

logger = logging.getLogger(__name__)


def over_ray(
    batches: Iterable[Sequence[Item]],
    make: Callable[[], Work[Item, Made]],
    options: EngineOptions,
    tell: Callable[[str], None] = logger.warning,
) -> Iterator[list[Made | Failed]]:
    """The results of every batch, in the order of the batches, as they come.

    Each worker calls `make` once. A worker that is killed is started anew and its batch is worked on again; a row at which
    workers die every time comes back as `Failed` (see `BatchWorker`). Memory is bounded: batches wait on disk, and Ray Data
    starts no more of them than its store has room for.

    Args:
        tell: gets sentences for the user: how many workers there are.

    Raises:
        MissingExtraError: without Ray, or with one that is too old.
        ConfigError: a cluster without a core to spare.
        CoalignError: what `make` raised, workers that die while they begin, a full disk, a cluster that does not start.
    """
    ray = open_ray()
    spool: Spool[list[Item]] = Spool(map(list, batches))
    try:
        if len(spool):
            with _cluster(ray, options, tell) as (workers, resources):
                yield from _results(ray, spool, make, workers, resources)
    finally:
        spool.remove()


def open_ray() -> Any:
    """Ray with its data library.

    Raises:
        MissingExtraError: it is not installed, or is older than `FLOOR`.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = require("ray", "ray")
    found = tuple(int(one) for one in ray.__version__.split(".")[:2])
    if found < FLOOR:
        raise MissingExtraError(
            f"Ray {ray.__version__} is too old, expected {FLOOR[0]}.{FLOOR[1]} or later.",
            hint="pip install --upgrade 'coalign[ray]'",
        )
    require("ray.data", "ray")
    return ray


@contextlib.contextmanager
def _cluster(
    ray: Any, options: EngineOptions, tell: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of workers and what each of them holds; a cluster that was started here ends with it."""
    running = ray.is_initialized()
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise ConfigError(
            f"The Ray cluster {address} is that of a Ray client, expected host:port of its head or auto.",
            hint="Make this machine one of the cluster, without cores if it is to have no workers: `ray start --address "
            "HOST:PORT --num-cpus 0`.",
        )
    elsewhere = running or address
    cores = usable_cores()
    workers, note = pool_size(options.workers, cores)
    if elsewhere:
        if not running:
            _begin(ray, address=address)
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < 2:
            raise ConfigError(
                f"The Ray cluster has {cores} CPU, expected 2 or more: with all of them taken Ray Data waits for ever."
            )
        workers, note = pool_size(options.workers, cores)
    else:
        # a core more than workers, as Ray counts them: on a machine with one core the pool would wait for ever
        _begin(ray, num_cpus=workers + 1, include_dashboard=False)
    try:
        resources: dict[str, Any] = {"num_cpus": 1}
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus:
            workers = min(options.workers or gpus, gpus, max(1, cores - 1))
            resources["num_gpus"] = 1
            note = (
                f"{options.workers} workers were asked for and {workers} of the {gpus} GPUs can have one."
                if options.workers and workers < options.workers
                else None
            )
        if note:
            tell(note)
        tell(f"Ray {ray.__version__}: {workers} worker{'s' if workers > 1 else ''} of one core each.")
        yield workers, resources
    finally:
        if not running:
            ray.shutdown()


def _begin(ray: Any, **settings: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # of many kinds: no such cluster, no room, a port that is taken
        raise CoalignError(
            f"Ray cannot start: {in_one_line(error)}",
            hint="--ray-address or RAY_ADDRESS names the cluster that is joined; without it one is started on this machine.",
        ) from error


class _Asked:
    """`Waiting` as workers of any machine ask it: a handle of the actor that it is."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        ray = require("ray", "ray")
        return lambda *given: ray.get(getattr(self._actor, name).remote(*given))


class _Numbers:
    """A `BatchWorker` as Ray Data calls it.

    Args:
        folder: in which the command works: where it is there, names of files mean what they mean to the command.
        machine: of the command.
    """

    def __init__(self, make: Callable[[], Work[Any, Any]], actor: Any, folder: str, machine: str) -> None:
        ray = require("ray", "ray")
        os.environ.setdefault(THREADS, "1")
        with contextlib.suppress(OSError):
            os.chdir(folder)
        here = ray.util.get_node_ip_address()
        place = "" if here == machine else f" (on the machine {here})"
        name = ray.get_runtime_context().get_actor_id()
        self._worker = BatchWorker(_placed(make, place), cast("Waiting[Any]", _Asked(actor)), name)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        number = int(rows["id"][0])
        return {"number": [number], "made": np.array([self._worker(number)], dtype=object)}


def _placed(make: Callable[[], Work[Any, Any]], place: str) -> Callable[[], Work[Any, Any]]:
    """`make`, whose errors that a user can cause say on which machine they arose."""

    def made() -> Work[Any, Any]:
        try:
            return make()
        except CoalignError as error:
            error.message += place
            raise

    return made


def _waiting(ray: Any, spool: Spool[Any]) -> Any:
    """The actor that hands out batches, on the machine of this process, without a core of its own."""
    strategies = require("ray.util.scheduling_strategies", "ray")
    here = strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Waiting).remote(spool)


def _results(
    ray: Any, spool: Spool[Any], make: Callable[[], Work[Any, Any]], workers: int, resources: dict[str, Any]
) -> Iterator[list[Any]]:
    data = ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = data.range(len(spool), override_num_blocks=len(spool)).map_batches(
        _Numbers,
        fn_constructor_args=(make, _waiting(ray, spool), os.getcwd(), ray.util.get_node_ip_address()),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=workers),
        **resources,
    )
    expected = 0
    try:
        for block in rows.iter_batches(batch_size=None, prefetch_batches=0):
            for number, made in zip(block["number"], block["made"], strict=True):
                if int(number) != expected:
                    raise CoalignError(f"Ray gave batch {number} in place of {expected}.")
                yield results_of(made)
                expected += 1
    except ray.exceptions.RayError as error:
        raise CoalignError(
            f"Ray ended at batch {expected + 1} of {len(spool)}: {in_one_line(error)}",
            hint="The same command goes on with the rows that are missing.",
        ) from error
