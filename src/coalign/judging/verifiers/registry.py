"""The registry of verifiers: what a verifier declares, and the types of its arguments."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import MinLen, Predicate

from coalign.core.errors import CoalignError
from coalign.core.options import describe_type
from coalign.measures.texts.text_units import is_blank

Classification = Literal["response", "prompt", "group", "composite"]

_BUILT_IN = ("text", "format", "context", "answers", "code", "instructions")


def _says_something(value: str) -> bool:
    return not is_blank(value)


# Types of arguments; the string is what messages and the docs table call them. `Inner` and `Inners` take constraints
# in JSON form and become `Constraint` objects (`coalign.judging.verifiers.constraints`).
Text = Annotated[str, Predicate(_says_something), "text that is not blank"]
Texts = Annotated[list[Text], MinLen(1), "a list of one or more texts that are not blank"]
Inner = Annotated[Any, "a constraint"]
Inners = Annotated[list[Any], MinLen(1), "a list of one or more constraints"]


class Turn(NamedTuple):
    """A prompt and the response to it, as `group` verifiers see the members of a group."""

    prompt: str
    response: str


class ConstraintError(ValueError):
    """A constraint that cannot be used: `field: problem, expected ...`. The field of the whole constraint is ""."""

    def __init__(self, field: str, problem: str, expected: str) -> None:
        super().__init__(f"{field or 'constraint'}: {problem}, expected {expected}")
        self.field, self.problem, self.expected = field, problem, expected


class NotScorableError(CoalignError):
    """A response of which a verifier cannot say whether it is right: neither 0 nor 1."""


@dataclass(frozen=True)
class Verifier:
    """A registered verifier.

    Attributes:
        name: what constraints call it.
        classification: what it looks at, which also fixes the parameters of `function` before the arguments:
            response (response), prompt (prompt, response), group (own: Turn, other: Turn, for one other member of
            the group), composite (values of the inner constraints).
        function: the function; returns a float in [0, 1], or raises NotScorableError.
        graded: gives partial credit; otherwise the value is 0 or 1.
        describe: the constraint in words, a format string over the arguments: `{n:word}` renders `1 word`, `2 words`;
            `{relation!w}` writes underscores as spaces.
        args: argument names to type hints; those in `defaults` may be left out.
        defaults: argument names to default values.
        summary: first line of the function's docstring.
        check: raises ConstraintError for arguments that do not go together; each is of its type by then.
    """

    name: str
    classification: Classification
    function: Callable[..., float]
    graded: bool
    describe: str
    args: Mapping[str, Any]
    defaults: Mapping[str, Any]
    summary: str
    check: Callable[[Mapping[str, Any]], None] | None = None


_REGISTRY: dict[str, Verifier] = {}


def verifier(
    name: str,
    *,
    classification: Classification,
    describe: str,
    graded: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function as the verifier `name`. See `Verifier` for the arguments.

    Raises:
        ValueError: another function has the name (the same one again, as in a notebook, replaces itself), or a
            parameter is called `verifier` or `args`, which the flat form of a constraint has as keys of its own.
    """

    def register(function: Callable[..., float]) -> Callable[..., float]:
        known = _REGISTRY.get(name)
        if known and (known.function.__module__, known.function.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise ValueError(f"verifier {name!r} is already registered by {known.function.__module__}")
        hints = typing.get_type_hints(function, include_extras=True)
        keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        args = {parameter.name: hints[parameter.name] for parameter in keywords}
        if reserved := {"verifier", "args"} & set(args):
            raise ValueError(f"verifier {name!r}: the argument name {min(reserved)!r} is reserved")
        defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        summary = (inspect.getdoc(function) or describe).splitlines()[0]
        _REGISTRY[name] = Verifier(
            name, classification, function, graded, describe, args, defaults, summary, check
        )
        return function

    return register


def verifiers() -> dict[str, Verifier]:
    """Every registered verifier by name: the built-in ones in a fixed order, then others as they were registered."""
    _load_built_in()
    order = {f"{__package__}.{module}": place for place, module in enumerate(_BUILT_IN)}
    found = sorted(_REGISTRY.values(), key=lambda one: order.get(one.function.__module__, len(order)))
    return {one.name: one for one in found}


def get_verifier(name: str) -> Verifier:
    """The verifier `name`.

    Raises:
        ConstraintError: there is none; the nearest names are given.
    """
    _load_built_in()
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=3, cutoff=0.5)
        raise ConstraintError("verifier", f"{name!r} is unknown", " or ".join(near or sorted(_REGISTRY)))
    return _REGISTRY[name]


def low_to_high(args: Mapping[str, Any]) -> None:
    """Refuse an empty range: the `check` of verifiers with arguments `low` and `high`."""
    if args["low"] > args["high"]:
        raise ConstraintError("low", f"{args['low']} is above high", f"at most {args['high']}")


def expected(hint: Any) -> str:
    """What a value of an argument's type looks like, in words."""
    names = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, str)]
    return names[0] if names else describe_type(hint)


@functools.cache
def _load_built_in() -> None:
    for module in _BUILT_IN:
        importlib.import_module(f"{__package__}.{module}")
