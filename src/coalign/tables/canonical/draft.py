"""A table while it is corrected: its cells, which rows are headers, what was done, and why it is to be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from coalign.data.tables.table import Cell, Table, around


@dataclass
class Draft:
    """A table under correction.

    Attributes:
        table: an own copy; its cells are changed in place.
        header, projected: for each row whether it is part of the column header, or a projected row header.
        n_columns: columns.
        fixes: what was done, with how often.
        rejects: reasons to leave the table out, with how often.
    """

    table: Table
    header: list[bool]
    projected: list[bool]
    n_columns: int
    fixes: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, table: Table, header_rows: Sequence[int] | None = None) -> Draft:
        """A draft of a copy.

        Args:
            header_rows: annotated as header; by default those all of whose cells are.
        """
        own = table.copy()
        flags = [True] * own.n_rows
        for cell in own.cells:
            for row in cell.rows:
                flags[row] = flags[row] and cell.header
        if header_rows is not None:
            flags = [row in header_rows for row in range(own.n_rows)]
        return cls(own, flags, [False] * own.n_rows, own.n_columns)

    @property
    def cells(self) -> list[Cell]:
        return self.table.cells

    @property
    def n_rows(self) -> int:
        return len(self.header)

    def at(self) -> dict[tuple[int, int], Cell]:
        """Each place and its cell."""
        return {place: cell for cell in self.cells for place in cell.places}

    def drop_cells(self, gone: Sequence[Cell]) -> None:
        chosen = set(map(id, gone))
        self.table.cells = [cell for cell in self.cells if id(cell) not in chosen]

    def keep_rows(self, new_row: Sequence[int | None]) -> None:
        """Renumber rows; None removes one, with the cells that have no other."""
        self.header = [flag for flag, new in zip(self.header, new_row, strict=True) if new is not None]
        self.projected = [flag for flag, new in zip(self.projected, new_row, strict=True) if new is not None]
        for cell in self.cells:
            cell.rows = [new for row in cell.rows if (new := new_row[row]) is not None]
        self.table.cells = [cell for cell in self.cells if cell.rows]

    def keep_columns(self, new_column: Sequence[int | None]) -> None:
        """Renumber columns; None removes one, with the cells that have no other."""
        self.n_columns = sum(new is not None for new in new_column)
        for cell in self.cells:
            cell.columns = [new for column in cell.columns if (new := new_column[column]) is not None]
        self.table.cells = [cell for cell in self.cells if cell.columns]

    def merge(self, group: Sequence[Cell]) -> None:
        """Make one cell of several: union of rows and columns, texts in order of rows, one tight box.

        The first in order of rows stays. One that stands there twice, or is gone already, makes the table ambiguous.
        """
        here = set(map(id, self.cells))
        known = {id(cell): cell for cell in group if id(cell) in here}
        if len(known) < len(group):
            self.rejects["ambiguous spanning cell"] += 1
        first, *others = sorted(known.values(), key=lambda cell: cell.rows[0])
        if not others:
            return
        group = [first, *others]
        first.rows = sorted({row for cell in group for row in cell.rows})
        first.columns = sorted({column for cell in group for column in cell.columns})
        first.text = " ".join(text for cell in group if (text := cell.text.strip()))
        first.box = around(cell.box for cell in group)
        first.projected = False
        self.drop_cells(others)
        self.fixes["merged oversegmented spanning cell"] += len(others)


def remove_empty_rows(draft: Draft) -> None:
    """Remove rows all of whose cells are blank."""
    filled = {row for cell in draft.cells if not cell.blank for row in cell.rows}
    gone = _renumber(filled, draft.n_rows)
    draft.fixes["removed empty row"] += draft.n_rows - len(filled)
    draft.keep_rows(gone)


def remove_empty_columns(draft: Draft) -> None:
    """Remove columns all of whose cells are blank."""
    filled = {column for cell in draft.cells if not cell.blank for column in cell.columns}
    gone = _renumber(filled, draft.n_columns)
    draft.fixes["removed empty column"] += draft.n_columns - len(filled)
    draft.keep_columns(gone)


def _renumber(kept: set[int], count: int) -> list[int | None]:
    numbers = iter(range(count))
    return [next(numbers) if place in kept else None for place in range(count)]


def merge_rows(draft: Draft) -> None:
    """Make one row of neighbours where the cells that span both cover every column."""
    together = [0] * draft.n_rows
    for cell in draft.cells:
        for row in cell.rows[:-1]:
            together[row] += len(cell.columns)
    same = [count == draft.n_columns for count in together[:-1]]
    draft.fixes["merged rows spanned together in every column"] += sum(same)
    draft.keep_rows(_joined(same, draft.n_rows))


def merge_columns(draft: Draft) -> None:
    """Make one column of neighbours where the cells that span both cover every row."""
    together = [0] * draft.n_columns
    for cell in draft.cells:
        for column in cell.columns[:-1]:
            together[column] += len(cell.rows)
    same = [count == draft.n_rows for count in together[:-1]]
    draft.fixes["merged columns spanned together in every row"] += sum(same)
    draft.keep_columns(_joined(same, draft.n_columns))


def _joined(same: Sequence[bool], count: int) -> list[int | None]:
    numbers = iter(range(count))
    return [None if place > 0 and same[place - 1] else next(numbers) for place in range(count)]
