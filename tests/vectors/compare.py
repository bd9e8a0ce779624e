"""The distance between an expected and an actual output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class Mismatch(Exception):  # noqa: N818 - an outcome, not an error
    """Outputs that differ in more than the size of numbers: type, length, keys, text, missing values."""


@dataclass(frozen=True)
class Tolerance:
    """Accepts |actual - expected| <= relative * max(floor, |expected|)."""

    relative: float = 1e-6
    floor: float = 1.0

    def error(self, actual: float, expected: float) -> float:
        """Difference relative to max(floor, |expected|); infinities and NaN only equal themselves."""
        if math.isnan(expected) or math.isnan(actual):
            return 0.0 if math.isnan(expected) and math.isnan(actual) else math.inf
        if actual == expected:
            return 0.0
        if math.isinf(actual) or math.isinf(expected):
            return math.inf
        return abs(actual - expected) / max(self.floor, abs(expected))


def largest_error(actual: Any, expected: Any, tolerance: Tolerance, where: str) -> float:
    """Largest relative error over all numbers of a nested output.

    Two integers, booleans, texts and None must be equal; an integer may be expected where a float comes.

    Raises:
        Mismatch: the two differ in something else than the size of a float; the message says where.
    """
    actual = plain(actual)
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            found = sorted(actual) if isinstance(actual, dict) else actual
            raise Mismatch(f"{where}: {found!r}, expected the keys {sorted(expected)}")
        pairs = [(actual[key], value, f"{where}.{key}") for key, value in expected.items()]
    elif isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            found = f"{len(actual)} entries" if isinstance(actual, list) else repr(actual)
            raise Mismatch(f"{where}: {found}, expected {len(expected)} entries")
        pairs = [(actual[i], value, f"{where}[{i}]") for i, value in enumerate(expected)]
    else:
        return _scalar_error(actual, expected, tolerance, where)
    return max((largest_error(a, b, tolerance, place) for a, b, place in pairs), default=0.0)


def _scalar_error(actual: Any, expected: Any, tolerance: Tolerance, where: str) -> float:
    if (
        _is_number(actual)
        and _is_number(expected)
        and (isinstance(actual, float) or isinstance(expected, float))
    ):
        return tolerance.error(float(actual), float(expected))
    if type(actual) is not type(expected) or actual != expected:
        raise Mismatch(f"{where}: {actual!r}, expected {expected!r}")
    return 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Tensors, arrays, numpy scalars and tuples as lists and Python scalars (one level: entries are done on use)."""
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
