"""Verifiers in a process of their own, with a time limit: one that hangs or fails costs its response its value, and nothing else."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from coalign.core.errors import CoalignError
from coalign.core.processes.worker import Worker, answer_requests
from coalign.judging.verifiers.constraints import Constraint, verifiers

Check = tuple[Constraint, str, str]
"""A constraint, the prompt's text and the response."""
Verify = Callable[[Sequence[Check]], list[float]]
"""Values of responses; NaN for what cannot be scored."""
SECONDS = 10.0


def verify_here(checks: Sequence[Check]) -> list[float]:
    """The values, worked out in this thread without a limit; NaN where a verifier fails."""
    return [_value(*one) for one in checks]


class IsolatedVerifiers:
    """Works out values in a child process; a `Verify`.

    A verifier that takes longer than `seconds` is ended with its process, and its response has no value: NaN. So has one whose
    verifier fails. Verifiers that were registered in a module are imported there by its name; one that stands in a script or a
    notebook cannot be, and is worked out here, without a limit.

    Attributes:
        late, failed: how many took too long, and failed.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.late = self.failed = 0
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def __call__(self, checks: Sequence[Check]) -> list[float]:
        with self._lock:
            return [self._one(*check) for check in checks]

    def _one(self, constraint: Constraint, prompt: str, response: str) -> float:
        if "__main__" in _modules(constraint):
            return _value(constraint, prompt, response)
        if self._worker is None or not self._worker.ready:
            modules = sorted({one.function.__module__ for one in verifiers().values()} - {"__main__"})
            self._worker = Worker("coalign.judging.verifiers.isolation", modules)
            if not self._worker.ready:
                raise CoalignError("The process that works out verifiers did not start.")
        answer = self._worker.ask([constraint.to_json(), prompt, response], self.seconds)
        if answer is None:
            self.late += 1
            return math.nan
        self.failed += answer[0] is None
        return math.nan if answer[0] is None else answer[0]

    def close(self) -> None:
        """End the process."""
        if self._worker is not None and self._worker.ready:
            self._worker.end()


def _value(constraint: Constraint, prompt: str, response: str) -> float:
    try:
        return constraint.verify(prompt, response)
    except Exception:
        return math.nan


def _modules(constraint: Constraint) -> set[str]:
    own = {verifiers()[constraint.verifier].function.__module__}
    return own.union(*(_modules(one) for one in constraint.inner()))


def _answer(request: Any) -> list[float | None]:
    constraint, prompt, response = request
    value = _value(Constraint.from_json(constraint), prompt, response)
    return [None if math.isnan(value) else value]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    answer_requests(_answer)
