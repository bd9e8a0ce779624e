"""What the page's script needs of samples. Of many rows the page has all scores, packed, and the texts of some."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coalign.core.errors import CoalignError
from coalign.core.files import read_rows
from coalign.report import format
from coalign.report.model import Estimate, Output, Sample, Samples

MOST = 2000
"""Rows whose texts are in the page."""
FOLDER = "samples"
"""Beside a page: a file of JSON Lines for each section with more rows, all of them in order."""
_ROOM = 4_500_000
"""Bytes of a section in the page."""
_CHANGES = ("unknown", "same", "better", "worse")


def is_large(section: Any) -> bool:
    """Whether a section has samples whose texts are not all in the page."""
    return isinstance(section, Samples) and len(section.rows) > MOST


def file_of(anchor: str) -> str:
    """Where all rows of a large section are, from the page; `anchor` is the section's id in it."""
    return f"{FOLDER}/{anchor}.jsonl"


def sample_rows(section: Samples) -> Iterator[dict[str, Any]]:
    """The rows of a section as a file holds them, in order."""
    for row in section.rows:
        outputs = [
            {
                "column": column,
                "text": one.text,
                "score": one.score,
                "checks": dict(one.checks),
                **({"marks": list(map(dataclasses.asdict, one.marks))} if one.marks else {}),
            }
            for column, one in zip(section.columns, row.outputs, strict=True)
        ]
        yield {
            "prompt": row.prompt,
            "tags": list(row.tags),
            "change": section.change(row),
            "outputs": outputs,
        }


