"""A sheet for people: pairs without names, left and right drawn, a column for the verdict; and what came back.

The sheet is a CSV file for any spreadsheet; which response stands on the left is in a key beside it, which whoever
judges does not need.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import write_json, write_text
from coalign.data.rows import iter_rows
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Choice, JudgeItem

COLUMNS = ("id", "prompt", "left", "right", "verdict")
SAID = {
    "left": "left",
    "l": "left",
    "1": "left",
    "right": "right",
    "r": "right",
    "2": "right",
    "tie": "tie",
    "0": "tie",
    "=": "tie",
}
"""What people write."""


def draw_sheet(items: Sequence[JudgeItem], count: int, seed: int) -> list[tuple[JudgeItem, bool]]:
    """So many items in a drawn order, each with whether its second response stands on the left."""
    rng = random.Random(f"sheet {seed}")
    chosen = rng.sample(list(items), min(count, len(items)))
    return [(item, rng.random() < 0.5) for item in chosen]


def write_sheet(drawn: Sequence[tuple[JudgeItem, bool]], sheet: Path, key: Path) -> None:
    """Write the sheet (CSV) and its key (JSON: id to whether left and right are exchanged)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for item, swapped in drawn:
        left, right = item.responses[::-1] if swapped else item.responses
        writer.writerow([item.id, question_text(item.prompt), left, right, ""])
    write_text(sheet, text.getvalue())
    write_json(key, {item.id: swapped for item, swapped in drawn})


def read_sheet(path: Path, swapped: Mapping[str, bool]) -> dict[str, Choice]:
    """What people wrote into a sheet, as verdicts on the items; rows without a verdict are left out.

    Raises:
        DataError: an id that the sheet did not have, or a verdict that is none.
    """
    found: dict[str, Choice] = {}
    problems: list[RecordProblem] = []
    for row in iter_rows(path):
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        name, said = str(row.value.get("id", "")), str(row.value.get("verdict") or "").strip().lower()
        place = row.source(path)
        if name not in swapped:
            problems.append(place.problem("id", f"{name!r} is not in the sheet", "an id of the sheet"))
        elif said and said.removesuffix(".0") not in SAID:
            problems.append(place.problem("verdict", repr(said), "left, right or tie, or nothing"))
        elif said:
            verdict = SAID[said.removesuffix(".0")]
            first_left = not swapped[name]
            found[name] = (
                "tie" if verdict == "tie" else "first" if (verdict == "left") == first_left else "second"
            )
    if problems:
        raise DataError(f"{path}: {len(problems)} rows of the sheet cannot be used.", problems)
    return found
