"""How far the column header reaches, and which rows head the rows below them."""

from __future__ import annotations

import re

from coalign.tables.canonical.draft import Draft

LONG_TEXT = 60
"""Characters of a cell above which a table of two columns without a header is one of prose. Source: official code."""
HEADER_FIX = "marked cell as column header"
_NUMBERS = re.compile(r"^[0-9,%.$ -]+$")
_CUES = (
    (0, "Number"),
    (1, "Page"),
    (None, "in thousands"),
    (None, "in millions"),
    (None, "Measurement"),
    (None, "Period"),
)
"""Column (any, where None) and words of row 0 by which a table has a header. Source: official code."""


def projected_rows(draft: Draft) -> set[int]:
    """Rows that head those below: not header, one cell with text, in column 0, and every cell one row high."""
    texts, single, first = [0] * draft.n_rows, [True] * draft.n_rows, [False] * draft.n_rows
    for cell in draft.cells:
        for row in cell.rows:
            single[row] = single[row] and len(cell.rows) == 1
            if not cell.blank:
                texts[row] += 1
                first[row] = first[row] or 0 in cell.columns
    return {
        row
        for row in range(draft.n_rows)
        if not draft.header[row] and texts[row] == 1 and single[row] and first[row]
    }


def mark_projected_rows(
    draft: Draft, *, exclude: frozenset[int] = frozenset(), at_top: bool = False, at_bottom: bool = True
) -> None:
    """Widen each projected row header over all columns, and remove its blank cells.

    Args:
        exclude: rows that are none.
        at_top, at_bottom: remove such rows where no row is before, or after, them.
    """
    rows = projected_rows(draft) - exclude
    blank = []
    for cell in draft.cells:
        cell.projected = bool(rows.intersection(cell.rows))
        if cell.projected and cell.blank:
            blank.append(cell)
        elif cell.projected:
            cell.columns = [*range(draft.n_columns)]
    draft.fixes["merged projected row header"] += len(blank)
    draft.drop_cells(blank)
    draft.projected = [row in rows for row in range(draft.n_rows)]
    if at_top:
        count = next((row for row in range(draft.n_rows) if row not in rows), draft.n_rows)
        _remove(draft, range(count), "top")
    if at_bottom:
        last = next((row for row in reversed(range(draft.n_rows)) if not draft.projected[row]), -1)
        _remove(draft, range(last + 1, draft.n_rows), "bottom")


def _remove(draft: Draft, rows: range, where: str) -> None:
    if not len(rows):
        return
    draft.fixes[f"removed projected row header at {where} of table"] += len(rows)
    draft.keep_rows(
        [None if row in rows else row - (len(rows) if row >= rows.stop else 0) for row in range(draft.n_rows)]
    )


def correct_header(
    draft: Draft, *, assumed_above: int = 2, cues: bool = True, last_row: int | None = None
) -> None:
    """Find the last row of the column header and mark rows and cells; reject tables whose header is not clear.

    Args:
        assumed_above: tables with more columns have a header. The rules for ICDAR-2013 have 1.
        cues: words of row 0, and what two columns hold, tell of a header or of none. The rules for ICDAR-2013 do not.
        last_row: the last header row, where a person has said so.
    """
    if last_row is None:
        if draft.n_columns < 2 or draft.n_rows < 1:
            draft.rejects["small table"] += 1
        has_header = draft.n_rows > 0 and _has_header(draft, assumed_above, cues)
        if has_header:
            last_row = _last_header_row(draft)
        elif draft.n_columns == 2 and not (cues and _has_none(draft)):
            draft.rejects["ambiguous header"] += 1
    if last_row is None:
        return
    if last_row == 0 and draft.table.extra.get("continued"):
        return  # the first row of a table that goes on from another page repeats nothing
    for cell in draft.cells:
        if not cell.header and cell.rows[-1] <= last_row:
            cell.header = True
            draft.fixes[HEADER_FIX] += 1
    draft.header = [flag or row <= last_row for row, flag in enumerate(draft.header)]


def _has_header(draft: Draft, assumed_above: int, cues: bool) -> bool:
    top = [cell for cell in draft.cells if 0 in cell.rows]
    if draft.n_columns > assumed_above or draft.header[0]:
        return True
    if any(cell.blank and 0 in cell.columns for cell in top) or any(len(cell.columns) > 1 for cell in top):
        return True
    for cell in top if cues else ():
        for column, words in _CUES:
            said = cell.text if column is not None or words[0].isupper() else cell.text.lower()
            if (column is None or column in cell.columns) and words in said:
                draft.fixes[f"two column header: {words}"] += 1
                return True
    return False


def _has_none(draft: Draft) -> bool:
    """Whether two columns without a header are recognised as such: long text, or numbers, in row 0."""
    for cell in draft.cells:
        if 0 in cell.rows and len(cell.text) > LONG_TEXT:
            draft.fixes["two column no header: long text"] += 1
            return True
        if 0 in cell.rows and 1 in cell.columns and _NUMBERS.match(cell.text):
            draft.fixes["two column no header: numeric"] += 1
            return True
    return False


def _last_header_row(draft: Draft) -> int:
    last = draft.n_rows - 1
    single, filled_single, filled = ([last] * draft.n_columns for _ in range(3))
    named = [False] * draft.n_rows
    for cell in draft.cells:
        if len(cell.columns) == 1:
            (column,) = cell.columns
            single[column] = min(single[column], cell.rows[-1])
            if not cell.blank:
                filled_single[column] = min(filled_single[column], cell.rows[-1])
        if not cell.blank:
            for column in cell.columns:
                filled[column] = min(filled[column], cell.rows[0])
            for row in cell.rows if 0 in cell.columns else ():
                named[row] = True
    # A column that is named later than one on its left: the header goes on at least as far.
    later = [row for column, row in enumerate(filled_single) if column and min(filled_single[:column]) < row]
    found = max(max(single), min(last, max(filled)) - 1, max(later, default=-1))
    while found < last and not named[found + 1]:
        found += 1
    projected = projected_rows(draft)
    if 0 in projected:
        draft.rejects["bad projected row header"] += 1
    return min(found, min(projected, default=draft.n_rows) - 1)