def rows_apart(section: Samples, plain: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    """A large section as it is stored: its rows are those of the file that `file_of` names, and the scores of all outputs
    are packed by column, null as NaN.

    Args:
        plain: the section as JSON values.
    """
    scores = [
        [math.nan if (score := row.outputs[column].score) is None else score for row in section.rows]
        for column in range(len(section.columns))
    ]
    packed = [_bytes(one, "f8") for one in scores]
    return {**plain, "rows": [], "rows_in": file_of(anchor), "row_count": len(section.rows), "scores": packed}


def with_rows(stored: Any, folder: Path) -> Any:
    """A section of a report in `folder` with the rows that `rows_apart` left in a file; any other as it is.

    Raises:
        CoalignError: the file is not there, or does not hold so many rows.
    """
    if not isinstance(stored, Mapping) or "rows_in" not in stored:
        return stored
    file = folder / FOLDER / Path(str(stored["rows_in"])).name  # nowhere else, whatever the report says
    found = read_rows(file)
    if len(found) != stored.get("row_count"):
        raise CoalignError(
            f"{file}: {len(found)} rows, expected {stored.get('row_count')}: the samples of the report beside it.",
            hint="The page report.html has the scores of all and the texts of some.",
        )
    fields = [one.name for one in dataclasses.fields(Output)]
    rows = [
        {
            "prompt": row["prompt"],
            "tags": row["tags"],
            "outputs": [{name: one[name] for name in fields if name in one} for one in row["outputs"]],
        }
        for row in found
    ]
    own = {name: one for name, one in stored.items() if name not in ("rows_in", "row_count", "scores")}
    return {**own, "rows": rows}


def sample_data(section: Samples, anchor: str = "") -> dict[str, Any]:
    """A section as JSON. Scores come formatted, so that numbers look alike.

    Args:
        anchor: of the section in a page beside which `file_of` says where all rows are; empty where no file is.
    """
    tags = [tag for tag, _ in tags_of(section)]
    data: dict[str, Any] = {
        "columns": section.columns,
        "scoreName": section.score_name,
        "tags": tags,
        "marks": [[name, tone] for name, tone in section.marks.items()],
    }
    if not is_large(section):
        return {**data, "rows": [_row(section, row) for row in section.rows]}
    gains = np.array([np.nan if (one := section.gain(row)) is None else one for row in section.rows])
    packed = _packed(section, tags, gains)
    room = _ROOM - len(json.dumps(packed))
    places, rows = [], []
    for place in _chosen(gains):
        row = _row(section, section.rows[place])
        room -= len(json.dumps(row))
        if room < 0:
            break
        places.append(place)
        rows.append(row)
    return {
        **data,
        "rows": rows,
        "packed": {**packed, "places": _bytes(places, "u4"), "file": file_of(anchor) if anchor else ""},
    }


def tags_of(section: Samples) -> list[tuple[str, int]]:
    """The categories of a section and how many rows are of each."""
    return sorted(Counter(tag for row in section.rows for tag in dict.fromkeys(row.tags)).items())


def change_counts(section: Samples) -> Counter[str]:
    """How many rows changed for the better, for the worse, not at all."""
    return Counter(section.change(row) for row in section.rows)


def _chosen(gains: np.ndarray) -> list[int]:
    """The rows whose texts are shown, the most wanted first: in turn the largest gain, the largest loss, and one of those
    spread evenly over all.
    """
    scored = np.flatnonzero(~np.isnan(gains))
    order = scored[np.argsort(gains[scored], kind="stable")]
    spread = np.linspace(0, len(gains) - 1, MOST).round().astype(int)
    spread = spread[
        np.random.default_rng(0).permutation(len(spread))
    ]  # whatever room there is, they are spread
    turns = itertools.chain.from_iterable(
        itertools.zip_longest(order[::-1][:MOST].tolist(), order[:MOST].tolist(), spread.tolist())
    )
    return list(dict.fromkeys(one for one in turns if one is not None))[:MOST]


def _packed(section: Samples, tags: Sequence[str], gains: np.ndarray) -> dict[str, Any]:
    """What is told of every row, without its texts."""
    numbers = {tag: place for place, tag in enumerate(tags)}
    own = [[numbers[tag] for tag in dict.fromkeys(row.tags)] for row in section.rows]
    return {
        "total": len(section.rows),
        "change": _bytes([_CHANGES.index(section.change(row)) for row in section.rows], "u1"),
        "gain": _bytes(gains, "f4"),
        "long": _bytes([max(len(one.text) for one in row.outputs) for row in section.rows], "u4"),
        "delta": _words(_delta(section, row) for row in section.rows),
        "scores": [
            _words(_score(section, row.outputs[column]) for row in section.rows)
            for column in range(len(section.columns))
        ],
        "tagCounts": _bytes(list(map(len, own)), "u2"),
        "tagPlaces": _bytes(list(itertools.chain(*own)), "u2"),
    }


def _words(texts: Iterable[str | None]) -> dict[str, Any]:
    """Texts of which many are the same: each once, and which of them every row has; 0 for none."""
    places: dict[str, int] = {}
    rows = [0 if one is None else places.setdefault(one, len(places) + 1) for one in texts]
    return {"words": list(places), "rows": _bytes(rows, "u2" if len(places) < 2**16 else "u4")}


def _bytes(values: Sequence[float] | np.ndarray, kind: str) -> list[str]:
    """Numbers as the page's script reads them: their kind, and little-endian bytes in base64."""
    data = np.asarray(values, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
    return [kind, base64.b64encode(data).decode("ascii")]


def _row(section: Samples, row: Sample) -> dict[str, Any]:
    return {
        "prompt": row.prompt,
        "tags": row.tags,
        "change": section.change(row),
        "gain": section.gain(row),
        "delta": _delta(section, row),
        "outputs": [
            {
                **_text_data(section, output),
                "score": _score(section, output),
                "checks": [[name, _check(value)] for name, value in output.checks.items()],
            }
            for output in row.outputs
        ],
    }


def _text_data(section: Samples, output: Output) -> dict[str, Any]:
    """The text, or its pieces where some are marked: [text], or [text, number of the mark's name, note]."""
    if not output.marks:
        return {"text": output.text}
    names = list(section.marks)
    pieces = [
        [text] if mark is None else [text, names.index(mark.name), mark.note]
        for text, mark in output.pieces()
    ]
    return {"pieces": pieces}


def _score(section: Samples, output: Output) -> str | None:
    if output.score is None:
        return None
    return format.number(output.score, section.unit).replace(".0%", "%")


def _delta(section: Samples, row: Sample) -> str | None:
    first, last = row.outputs[0].score, row.outputs[-1].score
    if len(section.columns) < 2 or first is None or last is None:
        return None
    return format.difference_texts(Estimate(last - first), section.unit)[0].replace(".0 pp", " pp")


def _check(value: bool | float | None) -> bool | str | None:
    return value if value is None or isinstance(value, bool) else format.number(value)
