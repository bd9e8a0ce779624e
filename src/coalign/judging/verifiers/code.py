"""The verifier of programs: a response is code, and its tests say whether it is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coalign.core.options import Count, Positive
from coalign.core.processes.sandbox import Choice, choose
from coalign.judging.verifiers.programs import program_of, run_tests, tests_of
from coalign.judging.verifiers.registry import NotScorableError, Text, verifier


def _runnable(args: Mapping[str, Any]) -> None:
    """Refuse tests that are no Python, and code where nothing holds it: before anything is generated."""
    tests_of({"tests": args["tests"], "entry_point": args["entry_point"]})
    choose(args["sandbox"])


@verifier(
    "passes_tests",
    classification="prompt",
    describe="a Python program that passes its tests",
    check=_runnable,
)
def passes_tests(
    prompt: str,
    response: str,
    *,
    tests: Text,
    entry_point: str | None = None,
    seconds: Positive = 5.0,
    memory_mb: Count = 512,
    sandbox: Choice = "auto",
    strict: bool = False,
) -> float:
    """The response's Python code passes the tests, which run in the sandbox.

    Code in a fenced block counts, else the whole response. With `entry_point` a prompt that has the head of this function is
    gone on with, and a test function `check` is called with it. `strict`: code that is no Python, takes too long or too much
    memory counts 0, as in published scores.

    Raises:
        NotScorableError: such code, without `strict`.
        SandboxError: no sandbox can be had, or it cannot be set up.
    """
    code, entry = tests_of({"tests": tests, "entry_point": entry_point}) or (tests, entry_point)
    program = program_of(prompt, response, entry)
    tested = run_tests(program, code, seconds=seconds, memory_mb=memory_mb, guard=choose(sandbox))
    if tested.passed is None and not strict:
        raise NotScorableError(f"The program cannot be scored: {tested.ending} ({tested.detail}).")
    return float(tested.passed or False)
