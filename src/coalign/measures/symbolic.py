"""Whether two mathematical expressions are equal, asked of `math-verify` in a process of its own with a time limit.

Simplifying may take any time, and within threads the library scores everything as wrong; so it works in the main
thread of a child process that is ended when it takes too long. What cannot be read or takes too long is None: not
scorable. So is everything where the extra `math` is not installed, which `is_available` says.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
from functools import cache, lru_cache
from typing import Any

from coalign.core.extras import is_installed

SECONDS = 5.0
"""Time for one comparison."""
_STARTING = 60.0


class Worker:
    """A child process that compares pairs of expressions, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coalign.measures.symbolic"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self.process.kill)
        self.ready = self.read(_STARTING) == "ready"

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put("")

    def read(self, seconds: float) -> str:
        """The next line; empty when the process ends or takes longer."""
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            return ""

    def ask(self, one: str, other: str) -> bool | None:
        """Compare; a process that does not answer in time is ended, and `ready` is False then."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps([one, other]) + "\n")
            self.process.stdin.flush()
            answer = self.read(SECONDS)
        except OSError:
            answer = ""
        if not answer:
            self.end()
        return json.loads(answer or "null")

    def end(self) -> None:
        self.ready = False
        self.process.kill()
        self.process.wait()


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
            workers[:] = [Worker()]
        return workers[0].ask(one, other) if workers[0].ready else None


def _work() -> None:
    """Answer requests, a line each, until the input ends."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> Any:
        return parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=0)

    print("ready", flush=True)
    for line in sys.stdin:
        try:
            one, other = map(read, json.loads(line))
            # a text that is no expression comes back as text alone
            known = all(found and not isinstance(found[0], str) for found in (one, other))
            answer = verify(one, other, timeout_seconds=0) if known else None
        except Exception:
            answer = None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _work()
