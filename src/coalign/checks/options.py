"""What a check may be asked for. A check keeps its configuration in its run folder like every run."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.options import Count, option

DEFAULT_SEEDS = 5
"""Seeds for which the rules are written."""


@dataclass(kw_only=True)
class CheckOptions:
    """Options of `coalign reproduce`."""

    __group__ = "Check"

    seeds: Count = option(DEFAULT_SEEDS, "how many seeds, counted from 0")
    data: str | None = option(None, "records in place of the check's own")
