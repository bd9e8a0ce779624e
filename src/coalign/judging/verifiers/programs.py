"""Programs and their tests: tasks in the forms of HumanEval and MBPP, and what comes of running them in the sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.core.processes.sandbox import Guard, run_python
from coalign.core.progress import progress
from coalign.data.rows import iter_rows
from coalign.judging.verifiers.registry import ConstraintError
from coalign.measures.texts.source_code import completed_head, defines, extract_code, first_body, parse_python

Ending = Literal["passed", "failed", "unparsable", "timeout", "memory", "killed", "broken"]
"""What came of a program: its tests pass; they, or it, raise an error or end early; it is no Python; it took too long or too
much memory; a signal ended it; the tests are no Python."""
NOT_SCORABLE = frozenset({"unparsable", "timeout", "memory", "killed", "broken"})
FORMS = "`prompt` and `test` with `entry_point` (HumanEval), `test_list` (MBPP), or `tests`"


@dataclass(frozen=True, kw_only=True)
class CodeTask:
    """A program that is asked for, and its tests.

    Attributes:
        prompt: what is asked: in words, or code to go on with.
        tests: statements that raise an error for a wrong program.
        entry_point: what the program must define, where it is known.
        solution: a program that is right, or how `prompt` goes on, where it is known.
    """

    id: str
    prompt: str
    tests: str
    entry_point: str | None = None
    solution: str | None = None

    @property
    def is_code(self) -> bool:
        """Whether the prompt is code to go on with: it has the head of the function."""
        return self.entry_point is not None and completed_head(self.prompt, self.entry_point) is not None


@dataclass(frozen=True)
class ProgramResult:
    """What came of a program.

    Attributes:
        detail: the error, in one line.
    """

    ending: Ending
    detail: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool | None:
        """None: not scorable."""
        return None if self.ending in NOT_SCORABLE else self.ending == "passed"


def tests_of(row: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """(tests, entry point) of a record in one of `FORMS`; None where it has no tests.

    Raises:
        ConstraintError: they cannot be used.
    """
    entry = row.get("entry_point") or None
    if entry is not None and not (isinstance(entry, str) and entry.isidentifier()):
        raise ConstraintError(
            "entry_point", f"{entry!r} is no name", "the name of the function that is tested"
        )
    name = next((one for one in ("test", "tests", "test_list") if row.get(one)), None)
    if name is None:
        return None
    value = row[name]
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(one, str) for one in lines):
        raise ConstraintError(name, f"{type(value).__name__} {value!r:.40}", "code, or a list of statements")
    code = "\n".join([*filter(None, [row.get("test_setup_code")]), *lines])
    if parse_python(code) is None:
        raise ConstraintError(
            name, "the tests are no Python", "statements that raise an error for a wrong program"
        )
    if entry and defines(code, "check"):
        code += f"\n\ncheck({entry})\n"
    return code, entry


def read_code_tasks(source: str | Path, limit: int | None = None) -> list[CodeTask]:
    """Tasks of a file or hub id in one of `FORMS`; `canonical_solution` (HumanEval), `code` (MBPP) or `solution` is theirs.

    Raises:
        DataError: rows that cannot be used; every one is listed.
    """
    tasks: list[CodeTask] = []
    problems: list[RecordProblem] = []
    seen: set[str] = set()
    for row in iter_rows(source):
        if limit is not None and len(tasks) >= limit:
            break
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        try:
            task = _task(row.value, str(row.index))
            if task.id in seen:
                raise ConstraintError("task_id", f"{task.id!r} appears twice", "an id of its own")
            seen.add(task.id)
            tasks.append(task)
        except ConstraintError as error:
            problems.append(
                RecordProblem(str(source), row.line, error.field, error.problem, error.expected, row.index)
            )
    if problems:
        raise DataError(
            f"{len(problems)} of {len(tasks) + len(problems)} code tasks cannot be used.", problems
        )
    if not tasks:
        raise DataError(f"{source} holds no code task.", hint=f"Needed: {FORMS}.")
    return tasks


def _task(row: Mapping[str, Any], place: str) -> CodeTask:
    prompt = next((row[one] for one in ("prompt", "instruction", "question", "text") if row.get(one)), None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConstraintError("prompt", "is missing or no text", "what the program must do")
    found = tests_of(row)
    if found is None:
        raise ConstraintError("tests", "are missing", FORMS)
    solution = next((row[one] for one in ("canonical_solution", "solution", "code") if row.get(one)), None)
    name = next((row[one] for one in ("task_id", "id") if row.get(one) is not None), place)
    return CodeTask(id=str(name), prompt=prompt, tests=found[0], entry_point=found[1], solution=solution)


def program_of(prompt: str, response: str, entry_point: str | None = None) -> str:
    """The program that a response comes to: its code, after the prompt's where that has the head of the function; a
    response that goes on in the body counts up to the next line at the margin.
    """
    code = extract_code(response, entry_point)
    head = completed_head(prompt, entry_point) if entry_point else None
    if entry_point is None or head is None:
        return code
    if code.lstrip().startswith(("def ", "async def ", "class ", "import ", "from ", "@")) or defines(
        code, entry_point
    ):
        return f"{head}\n\n{code}"
    if code.strip() and not code.lstrip("\n")[0].isspace():  # a body that lost its indentation
        lines = [f"    {line}" if line.strip() else line for line in code.strip("\n").split("\n")]
        indented = "\n".join([prompt.rstrip("\n"), *lines])
        if parse_python(indented) is not None:
            return indented
    return prompt + first_body(code)


def run_tests(
    program: str, tests: str, *, seconds: float = 10.0, memory_mb: int = 512, guard: Guard | None = None
) -> ProgramResult:
    """Run a program and then its tests, in one name space, in the sandbox.

    Raises:
        SandboxError: see `coalign.core.processes.sandbox.run_command`.
    """
    outcome = run_python(
        _harness(),
        files={"program.txt": program, "tests.txt": tests},
        seconds=seconds,
        memory_mb=memory_mb,
        guard=guard,
    )
    if outcome.status in ("timeout", "memory", "killed"):
        return ProgramResult(
            outcome.status, outcome.stderr.strip().rpartition("\n")[2][:200], outcome.seconds
        )
    try:
        ending, detail = json.loads(outcome.stdout)
    except ValueError:
        ending, detail = "failed", "it ended before its tests did"
    return ProgramResult(ending, detail, outcome.seconds)


def run_all(
    programs: Sequence[tuple[str, str]],
    test: Callable[[str, str], ProgramResult],
    *,
    keep: Callable[[int, ProgramResult], None] | None = None,
    workers: int | None = None,
    label: str = "Running tests",
) -> list[ProgramResult]:
    """Run many (program, tests), several at a time.

    Args:
        test: `run_tests` with its limits.
        keep: gets each result with its place as soon as it is there, in this thread.
        workers: at a time; by default as many as there are cores.
    """
    from coalign.core.machine.doctor import machine

    results: list[ProgramResult] = []
    with (
        ThreadPoolExecutor(workers or machine()["usable_cores"]) as pool,
        progress(len(programs), label, unit="program") as bar,
    ):
        try:
            for place, one in enumerate(pool.map(lambda pair: test(*pair), programs)):
                results.append(one)
                if keep is not None:
                    keep(place, one)
                bar.advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


@functools.cache
def _harness() -> str:
    return resources.files("coalign.judging.verifiers").joinpath("harness.py").read_text(encoding="utf-8")
