"""A child process that answers requests, a line of JSON each, and is ended when it takes too long.

For work that may never end or that has to run in a main thread: a thread cannot be stopped, a process can. The module that is
run prints `ready` and then one line for each line it reads (`answer_requests`).
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any

STARTING = 60.0
"""Seconds that a process may take to say that it is ready."""


class Worker:
    """A child process that runs `python -m MODULE`.

    It is ended with the object, and with this process.

    Args:
        arguments: of the command.

    Attributes:
        ready: it answers; False once it was ended.
    """

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(self.process.stdout, self._lines), daemon=True).start()
        weakref.finalize(
            self, _end, self.process
        )  # when nobody has it any more, and at the end of this process
        self.ready = self._read(STARTING) == "ready"

    def _read(self, seconds: float) -> str:
        """The next line; empty when the process ends or takes longer."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer to a request; None, and the process is ended, where it does not come in time."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self._read(seconds)
        except OSError:
            answer = ""
        if not answer:
            self.end()
        return json.loads(answer or "null")

    def end(self) -> None:
        """Kill the process."""
        self.ready = False
        _end(self.process)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def _listen(output: IO[str], lines: queue.Queue[str]) -> None:
    for line in output:
        lines.put(line.strip())
    lines.put("")


def answer_requests(answer: Callable[[Any], Any]) -> None:
    """What the child does: answer every line until the input ends. What `answer` raises is answered by null."""
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception:
            found = None
        print(json.dumps(found), flush=True)
