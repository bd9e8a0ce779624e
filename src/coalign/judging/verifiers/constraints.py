"""Verifiers: pure, deterministic functions that say how well a response satisfies a constraint, in [0, 1].

A verifier is registered by name. Its keyword-only parameters are the arguments of the constraint; their type hints
are checked when a constraint is made, so a wrong constraint is found before any text is generated::

    @verifier("max_words", classification="response", describe="at most {n:word}")
    def max_words(response: str, *, n: Count) -> float:
        '''At most n words.'''
        return float(len(words(response)) <= n)

    constraint = Constraint("max_words", {"n": 20})
    constraint.verify(prompt, response)

The classification is what a verifier looks at (ACT, arXiv 2403.06326): `response` f(y), `prompt` f(x, y), `group`
f({x_i, y_i}), the responses to related prompts against each other. `composite` verifiers combine the values of
other constraints. A response without a visible character has the value 0 under every verifier.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import string
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coalign.core.files import parse_json
from coalign.data.messages import shorten
from coalign.judging.verifiers.registry import (
    ConstraintError,
    Inner,
    Inners,
    Turn,
    Verifier,
    expected,
    get_verifier,
    verifier,
    verifiers,
)
from coalign.measures.texts.text_units import is_blank

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "Constraint",
    "ConstraintError",
    "Turn",
    "Verifier",
    "aggregate_csr",
    "constraint_satisfaction",
    "cross_response_csr",
    "get_verifier",
    "parse_constraints",
    "verifier",
    "verifier_table",
    "verifiers",
    "verify",
]


@dataclass(frozen=True)
class Constraint:
    """A verifier and its arguments, checked when made: unknown names and values out of range raise ConstraintError.

    `args` then holds every argument, defaults included.
    """

    verifier: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _check_args(get_verifier(self.verifier), self.args))

    @classmethod
    def from_json(cls, value: Any) -> Constraint:
        """From `{"verifier": NAME, "args": {...}}` or the flat `{"verifier": NAME, ARG: ..., ...}`.

        An argument that is None counts as absent: columnar files (Parquet, Arrow) give every constraint of a column
        the fields of all of them.

        Raises:
            ConstraintError: another shape, an unknown verifier, a missing, unknown or unusable argument.
        """
        if isinstance(value, Constraint):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("verifier"), str):
            raise ConstraintError(
                "", f"is {_short(value)}", 'a mapping such as {"verifier": "max_words", "n": 20}'
            )
        rest = _present({key: one for key, one in value.items() if key != "verifier"})
        if "args" in rest:
            args = rest.pop("args")
            if rest:
                raise ConstraintError(
                    min(map(str, rest)), "stands beside args", "every argument inside args, or no args key"
                )
            if not isinstance(args, Mapping):
                raise ConstraintError("args", f"is {_short(args)}", "a mapping of argument names to values")
            rest = _present(args)
        return cls(value["verifier"], rest)

    def to_json(self) -> dict[str, Any]:
        """`{"verifier": NAME, "args": {...}}` of plain values; `from_json` reads it back."""
        return {"verifier": self.verifier, "args": _plain(self.args)}

    def describe(self) -> str:
        """The constraint in words: `at most 20 words`."""
        return _WORDING.vformat(get_verifier(self.verifier).describe, (), self.args)

    def verify(self, prompt: str, response: str, group: Sequence[tuple[str, str]] | None = None) -> float:
        """The value of a response under this constraint; see `verify`."""
        return 0.0 if is_blank(response) else _value(self, prompt, response, group)

    def inner(self) -> Iterator[Constraint]:
        """The constraints that this one combines (none unless it is a composite)."""
        for one in self.args.values():
            if isinstance(one, Constraint):
                yield one
            elif isinstance(one, list):
                yield from (item for item in one if isinstance(item, Constraint))

    @property
    def needs_group(self) -> bool:
        """Whether it, or a constraint that it combines, compares with other responses of the group."""
        own = get_verifier(self.verifier).classification == "group"
        return own or any(one.needs_group for one in self.inner())

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))


def parse_constraints(value: Any) -> tuple[Constraint, ...]:
    """The `constraints` column of a prompt: a list of constraints in either JSON form, or that list as JSON text.

    Raises:
        ConstraintError: a ValueError with `field` (`constraints[1].n`), `problem` and `expected`; an unknown name
            comes with the nearest known ones.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ConstraintError("constraints", f"is not JSON ({error})", "a list of constraints") from error
    if not isinstance(value, list | tuple) or not value:
        raise ConstraintError("constraints", f"is {_short(value)}", "a list of one or more constraints")
    return tuple(_located(f"constraints[{index}]", one) for index, one in enumerate(value))


def verify(
    name: str,
    prompt: str,
    response: str,
    args: Mapping[str, Any],
    group: Sequence[tuple[str, str]] | None = None,
) -> float:
    """How well a response satisfies a constraint, in [0, 1].

    Args:
        name: a registered verifier.
        prompt: text of the prompt.
        response: text of the response; one without a visible character has the value 0.
        args: arguments of the verifier; checked on each call (a `Constraint` checks them once).
        group: (prompt, response) of the other members of the prompt's group, this one left out; needed by `group`
            verifiers, whose value is the mean over them.

    Raises:
        ConstraintError: unknown verifier, or unusable arguments.
        ValueError: a group verifier without another member to compare with.
    """
    return Constraint(name, args).verify(prompt, response, group)


def constraint_satisfaction(
    prompt: str,
    response: str,
    constraints: Sequence[Constraint],
    group: Sequence[tuple[str, str]] | None = None,
) -> tuple[float, list[float]]:
    """Constraint satisfaction rate of a response, and its value under each constraint.

    CSR(y) = (1/|C|) sum over c of v_c, in [0, 1] (ACT, arXiv 2403.06326).

    Raises:
        ValueError: no constraint, or a group verifier without another member to compare with.
    """
    values = [one.verify(prompt, response, group) for one in constraints]
    return aggregate_csr([values])[0], values


