"""Reads a vector file, computes its cases through the slug's adapter and compares."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.names import suggest
from tests.vectors import adapters
from tests.vectors.compare import Mismatch, Tolerance, largest_error
from tests.vectors.given import Given
from tests.vectors.losses import LOSSES


class VectorFileError(Exception):
    """A file that cannot be run: unreadable, of another format, or of a slug without an adapter."""


@dataclass(frozen=True)
class Case:
    """One case of a file."""

    slug: str
    name: str
    inputs: dict[str, Any]
    params: dict[str, Any]
    outputs: dict[str, Any]
    tolerance: Tolerance


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its largest relative error, and why it failed (None when it passed)."""

    error: float
    failure: str | None = None


def known_slugs() -> list[str]:
    """Slugs that have an adapter."""
    return sorted([*LOSSES, *(one.name.replace("_", "-") for one in pkgutil.iter_modules(adapters.__path__))])


def read_cases(path: Path) -> list[Case]:
    """The cases of a file.

    Raises:
        VectorFileError: the file cannot be read, does not have the format, or its slug has no adapter.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VectorFileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("slug"), str):
        raise VectorFileError(f"{path}: not a vector file, expected a mapping with `slug` and `cases`")
    slug, known = content["slug"], known_slugs()
    if slug not in known:
        advice = suggest(slug, known, f"Known: {', '.join(known)}.")
        raise VectorFileError(f"{path}: no adapter for the slug {slug!r}. {advice}")
    cases = content.get("cases")
    if not isinstance(cases, list) or not cases:
        raise VectorFileError(f"{path}: no cases")
    return [_case(path, slug, index, case, content.get("tolerance")) for index, case in enumerate(cases)]


def _case(path: Path, slug: str, index: int, case: Any, file_tolerance: Any) -> Case:
    where = f"{path}: case {index}"
    if not isinstance(case, dict) or not isinstance(case.get("name"), str):
        raise VectorFileError(f"{where}: expected a mapping with a `name`")
    parts = {key: case.get(key, {}) for key in ("inputs", "params", "outputs")}
    for key, value in parts.items():
        if not isinstance(value, dict):
            raise VectorFileError(f"{where}: `{key}` is not a mapping")
    if not parts["outputs"]:
        raise VectorFileError(f"{where}: states no outputs")
    tolerance = _tolerance(case.get("tolerance", file_tolerance), where)
    return Case(slug=slug, name=case["name"], tolerance=tolerance, **parts)


def _tolerance(stated: Any, where: str) -> Tolerance:
    """From None, a number (relative) or {rtol, atol}, which accepts the larger of both."""
    try:
        if stated is None:
            return Tolerance()
        if isinstance(stated, dict):
            relative, absolute = float(stated["rtol"]), float(stated["atol"])
            tolerance = Tolerance(relative, absolute / relative)
        else:
            tolerance = Tolerance(float(stated))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise VectorFileError(
            f"{where}: tolerance {stated!r} is neither a number nor {{rtol > 0, atol}}"
        ) from error
    if not 0 < tolerance.relative < 1 or not 0 <= tolerance.floor < math.inf:
        raise VectorFileError(f"{where}: tolerance {stated!r} is out of range")
    return tolerance


def compute(case: Case) -> dict[str, Any]:
    """The case's outputs, computed by the library."""
    given, adapter = Given(case.inputs, case.outputs), LOSSES.get(case.slug)
    if adapter is None:
        module = f"{adapters.__name__}.{case.slug.replace('-', '_')}"
        adapter = importlib.import_module(module).compute
    return given.completed(adapter(given, case.params))


def compare(case: Case, outputs: dict[str, Any]) -> Outcome:
    """Compare every output that the case states."""
    error, worst = 0.0, ""
    for name, expected in case.outputs.items():
        if name not in outputs:
            return Outcome(math.inf, f"{name}: not computed")
        try:
            found = largest_error(outputs[name], expected, case.tolerance, name)
        except Mismatch as mismatch:
            return Outcome(math.inf, str(mismatch))
        if found > error:
            error, worst = found, name
    failure = f"{worst}: error above {case.tolerance.relative:g}" if error > case.tolerance.relative else None
    return Outcome(error, failure)


def run_file(path: Path) -> Iterator[tuple[Case, Outcome]]:
    """Every case of a file and what came of it; an adapter that raises fails its case.

    Raises:
        VectorFileError: see `read_cases`.
    """
    for case in read_cases(path):
        try:
            outputs = compute(case)
        except Exception as error:
            yield case, Outcome(math.inf, f"{type(error).__name__}: {error}")
        else:
            yield case, compare(case, outputs)
