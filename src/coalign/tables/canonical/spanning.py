"""Cells that an annotation has taken apart are put together: in the column header, and in the first column."""

from __future__ import annotations

from coalign.data.tables.table import Cell
from coalign.tables.canonical.draft import Draft


def split_blank_spans(draft: Draft) -> None:
    """Take blank spanning cells of the header apart, so that their places can be absorbed one by one."""
    gone = [cell for cell in draft.cells if cell.header and cell.blank and cell.spans]
    new = [Cell([row], [column], header=True) for cell in gone for row, column in cell.places]
    draft.drop_cells(gone)
    draft.table.cells += new


def absorb_blanks(draft: Draft, *, up: bool) -> None:
    """Each header cell with text takes the rows directly above (or below, in the header) that are blank over its columns."""
    at = draft.at()
    groups = []
    for cell in draft.cells:
        if not cell.header or cell.blank:
            continue
        rows = range(cell.rows[0] - 1, -1, -1) if up else range(cell.rows[-1] + 1, draft.n_rows)
        group = [cell]
        for row in rows:
            others = [at.get((row, column)) for column in cell.columns]
            if (not up and not draft.header[row]) or not all(one is not None and one.blank for one in others):
                break
            group += [one for one in others if one is not None]
        groups.append(group)
    for group in groups:
        draft.merge(group)


def merge_header_columns(draft: Draft) -> None:
    """Neighbours in the header, one above the other over the same columns, are one cell, blank or not."""
    at = draft.at()
    groups: list[list[Cell]] = []
    seen: set[int] = set()
    for row in range(draft.n_rows):
        for column in range(draft.n_columns):
            cell = at.get((row, column))
            if cell is None or not cell.header:
                return _merge_all(draft, groups)
            if id(cell) in seen or (row, column) != (cell.rows[0], cell.columns[0]):
                continue
            group = [cell]
            while (below := at.get((group[-1].rows[-1] + 1, column))) is not None:
                if not below.header or below.columns != cell.columns:
                    break
                group.append(below)
            seen |= set(map(id, group))
            groups.append(group)
    return _merge_all(draft, groups)


def _merge_all(draft: Draft, groups: list[list[Cell]]) -> None:
    for group in groups:
        draft.merge(group)


def merge_row_header(draft: Draft, *, exclude: frozenset[int] = frozenset()) -> None:
    """Cells with text in the first column take the blank ones below, where the second column holds words.

    Args:
        exclude: rows whose first cell stays as it is.
    """
    letters = numbers = 0
    for cell in draft.cells:
        if 1 in cell.columns and not cell.header and not cell.projected:
            letters += sum(sign.isalpha() for sign in cell.text)
            numbers += sum(sign.isnumeric() for sign in cell.text)
    if letters <= numbers:
        return
    groups: list[list[Cell]] = []
    for cell in sorted((one for one in draft.cells if 0 in one.columns), key=lambda one: one.rows[-1]):
        above = groups[-1] if groups else []
        follows = bool(above) and cell.rows[0] == above[-1].rows[-1] + 1 and cell.columns == above[0].columns
        if not cell.blank or exclude.intersection(cell.rows):
            groups.append([cell])
        elif follows:
            above.append(cell)
    _merge_all(draft, [group for group in groups if not group[0].projected and not group[0].header])
