"""The process in which a function of the user answers calls: `python -m coalign.models.tools.function_process CODE MB`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from typing import Any

from coalign.core.own_code import load_code
from coalign.core.processes.worker import answer_requests
from coalign.models.tools.toolbox import as_text


def main(code: str, memory_mb: str) -> None:
    """Answer calls of `code` until the input ends; what it prints is nowhere, since answers are lines of the output."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = int(memory_mb) << 20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.redirect_stdout(sys.stderr):
        function = load_code(code, "tools")

    def answer(arguments: dict[str, Any]) -> dict[str, str]:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = function(**arguments)
                found = asyncio.run(found) if inspect.iscoroutine(found) else found
                return {"result": as_text(found)}
        except BaseException as error:  # SystemExit too: the function is anybody's code
            return {"error": f"{type(error).__name__}: {error}"}

    answer_requests(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
