"""What a run left, without what differs from one run to the next: times and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEASURED = {"seconds", "peak_mb", "time", "cached", "forwards", "tokens_tried", "judged"}
"""Times, memory, and calls that only the process that ended the run made."""


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
            found[name] = lasting([json.loads(row) for row in text.splitlines()])
        else:
            found[name] = text
    return found


def lasting(value: Any) -> Any:
    """`value` without what is measured, at any depth, and without the Trainer's summary of a process's steps."""
    if isinstance(value, dict):
        timed = {key for key in value if key.endswith(("_runtime", "_per_second"))}
        return {key: lasting(one) for key, one in value.items() if key not in MEASURED | timed}
    if isinstance(value, list):
        return [lasting(one) for one in value if not (isinstance(one, dict) and "train_loss" in one)]
    return value


def assert_close(
    found: Any, expected: Any, place: str = "", *, rtol: float = 1e-3, atol: float = 1e-5
) -> None:
    """Equal, numbers up to rounding; a difference is named by its place."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), f"{place}: {found.keys() ^ expected.keys()}"
        for key, value in expected.items():
            assert_close(found[key], value, f"{place}/{key}", rtol=rtol, atol=atol)
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_close(found[number], value, f"{place}[{number}]", rtol=rtol, atol=atol)
    elif isinstance(expected, float) and isinstance(found, int | float):
        assert abs(found - expected) <= atol + rtol * abs(expected) or found != found, place
    else:
        assert found == expected, f"{place}: {found!r}, expected {expected!r}"
