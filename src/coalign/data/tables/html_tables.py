"""Tables in HTML: every `<table>` of a text as cells, and cells as HTML.

The parser takes what browsers take: cells and rows whose end tags are missing, entities, markup inside cells. A row
begins at `tr`; a cell takes the first free column of its row; `rowspan="0"` reaches to the end of its row group and
`colspan="0"` is 1, as HTML has them. A table inside a cell is part of that cell's text.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from coalign.data.messages import FieldError
from coalign.data.tables.table import MOST_PLACES, Cell, Table

MOST_COLUMNS, MOST_ROWS = 1000, 65534
"""Largest spans. Source: the HTML standard."""
_GROUPS = ("thead", "tbody", "tfoot")
_TO_THE_END = -1


@dataclass
class _Found:
    """A table while it is read.

    Attributes:
        taken: the columns of each row that cells cover.
        to_the_end: cells that reach to the end of their row group.
    """

    cells: list[Cell] = field(default_factory=list)
    row: int = -1
    group: str = ""
    open_cell: Cell | None = None
    taken: dict[int, set[int]] = field(default_factory=dict)
    to_the_end: list[Cell] = field(default_factory=list)


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[_Found] = []
        self.depth = 0

    @property
    def table(self) -> _Found | None:
        return self.found[-1] if self.depth else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.depth += 1
            if self.depth == 1:
                self.found.append(_Found())
                return
        table = self.table
        if table is None:
            return
        if self.depth > 1:
            _text(table, " ")
        elif tag in _GROUPS:
            _end_group(table)
            table.group = tag
        elif tag == "tr":
            table.open_cell = None
            table.row += 1
            for cell in table.to_the_end:
                table.taken.setdefault(table.row, set()).update(cell.columns)
        elif tag in ("td", "th"):
            _begin_cell(table, tag, dict(attrs))
        elif tag in ("br", "p", "div", "li", "sup", "sub", "i"):
            _text(table, " ")

    def handle_endtag(self, tag: str) -> None:
        table = self.table
        if tag == "table" and self.depth:
            self.depth -= 1
            if self.depth == 0 and table is not None:
                _end_group(table)
        elif table is None or self.depth > 1:
            return
        elif tag in ("td", "th", "tr"):
            table.open_cell = None
        elif tag in _GROUPS:
            _end_group(table)
            table.group = ""
        elif tag in ("p", "div", "li", "sup", "sub", "i"):
            _text(table, " ")

    def handle_data(self, data: str) -> None:
        if self.table is not None:
            _text(self.table, data)

    def close(self) -> None:
        super().close()
        if self.table is not None:
            _end_group(self.table)


def _text(table: _Found, data: str) -> None:
    if table.open_cell is not None:
        table.open_cell.text += data


def _begin_cell(table: _Found, tag: str, attributes: dict[str, str | None]) -> None:
    table.row = max(table.row, 0)
    height = _span(attributes.get("rowspan"), "rowspan", MOST_ROWS, zero=_TO_THE_END)
    width = _span(attributes.get("colspan"), "colspan", MOST_COLUMNS, zero=1)
    if height * width > MOST_PLACES:
        raise FieldError(
            f"a cell of {height} rows and {width} columns", f"at most {MOST_PLACES} places", "rowspan"
        )
    taken = table.taken.setdefault(table.row, set())
    column = next(one for one in range(len(taken) + 1) if one not in taken)
    columns = [*range(column, column + width)]
    scope = (attributes.get("scope") or "").lower()
    header = table.group == "thead" or (tag == "th" and scope not in ("row", "rowgroup"))
    rows = [*range(table.row, table.row + max(height, 1))]
    cell = Cell(rows, columns, header=header)
    for row in rows:
        table.taken.setdefault(row, set()).update(columns)
    if height == _TO_THE_END:
        table.to_the_end.append(cell)
    table.cells.append(cell)
    table.open_cell = cell


def _end_group(table: _Found) -> None:
    """A cell that reaches to the end of its group ends with it."""
    for cell in table.to_the_end:
        cell.rows = [*range(cell.rows[0], table.row + 1)]
    table.to_the_end = []
    table.open_cell = None


def _span(value: str | None, name: str, most: int, zero: int) -> int:
    if value is None or not value.strip():
        return 1
    try:
        number = int(value.strip())
    except ValueError as error:
        raise FieldError(f"{name}={value!r}", "a whole number", name) from error
    if number < 0 or number > most:
        raise FieldError(f"{name}={number}", f"a whole number from 0 to {most}", name)
    return number or zero


def cells_of_html(text: str) -> list[list[Cell]]:
    """The cells of every table of a text, in order; texts with spaces folded.

    Raises:
        FieldError: a span is not a number, or too large.
    """
    parser = _Tables()
    parser.feed(text)
    parser.close()
    for table in parser.found:
        for cell in table.cells:
            cell.text = " ".join(cell.text.split())
    return [table.cells for table in parser.found]


def to_html(table: Table) -> str:
    """The table as one `<table>`: header rows in `thead`, cells in order, and blank cells in holes."""
    at = {place: cell for cell in table.cells for place in cell.places}
    header = {row for row in range(table.n_rows) if _is_header(row, table, at)}
    lines = ["<table>"]
    group = ""
    for row in range(table.n_rows):
        wanted = "thead" if row in header else "tbody"
        if wanted != group:
            lines += [f"</{group}>"] * bool(group) + [f"<{wanted}>"]
            group = wanted
        cells = "".join(
            _cell_html(at.get((row, column)))
            for column in range(table.n_columns)
            if _begins(at.get((row, column)), row, column)
        )
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, *[f"</{group}>"] * bool(group), "</table>"])


def _is_header(row: int, table: Table, at: dict[Any, Cell]) -> bool:
    cells = [at[row, column] for column in range(table.n_columns) if (row, column) in at]
    return bool(cells) and all(cell.header for cell in cells)


def _begins(cell: Cell | None, row: int, column: int) -> bool:
    return cell is None or (row == cell.rows[0] and column == cell.columns[0])


def _cell_html(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    tag = "th" if cell.header else "td"
    spans = [("rowspan", len(cell.rows)), ("colspan", len(cell.columns))]
    written = "".join(f' {name}="{count}"' for name, count in spans if count > 1)
    return f"<{tag}{written}>{html.escape(cell.text, quote=False)}</{tag}>"
