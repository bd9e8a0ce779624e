"""What a run left, without what differs from one run to the next: times and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEASURED = {"seconds", "peak_mb", "time", "before_seconds", "after_seconds"}


def artefacts(run: Path, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Path below `run` to the rows or values of every finished JSON file among its artefacts, and text files beside them."""
    found: dict[str, Any] = {}
    for path in sorted([*run.glob("artefacts/**/*"), *run.glob("alignments/*")]):
        name = str(path.relative_to(run))
        if path.is_dir() or path.suffix == ".lock" or path.name.startswith(".") or path.name in but:
            continue
        if path.suffix not in (".json", ".jsonl", ".srt"):
            continue
        text = path.read_text(encoding="utf-8").replace(str(run), "RUN")
        if path.suffix == ".json":
            found[name] = lasting(json.loads(text))
        elif path.suffix == ".jsonl":
            found[name] = [lasting(json.loads(row)) for row in text.splitlines()]
        else:
            found[name] = text
    return found


def lasting(value: Any) -> Any:
    """`value` without measured times and memory, at any depth."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key not in MEASURED and "per_second" not in key}
        return {key: lasting(one) for key, one in kept.items() if "runtime" not in key}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def assert_close(found: Any, expected: Any, place: str = "") -> None:
    """Equal, numbers up to rounding; a difference is named by its place."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_close(found[key], value, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_close(found[number], value, f"{place}[{number}]")
    elif isinstance(expected, float) and isinstance(found, int | float):
        assert abs(found - expected) <= 1e-5 + 1e-3 * abs(expected) or found != found, place
    else:
        assert found == expected, place
