"""Options of commands whose rows several processes can work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, OptionGroup, option


@dataclass(kw_only=True)
class EngineOptions(OptionGroup):
    """Where rows are worked on."""

    __group__ = "Engine"

    engine: Literal["local", "ray"] = option(
        "local", "local: this process; ray: a pool of workers by Ray Data (extra `ray`)"
    )
    workers: Count | None = option(
        None,
        "worker processes of --engine ray, each with a model of its own; by default a core each, one left free, or a GPU each",
        only_with={"engine": "ray"},
    )
    ray_address: str | None = option(
        None,
        "a Ray cluster that runs, host:port of its head or auto; by default RAY_ADDRESS, else one is started on this machine",
        only_with={"engine": "ray"},
    )
    worker_rows: Count = option(
        64,
        "rows that a worker takes at a time; what a worker that dies has to do again",
        only_with={"engine": "ray"},
    )
