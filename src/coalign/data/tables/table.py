"""A table as its cells: which rows and columns each covers, its text, and where that stands on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 from the top left corner, in points or pixels."""
MOST_PLACES = 200_000
"""Rows times columns of a table, or of a cell, above which it is taken for a fault of its file."""


@dataclass(eq=False)
class Cell:
    """A cell. Cells are told apart by identity, not by what they hold.

    Attributes:
        rows, columns: that it covers, ascending, from 0.
        box: the smallest one around its text; None where it has no text or nobody says.
        header: it belongs to the column header.
        projected: it heads the rows below it, across all columns (a projected row header).
        region: its share of the grid on the page: the union of its rows by that of its columns.
        words_text: its text as the page's words have it.
    """

    rows: list[int]
    columns: list[int]
    text: str = ""
    box: Box | None = None
    header: bool = False
    projected: bool = False
    region: Box | None = None
    words_text: str | None = None

    @property
    def blank(self) -> bool:
        return not self.text.strip()

    @property
    def spans(self) -> bool:
        return len(self.rows) > 1 or len(self.columns) > 1

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(row, column) for row in self.rows for column in self.columns]

    def copy(self) -> Cell:
        return Cell(
            [*self.rows],
            [*self.columns],
            self.text,
            self.box,
            self.header,
            self.projected,
            self.region,
            self.words_text,
        )


@dataclass(frozen=True)
class Word:
    """A word of the page."""

    text: str
    box: Box


@dataclass
class Table:
    """A table.

    Attributes:
        id: unique among the tables that were read together.
        cells: in any order.
        source, line: where it was read; the line of a file that has one table a line.
        words: of its page, in reading order; None where they are not known.
        page: width and height of the page or picture that boxes refer to.
        picture: file of that page or picture.
        split: train, val, test or empty.
        row_boxes, column_boxes: of the grid, where they are known.
        notes: what the reader changed, each with how often.
        extra: further columns of its row, handed on.
    """

    id: str
    cells: list[Cell]
    source: str = ""
    line: int | None = None
    words: list[Word] | None = None
    page: tuple[float, float] | None = None
    picture: Path | None = None
    split: str = ""
    row_boxes: list[Box] = field(default_factory=list)
    column_boxes: list[Box] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return max((row for cell in self.cells for row in cell.rows), default=-1) + 1

    @property
    def n_columns(self) -> int:
        return max((column for cell in self.cells for column in cell.columns), default=-1) + 1

    @property
    def has_boxes(self) -> bool:
        return any(cell.box is not None for cell in self.cells)

    def copy(self) -> Table:
        """With cells of its own."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own = {
            "cells": [cell.copy() for cell in self.cells],
            "row_boxes": [*self.row_boxes],
            "column_boxes": [*self.column_boxes],
            "notes": Counter(self.notes),
        }
        return Table(**{**fields, **own})

    def claims(self) -> Counter[tuple[int, int]]:
        """How many cells cover each place that any covers."""
        return Counter(place for cell in self.cells for place in cell.places)

    def holes(self) -> list[tuple[int, int]]:
        """Places that no cell covers."""
        taken = self.claims()
        everywhere = ((row, column) for row in range(self.n_rows) for column in range(self.n_columns))
        return [place for place in everywhere if place not in taken]

    def overlaps(self) -> list[tuple[int, int]]:
        """Places that several cells cover."""
        return sorted(place for place, count in self.claims().items() if count > 1)


def around(boxes: Iterable[Sequence[float] | None]) -> Box | None:
    """The smallest box around some, leaving out those that are missing or without area."""
    some = [one for one in boxes if one is not None and area(one) > 0]
    if not some:
        return None
    x0, y0, x1, y1 = zip(*some, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def area(box: Sequence[float]) -> float:
    """0 of a box whose sides are exchanged."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared_area(one: Sequence[float], other: Sequence[float]) -> float:
    """Area of the intersection."""
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def share_inside(box: Sequence[float], other: Sequence[float]) -> float:
    """Which share of `box` lies in `other`; 0 of a box without area."""
    own = area(box)
    return shared_area(box, other) / own if own > 0 else 0.0


def set_regions(cells: list[Cell], rows: list[Box], columns: list[Box]) -> None:
    """Give every cell its region: the union of its rows by that of its columns."""
    for cell in cells:
        cell.region = (
            min(columns[one][0] for one in cell.columns),
            min(rows[one][1] for one in cell.rows),
            max(columns[one][2] for one in cell.columns),
            max(rows[one][3] for one in cell.rows),
        )


def to_row(table: Table) -> dict[str, Any]:
    """A table as a row of JSON Lines, which `json_tables` reads back."""
    row: dict[str, Any] = {"id": table.id, "rows": table.n_rows, "columns": table.n_columns}
    row["cells"] = [_cell_row(cell) for cell in table.cells]
    if table.words is not None:
        row["words"] = [{"text": one.text, "bbox": [*one.box]} for one in table.words]
    given: Mapping[str, Any] = {
        "page": [*table.page] if table.page else None,
        "picture": str(table.picture) if table.picture else None,
        "split": table.split or None,
        "row_boxes": [[*box] for box in table.row_boxes] or None,
        "column_boxes": [[*box] for box in table.column_boxes] or None,
    }
    return {**row, **{name: value for name, value in given.items() if value is not None}, **table.extra}


def _cell_row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"row_nums": cell.rows, "column_nums": cell.columns, "text": cell.text}
    row["bbox"] = [*cell.box] if cell.box is not None else []
    row["is_column_header"] = cell.header
    row["is_projected_row_header"] = cell.projected
    if cell.region is not None:
        row["region"] = [*cell.region]
    if cell.words_text is not None:
        row["words_text"] = cell.words_text
    return row
