"""What a report says, as plain data. Any system fills these; `html`, `terminal` and `model_card` show them.

A `Report` holds a headline and sections in reading order. It is stored beside the HTML page as JSON and reads
back equal (`to_dict`, `from_dict`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, get_args

from coalign.core.errors import CoalignError
from coalign.report.pictures import Gallery
from coalign.report.section import Section

SCHEMA = 1

Outcome = Literal["improved", "worse", "mixed", "neutral", "not improved"]
"""`parts.outcome_of` has the rule. `not improved` stands in reports of before it alone: worse, or holding zero."""
Unit = Literal["number", "percent", "integer", "seconds", "bytes"]
"""How a value is shown. `percent` values are fractions: 0.5 is shown as 50.0%."""
Better = Literal["higher", "lower", "neither"]
Effect = Literal["better", "worse", "unclear", "unknown"]
Change = Literal["better", "worse", "same", "unknown"]
Tone = Literal["good", "bad", "weak", "s0", "s1", "s2", "s3", "s4", "s5"]
"""How marked text is coloured: by what it means (`weak` is pale), or as the series of a chart."""
Cell = bool | int | float | str | None


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, where there is one. None: not measured."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, None where one is missing."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def measured(self) -> list[float]:
        """Value and ends, as far as they are finite."""
        return [one for one in (self.value, self.low, self.high) if one is not None and math.isfinite(one)]


@dataclass(frozen=True)
class Figure:
    """One headline number.

    Attributes:
        before: the same quantity before, if it has one.
        difference: the change with its interval, from whatever paired test the system ran.
        note: a few words below the number, such as the sample size.
    """

    label: str
    value: float | str | None
    _: KW_ONLY
    unit: Unit = "number"
    before: float | None = None
    difference: Estimate | None = None
    better: Better = "higher"
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """The verdict in one word, one or two sentences, and at most about six figures."""

    outcome: Outcome
    text: str
    figures: Sequence[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonRow:
    """One metric or category.

    Attributes:
        difference: after minus before with its own (paired) interval.
        n: number of measured items.
        emphasis: set apart, for an overall row.
    """

    name: str
    before: Estimate
    after: Estimate
    difference: Estimate | None = None
    _: KW_ONLY
    n: int | None = None
    unit: Unit = "percent"
    better: Better = "higher"
    emphasis: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison(Section):
    """Two systems side by side, by metric or category.

    Attributes:
        names: of the two sides.
        level: confidence level of every interval.
        scale: `shared` draws all rows on one axis, `row` each row on its own (metrics of different size).
    """

    rows: Sequence[ComparisonRow]
    names: tuple[str, str] = ("Before", "After")
    level: float = 0.95
    scale: Literal["shared", "row"] = "shared"
    kind: Literal["comparison"] = "comparison"

    def __post_init__(self) -> None:
        units = {row.unit for row in self.rows}
        if self.scale == "shared" and len(units) > 1:
            raise ValueError(
                f"comparison {self.title!r} has rows in {', '.join(sorted(units))}: use scale='row'"
            )


@dataclass(frozen=True)
class Series:
    """`values[i]` at `steps[i]`; None is a gap.

    Attributes:
        low, high: ends of a band around the line (an interval, a spread over seeds), None where there is none; both
            or neither.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        for what, given in (("values", self.values), ("low", self.low), ("high", self.high)):
            if given is not None and len(self.steps) != len(given):
                raise ValueError(f"series {self.name!r} has {len(self.steps)} steps but {len(given)} {what}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r} has one end of a band, expected both or neither")


@dataclass(frozen=True)
class Chart:
    """Series on one pair of axes.

    Attributes:
        log: of the values' axis; `x_log` of the other.
        marks: draw a dot at every point, for few measured points.
    """

    title: str
    series: Sequence[Series]
    _: KW_ONLY
    x_label: str = "step"
    log: bool = False
    x_log: bool = False
    marks: bool = False

    def __post_init__(self) -> None:
        if self.x_log and any(step <= 0 for one in self.series for step in one.steps):
            raise ValueError(f"chart {self.title!r} has steps at or below zero on a logarithmic axis")


@dataclass(frozen=True, kw_only=True)
class Curves(Section):
    """Line charts, shown as small multiples."""

    charts: Sequence[Chart]
    kind: Literal["curves"] = "curves"


