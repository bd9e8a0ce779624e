"""Verifiers that a model writes: several programs and test cases for one rule, checked against each other.

The cross-validation of AutoIF (arXiv 2406.13542) as VIF-RAG has it (arXiv 2410.09584). No written program runs in this process: it is
given to an `Execute`, which is a sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coalign.core.files import parse_json

_BLOCK = re.compile(r"```json(.*?)```", re.DOTALL)
_FORBIDDEN = ("download", "requests")
"""Source lines with one of these are left out."""

Case = tuple[str, bool]
"""A reply and whether it follows the rule."""


class Execute(Protocol):
    """Runs written verifiers: Python sources that define `evaluate(response) -> bool`."""

    def __call__(self, sources: Sequence[str], replies: Sequence[str]) -> list[list[bool | None] | None]:
        """`[sources][replies]` what `evaluate` says; None where it says nothing (it raised, took too long, gave something
        else than true or false), and None in place of a row where the source itself does not run.
        """
        ...


@dataclass(frozen=True)
class Written:
    """What a reply holds: a program and the cases for it."""

    source: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class CrossChecked:
    """What is left of the programs and cases for a rule.

    Attributes:
        functions: (source, share of the kept cases that it gets right) of those that are kept.
        cases: with which at least one program agrees.
        accuracies: of all programs that were tried.
        alone: cases with which exactly one program agrees.
        reason: why nothing is kept; empty where something is.
    """

    functions: tuple[tuple[str, float], ...] = ()
    cases: tuple[Case, ...] = ()
    accuracies: Mapping[str, float] = field(default_factory=dict)
    alone: int = 0
    reason: str = ""


def verifier_request(rule: str) -> str:
    """What the supervisor is asked for a verifier."""
    example = {
        "func": "def evaluate(response):\n    return response.endswith('!')",
        "cases": [{"input": "Yes!", "output": True}, {"input": "Yes.", "output": False}],
    }
    return (
        f"An answer to any question has to follow this rule:\n{rule}\n"
        "Write a Python function `evaluate(response)` that takes the answer as a string and gives True where it follows the "
        "rule, else False. Use the standard library alone. Write three test cases, too: an answer, and what the function "
        "should give. Reply with one JSON object in a fenced block, in this form:\n"
        f"```json\n{json.dumps(example)}\n```"
    )


def parse_written(reply: str) -> Written | None:
    """The first block fenced as JSON; None without one, or where it has no program.

    Lines of the source that mention downloads are left out. A source whose line breaks are escaped twice is unescaped once.
    Outputs that are the texts `true` and `false` are what they say; cases of another form are left out.
    """
    found = _BLOCK.search(reply)
    try:
        value = parse_json(found[1].strip()) if found else None
    except ValueError:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("func"), str):
        return None
    source = value["func"].strip()
    if "\n" not in source:
        source = source.replace("\\n", "\n")
    source = "\n".join(line for line in source.split("\n") if not any(one in line for one in _FORBIDDEN))
    cases = value.get("cases")
    read = map(_case, cases if isinstance(cases, list) else [])
    return Written(source, tuple(one for one in read if one is not None))


def cross_validate(
    replies: Sequence[str],
    execute: Execute,
    *,
    min_functions: int = 3,
    min_cases: int = 10,
    min_accuracy: float = 0.8,
) -> CrossChecked:
    """Programs and cases out of several replies for one rule that bear each other out.

    Distinct programs that run and distinct cases are pooled; too few of either, and nothing is kept. A case is kept when
    at least one program gives its output, so that a program that always says the same keeps its own wrong cases: the
    accuracy over all kept cases has to reject it, and `alone` counts the cases with a single supporter. A program is
    kept when it gets at least `min_accuracy` of the kept cases right; saying nothing is wrong.
    """
    written = [one for one in map(parse_written, replies) if one is not None]
    sources = list(dict.fromkeys(one.source for one in written))
    cases = list(dict.fromkeys(case for one in written for case in one.cases))
    # Cases of a program that does not run are left out with it, as in the notebook.
    ran = execute(sources, [text for text, _ in cases])
    working = {source for source, row in zip(sources, ran, strict=True) if row is not None}
    kept_cases = {case for one in written if one.source in working for case in one.cases}
    if len(working) < min_functions:
        return CrossChecked(reason=f"fewer than {min_functions} programs that run")
    if len(kept_cases) < min_cases:
        return CrossChecked(reason=f"fewer than {min_cases} cases")
    rows = {source: row for source, row in zip(sources, ran, strict=True) if row is not None}
    support = {
        case: sum(row[place] == case[1] for row in rows.values())
        for place, case in enumerate(cases)
        if case in kept_cases
    }
    places = [place for place, case in enumerate(cases) if support.get(case)]
    accuracies = {
        source: sum(row[place] == cases[place][1] for place in places) / len(places) if places else 0.0
        for source, row in rows.items()
    }
    functions = tuple((source, value) for source, value in accuracies.items() if value >= min_accuracy)
    return CrossChecked(
        functions=functions,
        cases=tuple(cases[place] for place in places),
        accuracies=accuracies,
        alone=sum(count == 1 for count in support.values()),
        reason="" if functions else f"no program is right in {min_accuracy:.0%} of the cases",
    )


def agreement(verdicts: Sequence[bool | None]) -> float:
    """The share of verifiers that say yes among those that say anything; 0 where none does."""
    said = [one for one in verdicts if one is not None]
    return sum(said) / len(said) if said else 0.0


def _case(value: Any) -> Case | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("input"), str):
        return None
    output = value.get("output")
    if isinstance(output, str):
        output = {"true": True, "false": False}.get(output.strip().lower())
    return (value["input"], output) if isinstance(output, bool) else None
