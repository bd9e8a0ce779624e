"""Whether two mathematical expressions are equal, asked of `math-verify` in a process of its own with a time limit.

Simplifying may take any time, and within threads the library scores everything as wrong; so it works in the main
thread of a child process that is ended when it takes too long. What cannot be read or takes too long is None: not
scorable. So is everything where the extra `math` is not installed, which `is_available` says.
"""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import Any

from coalign.core.extras import is_installed
from coalign.core.processes.worker import Worker, answer_requests

SECONDS = 5.0
"""Time for one comparison."""


_lock = threading.Lock()
workers: list[Worker] = []
"""The process that is asked, once there is one."""


@cache
def is_available() -> bool:
    """Whether expressions can be compared here."""
    return is_installed("math_verify")


@lru_cache(maxsize=65_536)
def equal(one: str, other: str) -> bool | None:
    """Whether two expressions (LaTeX, without delimiters) have the same value; None where that cannot be said."""
    if not is_available():
        return None
    with _lock:
        if not workers or not workers[0].ready:
            workers[:] = [Worker("coalign.measures.symbolic")]
        return workers[0].ask([one, other], SECONDS) if workers[0].ready else None


def _work() -> None:
    """Answer requests, a line each, until the input ends."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> Any:
        return parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=0)

    def compare(pair: list[str]) -> bool | None:
        one, other = map(read, pair)
        # a text that is no expression comes back as text alone
        known = all(found and not isinstance(found[0], str) for found in (one, other))
        return verify(one, other, timeout_seconds=0) if known else None

    answer_requests(compare)


if __name__ == "__main__":
    _work()
