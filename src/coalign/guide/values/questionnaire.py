"""Questionnaires: items with options, what they measure, and how an instrument turns answers into scores.

A YAML or JSON file holds a whole instrument::

    name: my values
    options: [Not like me at all, Not like me, A little like me, Like me, Very much like me]
    axes: {self-transcendence: [care], self-enhancement: [standing]}
    indices: {distance: {constant: 20, items: {q1: 35, q2: -25}}}
    items:
      - {id: q1, text: "It is important to this person to help others.", dimension: care}
      - {id: q2, text: "This person does not mind others' pain.", dimension: care, reverse: true,
         paraphrases: ["Others' pain leaves this person cold."],
         behaviour: {text: "A stranger drops their bags.", options: [help, walk on], holds: help}}

Any file of rows (JSON Lines, CSV, Parquet, the hub) holds items alone, with the same columns; `question` is read as
`text`, and GlobalOpinionQA's `options` and `selections`, which are Python's own notation in text, as they are there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.yaml_text import load_yaml
from coalign.data.messages import FieldError, describe
from coalign.data.rows import assert_unique, iter_rows, parse_each

MOST_OPTIONS = 10
"""As many letters, with and without a space before them, as the twenty likeliest tokens can hold."""
_NO_OPINION = re.compile(
    r"\W*(dk|don.?t know|do not know|refused|no answer|no opinion|prefer not to|missing)\b", re.IGNORECASE
)
_YES_NO = {**dict.fromkeys((True, 1, "true", "yes", "1"), True), **dict.fromkeys((False, 0, None, "", "false", "no", "0"), False)}  # fmt: skip
_WRAPPED = re.compile(r"defaultdict\(<class '\w+'>, (.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Behaviour:
    """A choice that goes with a value.

    Attributes:
        holds: position of the option that somebody chooses who holds the value.
    """

    text: str
    options: tuple[str, ...]
    holds: int


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        ratings: what each option counts, by default 1, 2, ... in their order.
        dimension: what it measures; None for a question whose answers are only compared with those of people.
        reverse: agreeing speaks against the dimension: the rating is mirrored in the scale.
        paraphrases: the same in other words, to see whether the answer holds.
        passes: position of the option that an attentive reader chooses, in items that check attention; such an item
            counts in no dimension.
        people: for each population the share of its answers that each option got; options that are no opinion (don't
            know, refused) are left out of both sides.
    """

    id: str
    text: str
    options: tuple[str, ...]
    ratings: tuple[float, ...]
    dimension: str | None = None
    reverse: bool = False
    paraphrases: tuple[str, ...] = ()
    passes: int | None = None
    behaviour: Behaviour | None = None
    people: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[int, ...]:
        """Positions of options that are opinions."""
        return tuple(place for place, text in enumerate(self.options) if not _NO_OPINION.match(text))


@dataclass(frozen=True)
class Index:
    """A fixed linear form of items' mean ratings, as instruments of cultural dimensions have them."""

    constant: float
    items: Mapping[str, float]


@dataclass(frozen=True)
class Questionnaire:
    """Items and what is made of them.

    Attributes:
        axes: higher-order scores, each the mean of its dimensions.
    """

    name: str
    items: tuple[Item, ...]
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    indices: Mapping[str, Index] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(one.dimension for one in self.items if one.dimension and one.passes is None)
        )