@dataclass(frozen=True)
class Values:
    """A named sample of a distribution; None (not measured) is counted and not drawn."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Distribution(Section):
    """Histograms of one or several samples over the same bins; heights are shares of each sample."""

    samples: Sequence[Values]
    x_label: str
    kind: Literal["distribution"] = "distribution"


@dataclass(frozen=True)
class Mark:
    """A stretch of an output's text that is set apart: the characters from `start` up to `end`.

    Attributes:
        name: what it is; a key of the section's `marks`.
        note: shown when it is pointed at or clicked.
    """

    start: int
    end: int
    name: str
    note: str = ""


@dataclass(frozen=True)
class Output:
    """What one system wrote for a prompt.

    Attributes:
        score: the number by which a change is called better or worse.
        checks: further named results; a bool is shown as passed or failed.
        marks: stretches of the text in order, none overlapping another.
    """

    text: str
    score: float | None = None
    _: KW_ONLY
    checks: Mapping[str, bool | float | None] = field(default_factory=dict)
    marks: Sequence[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        place = 0
        for mark in self.marks:
            if not place <= mark.start < mark.end <= len(self.text):
                raise ValueError(
                    f"mark {mark.name!r} [{mark.start}, {mark.end}) is empty, out of order or outside of a text of "
                    f"{len(self.text)} characters"
                )
            place = mark.end

    def pieces(self) -> list[tuple[str, Mark | None]]:
        """The text in order, cut at its marks; the pieces between them have none."""
        found: list[tuple[str, Mark | None]] = []
        place = 0
        for mark in self.marks:
            found += [(self.text[place : mark.start], None), (self.text[mark.start : mark.end], mark)]
            place = mark.end
        return [(text, mark) for text, mark in [*found, (self.text[place:], None)] if text]


@dataclass(frozen=True)
class Sample:
    """A prompt, one output for each column of its section, and the categories it belongs to."""

    prompt: str
    outputs: Sequence[Output]
    _: KW_ONLY
    tags: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Samples(Section):
    """Outputs side by side. A row changed for the better when its last output scores better than its first.

    Attributes:
        marks: the names of marks in the outputs and how each is coloured; they make the legend.
    """

    columns: Sequence[str]
    rows: Sequence[Sample]
    score_name: str = "score"
    unit: Unit = "percent"
    better: Better = "higher"
    marks: Mapping[str, Tone] = field(default_factory=dict)
    kind: Literal["samples"] = "samples"

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"samples {self.title!r} has no columns")
        for index, row in enumerate(self.rows):
            if len(row.outputs) != len(self.columns):
                raise ValueError(
                    f"samples {self.title!r}, row {index}: {len(row.outputs)} outputs for {len(self.columns)} columns"
                )
            for mark in (one for output in row.outputs for one in output.marks):
                if mark.name not in self.marks:
                    raise ValueError(
                        f"samples {self.title!r}, row {index}: mark {mark.name!r} is not in marks"
                    )

    def gain(self, row: Sample) -> float | None:
        """Score of the last output minus that of the first, signed so that a gain is positive."""
        if len(row.outputs) < 2 or self.better == "neither":
            return None
        first, last = row.outputs[0].score, row.outputs[-1].score
        if first is None or last is None or not math.isfinite(last - first):
            return None
        return last - first if self.better == "higher" else first - last

    def change(self, row: Sample) -> Change:
        gain = self.gain(row)
        if gain is None:
            return "unknown"
        return "same" if abs(gain) < 1e-9 else "better" if gain > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class TableSection(Section):
    """A plain table; numbers are right-aligned. `units` names the columns that are not plain numbers.

    Attributes:
        in_terminal: whether it is what the report is for, and so also shown in the terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    units: Mapping[str, Unit] = field(default_factory=dict)
    in_terminal: bool = False
    kind: Literal["table"] = "table"

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}, row {index}: {len(row)} cells for {len(self.columns)} columns"
                )


@dataclass(frozen=True, kw_only=True)
class KeyValues(Section):
    """Names and values (configuration, environment); nested mappings are shown with dotted names."""

    items: Mapping[str, Any]
    kind: Literal["key_values"] = "key_values"


@dataclass(frozen=True, kw_only=True)
class Text(Section):
    """Plain paragraphs, no markup."""

    paragraphs: Sequence[str]
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Stage:
    """One stage of a run and what it cost."""

    name: str
    seconds: float
    peak_bytes: int | None = None
    _: KW_ONLY
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Timings(Section):
    """Time and peak memory by stage, in order."""

    stages: Sequence[Stage]
    kind: Literal["timings"] = "timings"


AnySection = (
    Comparison | Curves | Distribution | Samples | Gallery | TableSection | KeyValues | Text | Timings
)
_SECTIONS: dict[str, type[Section]] = {one.kind: one for one in get_args(AnySection)}


@dataclass(frozen=True)
class Command:
    """A command to go on with and what it does."""

    command: str
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report.

    Attributes:
        title: what was done to what.
        method: slug of the system.
        facts: the line below the title (model, data, seed, date).
        arxiv: identifier of the method's paper.
    """

    title: str
    method: str
    verdict: Headline
    sections: Sequence[AnySection]
    facts: Mapping[str, str] = field(default_factory=dict)
    next_commands: Sequence[Command] = field(default_factory=list)
    arxiv: str | None = None


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON values. Numbers that are not finite become None, lone surrogates U+FFFD."""
    return {"schema": SCHEMA, **_plain(dataclasses.asdict(report))}


def from_dict(value: Mapping[str, Any]) -> Report:
    """Read `to_dict` back.

    Raises:
        CoalignError: written by another version, or a field that does not fit; the section is named.
    """
    if value.get("schema") != SCHEMA:
        raise CoalignError(
            f"A report with schema {value.get('schema')!r} was found, expected {SCHEMA}.",
            hint="Read it with the version of coalign that wrote it.",
        )
    listed = value.get("sections", ())
    if not isinstance(listed, list | tuple) or not all(isinstance(one, Mapping) for one in listed):
        raise CoalignError("sections: Input should be a list of mappings.")
    sections = [_section(index, section) for index, section in enumerate(listed)]
    rest = {key: one for key, one in value.items() if key != "schema"}
    return dataclasses.replace(_read(Report, {**rest, "sections": []}, "report"), sections=sections)


def _section(index: int, value: Mapping[str, Any]) -> Any:
    where = f"sections[{index}]"
    kind = value.get("kind")
    if kind not in _SECTIONS:
        raise CoalignError(f"{where}: kind {kind!r} is unknown, expected one of: {', '.join(_SECTIONS)}.")
    return _read(_SECTIONS[kind], value, f"{where} ({kind})")


def _read(cls: type[Any], value: Mapping[str, Any], where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise CoalignError(f"{place}: {first['msg']}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return (
            value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
