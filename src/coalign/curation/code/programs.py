"""What programs a model writes: answers to code tasks, run against their tests in the sandbox, and pass@k.

A model's answers are rows (`coalign.loops.rows`), and what came of each response stands beside them as `endings`; both go on
after a kill.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.options import Count, NonNegative, option
from coalign.core.processes.sandbox import SandboxOptions, choose
from coalign.judging.verifiers.programs import (
    NOT_SCORABLE,
    CodeTask,
    ProgramResult,
    program_of,
    run_all,
    run_tests,
)
from coalign.loops.rows import Row, answer_rows, fill_rows
from coalign.measures.pass_at_k import PassAtK, mean_pass_at_k

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.types import Generator

ASKED = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{prompt}\n```"
"""How a model is asked to go on with code."""
CHUNK = 32
"""Tasks whose programs are run before their results are kept."""


@dataclass(kw_only=True)
class FunctionalOptions(SandboxOptions):
    """Which programs a model is asked for, and how often."""

    __group__ = "Functional tests"

    code_tasks: str | None = option(
        None, "code tasks with tests (HumanEval, MBPP): pass@k is measured on them, in the sandbox"
    )
    code_samples: Count = option(1, "programs for each task; one is written greedily", only_with="code_tasks")
    pass_at: list[Count] = option([1], "k of pass@k; at most as many as samples", only_with="code_tasks")
    code_temperature: NonNegative = option(
        0.2, "of several programs", source="HumanEval: 0.2 for pass@1", only_with="code_tasks"
    )
    code_tokens: Count = option(512, "most tokens of a program's response", only_with="code_tasks")
    ask_for: Literal["function", "continuation"] = option(
        "function",
        "a chat model is asked for the whole function; a base model goes on with its head",
        only_with="code_tasks",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_samples == 1:
            self.refuse(["code_temperature"], "with code_samples: 1, which is written greedily")
        if max(self.pass_at, default=1) > self.code_samples:
            raise ValueError(f"pass_at: {max(self.pass_at)} is more than code_samples ({self.code_samples})")


@dataclass(frozen=True)
class _Asked:
    id: str
    prompt: Messages


def as_asked(task: CodeTask, *, whole: bool = True) -> str:
    """A task in words: code to go on with is asked for as a whole function, or stands as it is."""
    return ASKED.format(prompt=task.prompt.rstrip()) if whole and task.is_code else task.prompt


def write_programs(
    folder: Path,
    tasks: Sequence[CodeTask],
    open_model: Callable[[], Generator],
    options: FunctionalOptions,
    *,
    seed: int,
) -> list[Row]:
    """Rows with `responses` and `endings`, one a task.

    Args:
        folder: holds `programs.jsonl` and `tested.jsonl`.
        open_model: called only where an answer is missing.

    Raises:
        SandboxError: no sandbox can be had.
    """
    from coalign.models.types import Sampling

    guard = choose(options.sandbox)
    whole = options.ask_for == "function"
    asked = [_Asked(one.id, [{"role": "user", "content": as_asked(one, whole=whole)}]) for one in tasks]
    sampling = Sampling(
        max_new_tokens=options.code_tokens,
        temperature=options.code_temperature if options.code_samples > 1 else 0.0,
        n=options.code_samples,
        seed=seed,
        stop=() if whole else ("\ndef ", "\nclass ", "\nif __name__", "\nprint("),
    )
    rows = answer_rows(
        folder / "programs.jsonl",
        asked,
        open_model,
        sampling,
        label="Writing programs",
        asked=None if whole else [one.prompt for one in tasks],
    )

    def work(done: list[int], keep: Callable[[Mapping[int, Row]], None]) -> None:
        left = [place for place in range(len(tasks)) if place not in {*done}]
        for start in range(0, len(left), CHUNK):
            part = left[start : start + CHUNK]
            results = iter(
                run_responses(
                    [(tasks[place], text) for place in part for text in rows[place]["responses"]], options
                )
            )
            keep(
                {
                    place: {"endings": [next(results).ending for _ in rows[place]["responses"]]}
                    for place in part
                }
            )

    found = fill_rows(folder / f"tested-{guard}.jsonl", [one.id for one in tasks], work)
    return [{**row, "endings": one["endings"]} for row, one in zip(rows, found, strict=True)]


def run_responses(asked: Sequence[tuple[CodeTask, str]], options: SandboxOptions) -> list[ProgramResult]:
    """What comes of (task, response), in the sandbox of the options."""
    guard = choose(options.sandbox)

    def test(program: str, tests: str) -> ProgramResult:
        return run_tests(
            program, tests, seconds=options.code_seconds, memory_mb=options.code_memory_mb, guard=guard
        )

    return run_all([(program_of(one.prompt, text, one.entry_point), one.tests) for one, text in asked], test)


def passed(ending: str) -> bool | None:
    """Whether a program passed; None: not scorable."""
    return None if ending in NOT_SCORABLE else ending == "passed"


@dataclass(frozen=True)
class Functional:
    """What a model's programs come to.

    Attributes:
        rates: pass@k for each k that was asked for.
        endings: how many programs ended how.
    """

    rates: list[PassAtK]
    endings: dict[str, int]

    @property
    def not_scorable(self) -> int:
        return sum(count for ending, count in self.endings.items() if ending in NOT_SCORABLE)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: what is not measured is null."""
        rates = {f"pass@{one.k}": None if math.isnan(one.value) else one.value for one in self.rates}
        strict = {
            f"pass@{one.k}, strict": None if math.isnan(one.strict) else one.strict for one in self.rates
        }
        return {**rates, **strict, "endings": self.endings, "not scorable": self.not_scorable}


def functional(rows: Sequence[Row], ks: Sequence[int]) -> Functional:
    """pass@k of rows with `endings`."""
    results = [[passed(one) for one in row["endings"]] for row in rows]
    endings = Counter(one for row in rows for one in row["endings"])
    return Functional([mean_pass_at_k(results, k) for k in ks], dict(endings.most_common()))


def sound_tasks(tasks: Sequence[CodeTask], options: SandboxOptions) -> tuple[list[CodeTask], dict[str, str]]:
    """(tasks to measure on, those left out by what came of their own solution): tests that a task's solution does not pass are
    broken.
    """
    known = [one for one in tasks if one.solution is not None]
    results = run_responses([(one, one.solution or "") for one in known], options)
    broken = {
        one.id: result.ending if not result.detail else f"{result.ending} ({result.detail})"
        for one, result in zip(known, results, strict=True)
        if not result.passed
    }
    return [one for one in tasks if one.id not in broken], broken