def read_questionnaire(source: str | Path) -> Questionnaire:
    """The instrument in a YAML or JSON file, or the items in a file of rows.

    Raises:
        DataError: it cannot be read, or items are not as said above; every one named.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
        content = load_yaml(path)
        if isinstance(content, Mapping) and "items" in content:
            return _instrument(content, path)
    problems: list[RecordProblem] = []
    items = tuple(
        parse_each(
            iter_rows(source), source, lambda row: _item(row.value or {}, f"q{row.index + 1}", ()), problems
        )
    )
    _refuse(source, problems, items)
    return Questionnaire(path.name if path.exists() else str(source), items)


def _instrument(content: Mapping[str, Any], path: Path) -> Questionnaire:
    unknown = set(content) - {"name", "options", "axes", "indices", "items"}
    if unknown:
        raise DataError(f"{path}: {sorted(map(str, unknown))[0]}: is no part of a questionnaire.")
    problems, items = [], []
    given = content["items"]
    for place, one in enumerate(given if isinstance(given, list) else []):
        try:
            if not isinstance(one, Mapping):
                raise FieldError(describe(one), "a mapping with text and options", "item")
            items.append(_item(one, f"q{place + 1}", content.get("options") or ()))
        except FieldError as error:
            problems.append(
                RecordProblem(
                    str(path), None, error.field or "item", error.problem, error.expected, index=place
                )
            )
    _refuse(path, problems, items)
    known = {one.id for one in items}
    dimensions = {one.dimension for one in items if one.passes is None}
    axes = {}
    for name, parts in _mapping(content, "axes", path).items():
        if not isinstance(parts, list) or not parts:
            raise DataError(f"{path}: axes: {name}: {describe(parts)}, expected a list of dimensions.")
        axes[str(name)] = tuple(map(str, parts))
    indices = {}
    for name, one in _mapping(content, "indices", path).items():
        if (
            not isinstance(one, Mapping)
            or not isinstance(one.get("items"), Mapping)
            or not all(map(_is_number, (one.get("constant", 0), *one["items"].values())))
        ):
            raise DataError(
                f"{path}: indices: {name}: {describe(one)}, expected a constant and items with factors."
            )
        indices[str(name)] = Index(
            float(one.get("constant", 0)), {str(item): float(factor) for item, factor in one["items"].items()}
        )
    for what, names, there in (
        ("axes", [one for parts in axes.values() for one in parts], dimensions),
        ("indices", [one for index in indices.values() for one in index.items], known),
    ):
        missing = next((one for one in names if one not in there), None)
        if missing is not None:
            raise DataError(f"{path}: {what}: {missing!r} is not among its items, expected one that is.")
    return Questionnaire(str(content.get("name", path.stem)), tuple(items), axes, indices)


def _mapping(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = content.get(name) or {}
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: {name}: {describe(value)}, expected a mapping.")
    return value


def _refuse(source: str | Path, problems: list[RecordProblem], items: Sequence[Item]) -> None:
    if problems or not items:
        bad = rows_with(problems)
        raise DataError(
            f"{source}: {bad} of {bad + len(items)} items cannot be asked.",
            problems,
            hint='An item: {"id": "q1", "text": "...", "options": ["...", "..."], "dimension": "care"}',
        )
    assert_unique([one.id for one in items], str(source))


def _item(values: Mapping[str, Any], name: str, scale: Sequence[Any]) -> Item:
    text = _text(values.get("text", values.get("question")), "text")
    options = _options(_literal(values.get("options")) or scale, "options")
    ratings = _literal(values.get("ratings")) or range(1, len(options) + 1)
    if not isinstance(ratings, Sequence) or len(ratings) != len(options) or not all(map(_is_number, ratings)):
        raise FieldError(describe(ratings), "a number for each option", "ratings")
    dimension = values.get("dimension")
    passes, people = values.get("passes"), _literal(values.get("selections")) or {}
    behaviour = _literal(values.get("behaviour"))
    if sum(not _NO_OPINION.match(one) for one in options) < 2:
        raise FieldError(
            "hold no two opinions", "two options that are none of don't know or refused", "options"
        )
    return Item(
        id=str(values.get("id") or name),
        text=text,
        options=options,
        ratings=tuple(map(float, ratings)),
        dimension=None if dimension in (None, "") else str(dimension),
        reverse=_reverse(values.get("reverse")),
        paraphrases=_paraphrases(_literal(values.get("paraphrases"))),
        passes=None if passes in (None, "") else _position(passes, options, "passes"),
        behaviour=None if not behaviour else _behaviour(behaviour),
        people=_people(people, options),
    )


def _reverse(value: Any) -> bool:
    folded = value.strip().casefold() if isinstance(value, str) else value
    if isinstance(folded, list | dict) or folded not in _YES_NO:
        raise FieldError(describe(value), "true or false", "reverse")
    return _YES_NO[folded]


def _paraphrases(value: Any) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list | tuple):
        raise FieldError(describe(value), "a list of texts", "paraphrases")
    return tuple(_text(one, "paraphrases") for one in value or ())


def _behaviour(value: Any) -> Behaviour:
    if not isinstance(value, Mapping):
        raise FieldError(describe(value), "a mapping with text, options and holds", "behaviour")
    options = _options(value.get("options"), "behaviour")
    return Behaviour(
        _text(value.get("text"), "behaviour"), options, _position(value.get("holds"), options, "behaviour")
    )


def _people(value: Any, options: Sequence[str]) -> dict[str, tuple[float, ...]]:
    if not isinstance(value, Mapping):
        raise FieldError(describe(value), "shares of the options by population", "selections")
    found = {}
    for name, shares in value.items():
        fits = isinstance(shares, Sequence) and len(shares) == len(options) and all(map(_is_number, shares))
        if not fits or min(shares) < 0:
            raise FieldError(describe(shares), f"{len(options)} shares for {name}", "selections")
        found[str(name)] = tuple(map(float, shares))
    return found


def _options(value: Any, column: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not 2 <= len(value) <= MOST_OPTIONS:
        raise FieldError(describe(value), f"from 2 to {MOST_OPTIONS} options", column)
    found = tuple(str(one).strip() for one in value)
    if len({*found}) < len(found) or not all(found):
        raise FieldError("holds an option twice or an empty one", "options that differ", column)
    return found


def _position(value: Any, options: Sequence[str], column: str) -> int:
    """An option by its text, or by its position counted from 0."""
    if isinstance(value, str) and value.strip() in options:
        return options.index(value.strip())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    raise FieldError(describe(value), "one of the options", column)


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise FieldError(describe(value), "text", column)
    return value.strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _literal(value: Any) -> Any:
    """Lists and mappings that a table holds as text in Python's notation."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    wrapped = _WRAPPED.fullmatch(value.strip())
    try:
        return ast.literal_eval(wrapped[1] if wrapped else value.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return value
