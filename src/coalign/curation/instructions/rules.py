"""Rules about the form of a reply: reading, asking for more, putting several together, scoring what was put together."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import constraints_of, has_constraints
from coalign.measures.texts.text_units import fold, is_blank

BUNDLED = "bundled"
UNWANTED = (
    "Answer in the manner of a famous author",
    "Use a metaphor in every sentence",
    "Translate the answer into another language",
    "Sound like an enthusiastic shopkeeper",
)
"""Rules of a kind that no program can check, as examples of what is not wanted."""
_MARK = re.compile(r"^\s*-\s+")
_SCORE = re.compile(r"Score: (\d+)$")
_HIGHEST = 10
LONGEST = 300
"""Characters of a rule; a longer line is no rule."""


@dataclass(frozen=True)
class Rule:
    """A rule, or several as one.

    Attributes:
        text: in words.
        constraints: what checks it, where a verifier of coalign does.
        verifiers: programs that check it, each with its accuracy, where they are written already; with neither a model
            has to write some.
        parts: the rules that were put together; none of a single one.
        chained: they are to be followed one after the other.
    """

    text: str
    constraints: tuple[Constraint, ...] = ()
    verifiers: tuple[tuple[str, float], ...] = ()
    parts: tuple[str, ...] = ()
    chained: bool = False


def read_rules(source: str) -> list[Rule]:
    """Rules of a text file, one a line, or of rows with `rule` (or `instruction`) and perhaps what checks it: `constraints`, or
    `verifiers` as an earlier run has left them in its `verifiers.jsonl`; `bundled`: those that come with coalign.

    Raises:
        DataError: no such file, a row without a rule or with constraints that cannot be used, no rule, or a rule that
            is there twice.
    """
    if source == BUNDLED:
        text = (resources.files("coalign.curation.instructions") / "assets" / "rules.txt").read_text(
            encoding="utf-8"
        )
        return [Rule(one) for one in text.splitlines()]
    if source.endswith((".txt", ".md")):
        rules = [Rule(one) for one in _lines(source)]
    else:
        problems: list[RecordProblem] = []
        rules = list(parse_each(iter_rows(source), source, _rule_of, problems))
        if problems:
            raise DataError(f"{source}: {len(problems)} rows are no rules.", problems)
    if not rules:
        raise DataError(f"{source}: no rule.", hint="One rule a line, such as: Answer in at most 50 words")
    seen: set[str] = set()
    for number, one in enumerate(rules, start=1):
        if fold(one.text) in seen:
            raise DataError(f"{source}:{number}: rule: {one.text!r} occurs twice, expected different rules")
        seen.add(fold(one.text))
    return rules


def request(seeds: Sequence[str], n: int) -> str:
    """What the supervisor is asked for new rules."""
    examples, unwanted = ("\n".join(f"- {one}" for one in rules) for rules in (seeds, UNWANTED))
    return (
        f"Write {n} different rules that an answer to any question could be asked to follow.\n"
        "- A rule is about the form of the answer, not about its style or its content.\n"
        "- A short Python function can tell whether an answer follows it.\n"
        f"Rules of the wanted kind:\n{examples}\n"
        f"Rules of a kind that is not wanted:\n{unwanted}\n"
        'Write one rule a line. Begin each line with "- " and write nothing else.'
    )


def parse_rules(reply: str) -> list[str]:
    """The lines of a reply that begin with a hyphen, without it, and without the full stop at the end."""
    lines = (_MARK.sub("", line).strip() for line in reply.splitlines() if _MARK.match(line))
    return [one.rstrip(".").rstrip() for one in lines if one.strip(". ")]


def compose(
    rules: Sequence[Rule], sizes: Sequence[int], n: int, draw: random.Random, *, chains: float = 0.0
) -> Iterator[Rule]:
    """At most `n` different composites of each size, of distinct rules drawn at random. One whose parts all have
    constraints has theirs.

    Args:
        sizes: how many rules each has; a size above the number of rules gives none.
        chains: share that is put together as a chain (first, then) rather than as sentences.
    """
    for size in sizes:
        if size > len(rules):
            continue
        seen: set[frozenset[str]] = set()
        for _ in range(20 * n):
            if len(seen) == n:
                break
            drawn = draw.sample(rules, size)
            parts, chained = tuple(one.text for one in drawn), draw.random() < chains
            if frozenset(parts) not in seen:
                seen.add(frozenset(parts))
                known = all(one.constraints for one in drawn)
                constraints = tuple(each for one in drawn for each in one.constraints) if known else ()
                text = chain(parts) if chained else joined(parts)
                yield Rule(text, constraints, parts=parts, chained=chained)


def joined(parts: Sequence[str]) -> str:
    """The rules as sentences one after the other, the last without its full stop."""
    return ". ".join(one.rstrip(". ") for one in parts)


def chain(parts: Sequence[str]) -> str:
    """The rules as steps: first, then, finally."""
    leads = ["First", *["then"] * (len(parts) - 2), "finally"] if len(parts) > 2 else ["First", "then"]
    return ", ".join(f"{lead}: {part.rstrip('. ')}" for lead, part in zip(leads, parts, strict=True))


def composition_request(rule: str) -> str:
    """What the supervisor is asked about rules that were put together."""
    return (
        f"Here are several rules for one answer:\n{rule}\n"
        "Can one answer follow all of them at once? Go through what they demand, and look for demands that contradict "
        "each other. Then rate from 0 (they cannot hold together) to 10 (they go well together). Write the rating alone "
        "on the last line, in this form:\nScore: 7"
    )


def consistency_request(rule: str, query: str, reply: str) -> str:
    """What the supervisor is asked about a reply."""
    return (
        f"[Rule]\n{rule}\n[Query]\n{query}\n[Reply]\n{reply}\n"
        "The reply had to follow the rule strictly, which may have made it less helpful. Does it answer the query? Look "
        "at it closely. Then rate from 0 (it has nothing to do with the query) to 10 (it answers the query well). Write "
        "the rating alone on the last line, in this form:\nScore: 7"
    )


def read_score(reply: str) -> int | None:
    """The number from 0 to 10 after `Score: ` at the very end; one line break may follow. None where it does not stand there."""
    found = _SCORE.search(reply)
    score = int(found[1]) if found and len(found[1]) <= 2 else None
    return score if score is not None and score <= _HIGHEST else None


def mean_score(replies: Sequence[str]) -> float | None:
    """The mean of the scores that can be read; None where none can."""
    scores = [one for one in map(read_score, replies) if one is not None]
    return sum(scores) / len(scores) if scores else None


def instructed(query: str, rule: str) -> str:
    """The query and after it the rule as a sentence: what is learned to be answered."""
    query, rule = (f"{one[:1].upper()}{one[1:]}" for one in (query.strip(), rule.strip()))
    between = " " if "?" in query or "." in query else ". "
    ending = "" if rule.endswith((".", "!", "?")) else "."
    return f"{query}{between}{rule}{ending}"


def _lines(source: str) -> list[str]:
    try:
        with open(source, encoding="utf-8") as file:
            lines = [_MARK.sub("", line).strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read as UTF-8 text ({error}).") from error
    return [one for one in lines if one]


def _rule_of(row: Row) -> Rule:
    value = row.value or {}
    text = value.get("rule", value.get("instruction"))
    if not isinstance(text, str) or is_blank(text):
        raise FieldError(f"is {text!r:.40}", "a text", "rule")
    try:
        constraints = constraints_of(value) if has_constraints(value) else ()
    except ConstraintError as error:
        raise FieldError(error.problem, error.expected, error.field) from error
    return Rule(text.strip(), constraints, () if constraints else _verifiers_of(value.get("verifiers")))


def _verifiers_of(value: Any) -> tuple[tuple[str, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(map(_is_verifier, value)):
        raise FieldError(f"is {value!r:.40}", "a list of programs, each [source, accuracy]", "verifiers")
    return tuple((source, float(accuracy)) for source, accuracy in value)


def _is_verifier(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )
