"""Runs verifiers that a model wrote, each in a sandbox of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from coalign.core.processes.sandbox import SandboxOptions
from coalign.curation.instructions.written import Execute

_PROGRAM = """
import json, os, signal, sys

given = json.load(sys.stdin)
out = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def late(*_):
    raise TimeoutError


def limited(call):
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, given["seconds"])
    try:
        return call()
    except BaseException:
        return None
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def say(line):
    out.write(line + "\\n")
    out.flush()


space = {"__name__": "verifier"}
ran = limited(lambda: exec(compile(given["source"], "verifier", "exec"), space) or True)
if ran:
    say("ran")
    for reply in given["replies"]:
        value = limited(lambda: space["evaluate"](reply))
        known = isinstance(value, (bool, int, float)) and value in (0, 1)
        say(str(int(value)) if known else "-")
"""
_VERDICTS = {"0": False, "1": True}


def sandboxed(options: SandboxOptions, seconds: float) -> Execute:
    """Runs verifiers, one process each, within the limits of `options`; what takes longer has no further verdicts.

    Args:
        seconds: that one call may take.

    Raises:
        SandboxError: when it is called, and nothing here holds code.
    """

    def one(source: str, replies: Sequence[str]) -> list[bool | None] | None:
        given = json.dumps({"source": source, "replies": list(replies), "seconds": seconds})
        lines = options.run_python(_PROGRAM, stdin=given).stdout.split("\n")
        if lines[0] != "ran":
            return None
        found = [_VERDICTS.get(line) for line in lines[1 : len(replies) + 1]]
        return [*found, *[None] * (len(replies) - len(found))]

    def execute(sources: Sequence[str], replies: Sequence[str]) -> list[list[bool | None] | None]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda source: one(source, replies), sources))

    return execute
