"""What runs in the sandbox: a program, then its tests; one line of JSON says what came of them.

Its text is run by itself (`python main.py`), so it uses the standard library alone. What program and tests print is dropped.
"""

from __future__ import annotations

import json
import os
import warnings
from types import CodeType
from typing import Any, NoReturn


def main() -> None:
    """Run `program.txt` and `tests.txt` in one name space."""
    told = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nothing, number)
    warnings.simplefilter("ignore")
    space: dict[str, Any] = {"__name__": "solution"}
    try:
        program = _compiled("program.txt", told, "unparsable")
        tests = _compiled("tests.txt", told, "broken")
        exec(program, space)
        exec(tests, space)
    except MemoryError as error:
        _end(told, "memory", error)
    except BaseException as error:
        _end(told, "failed", error)
    _end(told, "passed")


def _compiled(name: str, told: int, otherwise: str) -> CodeType:
    with open(name, encoding="utf-8", errors="surrogatepass") as file:
        text = file.read()
    try:
        return compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        _end(told, otherwise, error)


def _end(told: int, ending: str, error: BaseException | None = None) -> NoReturn:
    """Say it and leave at once, whatever threads or exit functions are left."""
    detail = "" if error is None else f"{type(error).__name__}: {error}"[:200]
    os.write(told, json.dumps([ending, detail]).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
