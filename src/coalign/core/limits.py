"""Types of options with their limits, and what a value of a type looks like, in the user's words."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, Union

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
LARGEST = 2**31 - 1
"""The largest whole number that every library takes for a size, a count or a limit."""
Count = Annotated[int, Ge(1), Le(LARGEST)]
CountOrZero = Annotated[int, Ge(0), Le(LARGEST)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""What NumPy, torch and Python all take."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a number that a float holds: no bool, not NaN or infinite, and no whole number of hundreds of
    digits, of which `float` and `math.isfinite` raise `OverflowError`.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_large(value: Any) -> bool:
    """Whether a value is a whole number above `LARGEST`, also as text."""
    digits = value.strip() if isinstance(value, str) else ""
    return (isinstance(value, int) and value > LARGEST) or (
        digits.isdecimal() and (len(digits) > 10 or int(digits) > LARGEST)
    )


def as_shown(value: Any) -> str:
    """A value in a message, not longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def describe_type(hint: Any) -> str:
    """A type in the user's words: `a number above 0`, `one of: sum, mean`; an annotation that is a text describes it."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *constraints = typing.get_args(hint)
        if isinstance(constraints[0], str):
            return constraints[0]
        limits = " and ".join(filter(None, (_describe_constraint(one) for one in constraints)))
        return f"{describe_type(base)} {limits}".rstrip()
    if origin is Literal:
        return "one of: " + ", ".join(str(value) for value in typing.get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(
            "nothing" if arg is type(None) else describe_type(arg) for arg in typing.get_args(hint)
        )
    if origin is tuple and Ellipsis not in typing.get_args(hint):
        return "values: " + ", ".join(describe_type(one) for one in typing.get_args(hint))
    if origin in (list, tuple, set, Sequence):
        return f"a list of: {describe_type(typing.get_args(hint)[0])}"
    if origin is dict:
        return "a mapping"
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))


_LIMITS = {Gt: ("above", "gt"), Ge: ("of at least", "ge"), Lt: ("below", "lt"), Le: ("at most", "le")}
"""Constraint to the words for it and its attribute."""


def _describe_constraint(constraint: Any) -> str:
    if constraint == Le(LARGEST):  # goes without saying until somebody is above it
        return ""
    words, name = _LIMITS.get(type(constraint), ("", ""))
    return f"{words} {getattr(constraint, name)}" if words else ""
