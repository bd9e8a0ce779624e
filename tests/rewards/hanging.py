"""Verifiers that hang, fail and end their process, for tests of isolation; imported by name in the child process."""

from __future__ import annotations

import os
import threading
import time

from coalign.judging.verifiers.registry import verifier


@verifier("test_difficult", classification="response", describe="a test's")
def difficult(response: str) -> float:
    """Sleeps at `sleep`, raises at `raise`, ends its process at `exit`; else 1 in a main thread."""
    if response == "sleep":
        time.sleep(60)
    if response == "raise":
        raise RuntimeError("no")
    if response == "exit":
        os._exit(3)
    return float(threading.current_thread() is threading.main_thread())
