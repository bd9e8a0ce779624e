"""What people say of captions: the captions of a picture, ranked from best to worst with ties."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.media.pictures import Picture
from coalign.data.rows import Row, iter_rows

FORM = '{"image": "a.jpg", "captions": [{"text": "...", "origin": "..."}, ...], "ranks": [1, 2, ...]}'
LISTS = ("captions", "ranks", "scores", "origins")


@dataclass(frozen=True)
class RankedCaptions:
    """The captions of one picture.

    Attributes:
        captions: [K] texts.
        origins: [K] where each comes from (a person, alt text, a captioner); empty where it is not said.
        ranks: [K] 1 is best, equal numbers are ties.
    """

    id: str
    image: Picture
    captions: tuple[str, ...]
    origins: tuple[str, ...]
    ranks: tuple[float, ...]

    @property
    def pairs(self) -> int:
        """Pairs of captions of different rank."""
        return sum(one < other for one in self.ranks for other in self.ranks)


def read_annotations(
    sources: Sequence[str], *, skip_bad: bool = False
) -> tuple[list[RankedCaptions], list[RecordProblem]]:
    """Ranked captions of files, folders or globs, and what is wrong with the others.

    A row has `image`, and `captions` with `ranks` (1 is best) or `scores` (highest is best), or else `chosen` and
    `rejected`. Captions are texts, or mappings with `text` and `origin`; a list `origins` may stand beside.

    Raises:
        DataError: rows that cannot be used, unless `skip_bad`; no row that can.
    """
    found: list[RankedCaptions] = []
    problems: list[RecordProblem] = []
    for source in sources:
        for row in iter_rows(source, lists=LISTS):
            try:
                found.append(_ranked(row, source, several=len(sources) > 1))
            except _Unusable as error:
                problems.append(error.problem)
    if problems and not skip_bad:
        raise DataError(
            f"{len(problems)} of {len(found) + len(problems)} annotations cannot be used.",
            problems,
            hint=f"A row is {FORM}. --on-bad-record skip leaves such rows out.",
        )
    if not found:
        raise DataError(
            f"{', '.join(sources)}: no annotation can be used.", problems, hint=f"A row is {FORM}."
        )
    return found, problems


class _Unusable(Exception):  # noqa: N818 - carries a problem to the reader
    def __init__(self, problem: RecordProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _ranked(row: Row, source: str, *, several: bool) -> RankedCaptions:
    place = row.source(source)

    def unusable(field: str, problem: str, expected: str) -> _Unusable:
        return _Unusable(place.problem(field, problem, expected))

    if row.value is None:
        raise _Unusable(row.problem or place.problem("row", "unreadable", FORM))
    value = row.value
    image = value.get("image")
    if image is None or image == "":
        raise unusable("image", "is missing", "a path, bytes or an Image feature")
    pairs = list(_captions(value))
    for number, (text, _) in enumerate(pairs):
        if not isinstance(text, str) or not text.strip():
            raise unusable(f"captions[{number}]", f"is {text!r}", "a text that is not empty")
    if len(pairs) < 2:
        raise unusable("captions", f"has {len(pairs)} texts", "at least 2, or chosen and rejected")
    ranks = _ranks(value, len(pairs))
    if ranks is None:
        raise unusable(
            "ranks",
            f"is {value.get('ranks', value.get('scores'))!r}",
            f"{len(pairs)} numbers, or as many scores",
        )
    name = str(value.get("id", row.index))
    file = Path(place.file)
    return RankedCaptions(
        f"{source}:{name}" if several else name,
        Picture(
            image, str(place) if isinstance(image, bytes) else None, file.parent if file.is_file() else None
        ),
        tuple(text for text, _ in pairs),
        tuple(origin for _, origin in pairs),
        ranks,
    )


def _captions(value: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    captions = value.get("captions")
    if captions is None and "chosen" in value and "rejected" in value:
        captions = [value["chosen"], value["rejected"]]
    if isinstance(captions, str):
        try:
            captions = json.loads(captions) if captions.startswith("[") else [captions]
        except ValueError:  # one caption that begins with a bracket
            captions = [captions]
    if not isinstance(captions, list | tuple):
        return
    origins = value.get("origins")
    for number, one in enumerate(captions):
        beside = origins[number] if isinstance(origins, list) and number < len(origins) else ""
        if isinstance(one, Mapping):
            yield one.get("text"), str(one.get("origin") or beside or "")
        else:
            yield one, str(beside or "")


def _ranks(value: Mapping[str, Any], size: int) -> tuple[float, ...] | None:
    ranks, sign = value.get("ranks"), 1.0
    if ranks is None and value.get("scores") is not None:
        ranks, sign = value["scores"], -1.0
    if ranks is None and "captions" not in value:
        ranks = [1, 2]
    usable = (
        isinstance(ranks, list | tuple)
        and len(ranks) == size
        and all(isinstance(one, int | float) and not isinstance(one, bool) and one == one for one in ranks)
    )
    return tuple(sign * one for one in ranks) if usable and ranks is not None else None
