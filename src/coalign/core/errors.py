"""Errors that a user can act on. The command line prints them without a traceback and exits with `exit_code`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class CoalignError(Exception):
    """Base of every error whose cause is outside the code: input, configuration, environment.

    Args:
        message: what was found and what was needed, in one or two lines.
        hint: what to do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(CoalignError):
    """A configuration key or value that cannot be used."""

    exit_code = 2


class ModelError(CoalignError):
    """A model that cannot be found, downloaded, converted or loaded."""


class EndpointError(ModelError):
    """An endpoint that cannot be reached, refuses a request, or answers with something else than was asked for."""


class BudgetError(EndpointError):
    """The budget of requests or tokens is used up. What was done is kept."""


class MissingExtraError(CoalignError):
    """An optional dependency that is not installed; the message names the extra."""


class RunError(CoalignError):
    """A run folder that cannot be created, read or continued."""


@dataclass(frozen=True)
class RecordProblem:
    """One thing wrong with one record, rendered as `file:line: field: problem, expected`.

    `line` is 1-based; None where the source has no lines (a hub data set), then `index` (0-based) is shown.
    """

    source: str
    line: int | None
    field: str
    problem: str
    expected: str
    index: int | None = None

    def __str__(self) -> str:
        if self.line is not None:
            place = f"{self.source}:{self.line}"
        else:
            place = f"{self.source}[{self.index}]" if self.index is not None else self.source
        return f"{place}: {self.field}: {self.problem}, expected {self.expected}"


def rows_with(problems: Iterable[RecordProblem]) -> int:
    """The rows that problems belong to, of which one may have several."""
    return len({(one.source, one.line, one.index) for one in problems})


class DataError(CoalignError):
    """Records that cannot be used. Shows the first problems and how many more there are."""

    shown = 10

    def __init__(self, message: str, problems: Sequence[RecordProblem] = (), hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(str(problem) for problem in self.problems[: self.shown])]
        more = len(self.problems) - self.shown
        if more > 0:
            lines.append(f"... and {more} more")
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class PromptError(DataError):
    """A prompt that a generator cannot use; whoever knows its record tells it as a problem of that.

    Attributes:
        index: its place among the prompts.
        field, problem, expected: as in `RecordProblem`.
        prompt: itself, where it is known: a decoding method may have asked with prompts of its own.
    """

    def __init__(
        self,
        index: int,
        field: str,
        problem: str,
        expected: str,
        *,
        hint: str | None = None,
        prompt: object = None,
    ) -> None:
        super().__init__(f"prompt {index}: {field}: {problem}, expected {expected}", hint=hint)
        self.prompt = prompt
        self.index, self.field, self.problem, self.expected = index, field, problem, expected


MOST = 300
"""Characters that are shown of the message of an error of someone else's code."""


def in_one_line(error: BaseException, *, named: bool = True, most: int = MOST) -> str:
    """What an error of someone else's code says, with its kind: white space made one line, and cut."""
    text = " ".join(str(error).split())
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f"{type(error).__name__}{': ' if text else ''}{text}" if named else text
