"""Pictures with the prompts they were made of, and what people say of them: EvalMuse-40K's JSON and plain rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.media.pictures import Picture
from coalign.data.rows import Row, iter_rows
from coalign.vision.fine_grained.elements import mean_label, phrase_of

IMAGE = ("image", "img_path", "image_path", "path")
GENERATOR = ("generator", "model", "t2i_model", "type")
MEANINGLESS = ("prompt_meaningless", "promt_meaningless")
"""The second spelling is that of the released files."""
LOWEST, HIGHEST = 1.0, 5.0
FORM = '{"prompt": "...", "image": "a.png", "total_score": [4, 5, 4], "element_score": {"red (color)": [1, 1, 0]}}'


@dataclass(frozen=True)
class Item:
    """A picture and its prompt.

    Attributes:
        elements: as the prompt's elements are written, "phrase (category)", in their order.
        overall: what annotators say of the whole, 1 to 5 each.
        labels: element to what annotators say of it, 0 or 1 each.
        questions: element to a yes/no question about it, for models that answer such.
        generator: the text-to-image model; empty where it is not said.
    """

    id: str
    prompt: str
    image: Picture
    elements: tuple[str, ...] = ()
    overall: tuple[float, ...] = ()
    labels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)
    generator: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """Mean of the annotators' overall scores; None without any."""
        return mean_label(self.overall) if self.overall else None

    @property
    def element_means(self) -> dict[str, float]:
        """Element to the mean of its labels, of those that have any."""
        return {name: mean_label(values) for name, values in self.labels.items() if values}

    @property
    def disputed(self) -> bool:
        """Whether annotators differ by 2 or more: such items want three more labels (paper, re-annotation rule)."""
        return bool(self.overall) and max(self.overall) - min(self.overall) >= 2


@dataclass(frozen=True)
class Items:
    """Items of one or several sources.

    Attributes:
        problems: rows that cannot be used.
        dropped: rows that say their prompt means nothing.
    """

    items: list[Item]
    problems: list[RecordProblem]
    dropped: int = 0


def read_items(sources: Sequence[str], *, skip_bad: bool = False, limit: int | None = None) -> Items:
    """The items of files, folders or globs.

    A row has `prompt` and `image` (or `img_path`), and may have `total_score` (a number or a list), `element_score`
    ("phrase (category)" to a number or a list), `elements` (a list, where nobody has labelled them), `questions` (element to
    question), `generator`. Rows whose prompt
    means nothing (`prompt_meaningless` or, as released, `promt_meaningless`) are dropped and counted.

    Args:
        limit: read only so many of each source.

    Raises:
        DataError: rows that cannot be used, unless `skip_bad`; none that can.
    """
    found: list[Item] = []
    problems: list[RecordProblem] = []
    dropped, seen = 0, set[str]()
    for source in sources:
        for number, row in enumerate(_rows(source)):
            if limit is not None and number >= limit:
                break
            if row.value is not None and any(row.value.get(name) for name in MEANINGLESS):
                dropped += 1
                continue
            one = _item(row, source, several=len(sources) > 1)
            if isinstance(one, Item) and one.id in seen:
                one = row.source(source).problem("id", f"{one.id!r} appears twice", "an id of its own")
            if isinstance(one, Item):
                seen.add(one.id)
                found.append(one)
            else:
                problems.append(one)
    if problems and not skip_bad:
        raise DataError(
            f"{len(problems)} of {len(found) + len(problems)} rows cannot be used.",
            problems,
            hint=f"A row is {FORM}. --on-bad-record skip leaves such rows out.",
        )
    if not found:
        raise DataError(f"{', '.join(sources)}: no row can be used.", problems, hint=f"A row is {FORM}.")
    return Items(found, problems, dropped)


def _rows(source: str) -> Iterator[Row]:
    return iter_rows(source, lists=("total_score", "element_score", "elements", "questions"))


def _item(row: Row, source: str, *, several: bool) -> Item | RecordProblem:
    place = row.source(source)

    def problem(name: str, what: str, expected: str) -> RecordProblem:
        return place.problem(name, what, expected)

    if row.value is None:
        return row.problem or problem("row", "unreadable", FORM)
    value = row.value
    prompt = value.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return problem("prompt", f"is {prompt!r}", "a text that is not empty")
    image = next((value[name] for name in IMAGE if value.get(name)), None)
    if image is None:
        return problem("image", "is missing", f"a picture in one of {', '.join(IMAGE)}")
    overall = _numbers(value.get("total_score"))
    if overall is None or not all(LOWEST <= one <= HIGHEST for one in overall):
        return problem("total_score", f"is {value.get('total_score')!r}", "numbers from 1 to 5")
    scores = _mapping(value.get("element_score"))
    if scores is None:
        return problem(
            "element_score", f"is {value.get('element_score')!r}", "a mapping of elements to 0 or 1"
        )
    labels: dict[str, tuple[float, ...]] = {}
    for name, given in scores.items():
        numbers = _numbers(given)
        if numbers is None or not all(0 <= one <= 1 for one in numbers):
            return problem(f"element_score.{name}", f"is {given!r}", "numbers from 0 to 1")
        labels[name] = numbers
    listed = value.get("elements") or []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        return problem("elements", f"is {listed!r}", "a list of texts")
    elements = tuple(dict.fromkeys([*labels, *listed]))
    empty = next((one for one in elements if not phrase_of(one)), None)
    if empty is not None:
        return problem("elements", f"{empty!r} has no phrase", '"phrase (category)"')
    questions = _mapping(value.get("questions"))
    if questions is None:
        return problem("questions", f"is {value.get('questions')!r}", "a mapping of elements to questions")
    name, file = str(value.get("id", row.index)), Path(place.file)
    known = {
        *IMAGE,
        *GENERATOR,
        *MEANINGLESS,
        "id",
        "prompt",
        "total_score",
        "element_score",
        "elements",
        "questions",
    }
    return Item(
        f"{source}:{name}" if several else name,
        prompt.strip(),
        Picture(image, None if isinstance(image, str) else str(place), file.parent if file.is_file() else None),
        elements,
        overall,
        labels,
        {one: str(text) for one, text in questions.items()},
        str(next((value[one] for one in GENERATOR if value.get(one) is not None), "")),
        {key: one for key, one in value.items() if key not in known},
    )  # fmt: skip


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A number or a list of numbers; empty for nothing, None for anything else."""
    values = [] if value is None else value if isinstance(value, list | tuple) else [value]
    good = all(isinstance(one, int | float) and not isinstance(one, bool) and one == one for one in values)
    return tuple(map(float, values)) if good else None


def _mapping(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return None
    return {str(name): one for name, one in value.items() if one is not None}