def aggregate_csr(values: Sequence[Sequence[float]]) -> list[float]:
    """Constraint satisfaction rates from verifier values: the mean of each row.

    Args:
        values: `[responses][constraints]` in [0, 1]; rows may differ in length.

    Raises:
        ValueError: a row without a value, or with one outside [0, 1] or NaN.
    """
    for number, row in enumerate(values):
        if not row:
            raise ValueError(f"response {number} has no constraint value, expected at least one")
        if not all(0 <= value <= 1 for value in row):
            raise ValueError(f"response {number} has the values {list(row)}, expected each in [0, 1]")
    return [math.fsum(row) / len(row) for row in values]


def cross_response_csr(pair_satisfied: Sequence[Sequence[float | None]]) -> list[float]:
    """Group-consistency values from pairwise ones: the mean of each row over the other members of the group.

    Args:
        pair_satisfied: `[members][members]`; entry (i, j) says how well response i agrees with response j, in [0, 1];
            the diagonal is ignored and may be None.

    Raises:
        ValueError: not square, fewer than two members, or an off-diagonal entry outside [0, 1].
    """
    size = len(pair_satisfied)
    if size < 2 or any(len(row) != size for row in pair_satisfied):
        raise ValueError(
            f"{size} rows of {[len(row) for row in pair_satisfied]} entries, expected a square of two or more"
        )
    others = [[value for j, value in enumerate(row) if j != i] for i, row in enumerate(pair_satisfied)]
    if any(value is None for row in others for value in row):
        raise ValueError("an off-diagonal entry is None, expected a value in [0, 1]")
    return aggregate_csr(typing.cast(list[list[float]], others))


def verifier_table() -> list[dict[str, Any]]:
    """One row a verifier for the docs: name, class, args (name to expected value), graded, description."""
    return [
        {
            "name": one.name,
            "class": one.classification,
            "args": {name: expected(hint) + _default(one, name) for name, hint in one.args.items()},
            "graded": one.graded,
            "description": one.summary,
        }
        for one in verifiers().values()
    ]


def _value(
    constraint: Constraint, prompt: str, response: str, group: Sequence[tuple[str, str]] | None
) -> float:
    checker = get_verifier(constraint.verifier)
    match checker.classification:
        case "response":
            value = checker.function(response, **constraint.args)
        case "prompt":
            value = checker.function(prompt, response, **constraint.args)
        case "group":
            value = _group_value(checker, constraint, Turn(prompt, response), group)
        case _:
            values = [one.verify(prompt, response, group) for one in constraint.inner()]
            value = checker.function(values, **constraint.args)
    if not 0 <= value <= 1:
        raise ValueError(f"verifier {checker.name!r} returned {value}, expected a value in [0, 1]")
    return float(value)


def _group_value(
    checker: Verifier, constraint: Constraint, own: Turn, group: Sequence[tuple[str, str]] | None
) -> float:
    if not group:
        raise ValueError(f"{checker.name} compares with the other responses of a group, and there is none")
    turns = [Turn(*other) for other in group]
    values = [0.0 if is_blank(t.response) else checker.function(own, t, **constraint.args) for t in turns]
    return math.fsum(values) / len(values)


def _check_args(checker: Verifier, args: Mapping[str, Any]) -> dict[str, Any]:
    for key in args:
        if key not in checker.args:
            near = difflib.get_close_matches(str(key), checker.args, n=1, cutoff=0.4)
            known = " or ".join(near or checker.args) or "no arguments"
            raise ConstraintError(str(key), f"is not an argument of {checker.name}", known)
    checked = {}
    for name, hint in checker.args.items():
        if name not in args and name not in checker.defaults:
            raise ConstraintError(name, f"is missing ({checker.name})", expected(hint))
        checked[name] = _check_arg(name, hint, args.get(name, checker.defaults.get(name)))
    if checker.check:
        checker.check(checked)
    return checked


def _check_arg(name: str, hint: Any, value: Any) -> Any:
    value = list(value) if isinstance(value, tuple) else value
    if hint is Inner:
        return _located(name, value)
    if hint is Inners and isinstance(value, list) and value:
        return [_located(f"{name}[{index}]", one) for index, one in enumerate(value)]
    from pydantic import ValidationError

    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise ConstraintError(name, f"{_short(value)} is not usable", expected(hint)) from error


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(strict=True))


def _located(place: str, value: Any) -> Constraint:
    try:
        return Constraint.from_json(value)
    except ConstraintError as error:
        where = f"{place}.{error.field}" if error.field else place
        raise ConstraintError(where, error.problem, error.expected) from error


def _default(checker: Verifier, name: str) -> str:
    return f" (default {json.dumps(checker.defaults[name])})" if name in checker.defaults else ""


def _present(args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if value is not None}


def _plain(value: Any) -> Any:
    match value:
        case Constraint():
            return value.to_json()
        case list():
            return [_plain(one) for one in value]
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case _:
            return value


def _short(value: Any) -> str:
    return shorten(repr(value), 60)


class _Wording(string.Formatter):
    """`{n:word}` counts a noun; lists are quoted and joined; constraints describe themselves."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return str(value).replace("_", " ") if conversion == "w" else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec:
            return f"{value} {format_spec}{'' if value == 1 else 's'}"
        if isinstance(value, Constraint):
            return value.describe()
        if isinstance(value, list):
            return ", ".join(
                self.format_field(one, "") if isinstance(one, Constraint) else f"“{one}”" for one in value
            )
        return str(value)


_WORDING = _Wording()
