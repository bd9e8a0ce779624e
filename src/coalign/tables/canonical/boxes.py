"""Where rows, columns and cells stand on the page, from the tight boxes of texts and the words of the page."""

from __future__ import annotations

import statistics
from itertools import pairwise

from coalign.data.tables.table import Box, Word, area, around, set_regions, share_inside, shared_area
from coalign.tables.canonical.draft import Draft

HALF = 0.5
"""Share of a word that must lie in a cell. Source: official code."""
ROUNDS = 3
"""How often boxes and words may change each other. Source: official code."""
SMALL_OVERLAP = 0.22
"""Share of two rows up to which they are parted in the middle. Source: official code for ICDAR-2013."""
FIT = 0.9
DIFFERENT_TEXT = 0.05


def place_grid(draft: Draft, *, part_rows: bool = False) -> Box | None:
    """Boxes of rows, columns and cells; None, with reasons to reject, where a boundary has no text beside it.

    A row begins at the highest text of the cells that begin there, and ends at the lowest of those that end there;
    columns likewise. Rows and columns cross the whole table.

    Args:
        part_rows: part rows that overlap a little in the middle, and reject those that overlap more.
    """
    whole = around(cell.box for cell in draft.cells)
    if whole is None:
        draft.rejects["undetermined row boundary"] += 1
        return None
    tops, bottoms = _edges(draft, 1)
    lefts, rights = _edges(draft, 0)
    rows, columns = (
        [pair for pair in zip(begin, end, strict=True) if None not in pair]
        for begin, end in ((tops, bottoms), (lefts, rights))
    )
    if len(rows) < draft.n_rows:
        draft.rejects["undetermined row boundary"] += draft.n_rows - len(rows)
    if len(columns) < draft.n_columns:
        draft.rejects["undetermined column boundary"] += draft.n_columns - len(columns)
    if len(rows) < draft.n_rows or len(columns) < draft.n_columns:
        return None
    draft.table.row_boxes = [(whole[0], top or 0.0, whole[2], bottom or 0.0) for top, bottom in rows]
    draft.table.column_boxes = [(left or 0.0, whole[1], right or 0.0, whole[3]) for left, right in columns]
    if part_rows:
        _part_rows(draft)
    set_regions(draft.cells, draft.table.row_boxes, draft.table.column_boxes)
    return whole


def _edges(draft: Draft, axis: int) -> tuple[list[float | None], list[float | None]]:
    """Begin and end of each row (axis 1) or column (axis 0)."""
    count = draft.n_rows if axis else draft.n_columns
    begins: list[float | None] = [None] * count
    ends: list[float | None] = [None] * count
    for cell in draft.cells:
        if cell.box is None:
            continue
        lines = cell.rows if axis else cell.columns
        first, last = begins[lines[0]], ends[lines[-1]]
        begins[lines[0]] = cell.box[axis] if first is None else min(first, cell.box[axis])
        ends[lines[-1]] = cell.box[axis + 2] if last is None else max(last, cell.box[axis + 2])
    return begins, ends


def _part_rows(draft: Draft) -> None:
    rows = draft.table.row_boxes
    for place in range(len(rows) - 1):
        upper, lower = rows[place], rows[place + 1]
        shares = share_inside(upper, lower), share_inside(lower, upper)
        if min(shares) <= 0:
            continue
        if max(shares) >= SMALL_OVERLAP:
            draft.rejects["rows intersect"] += 1
            continue
        middle = (upper[3] + lower[1]) / 2
        rows[place] = (*upper[:3], middle)
        rows[place + 1] = (lower[0], middle, *lower[2:])
        draft.fixes["parted rows that overlap a little"] += 1


def read_words(draft: Draft, words: list[Word]) -> bool:
    """Take each cell's text and tight box from the words of which more than half lies in it; whether a box changed."""
    changed = False
    for cell in draft.cells:
        region = cell.region
        inside = [word for word in words if region is not None and share_inside(word.box, region) > HALF]
        if "".join(word.text for word in inside).endswith(".."):
            while inside and not inside[-1].text.strip("."):
                draft.fixes["removed dots from text cell"] += 1
                inside.pop()
        text = " ".join(word.text for word in inside).replace(" .", ".").replace(" ,", ",")
        if text.endswith(".."):
            draft.rejects["dots retained"] += 1
        cell.words_text = text
        box = around(word.box for word in inside)
        if box is not None and box != cell.box:
            cell.box, changed = box, True
    return changed


def settle(draft: Draft, *, part_rows: bool, read: bool) -> Box | None:
    """Boxes and words in turn until neither changes; the table's box.

    Args:
        part_rows: as of `place_grid`.
        read: take texts and boxes from the page's words, where they are known.
    """
    words = page_words(draft) if read else []
    whole = None
    for _ in range(ROUNDS):
        whole = place_grid(draft, part_rows=part_rows)
        if whole is None or not words or not read_words(draft, words):
            return whole
    draft.rejects["runaway text adjustment"] += 1
    return whole


def page_words(draft: Draft) -> list[Word]:
    """Words with an area, on the page."""
    words = [word for word in draft.table.words or () if area(word.box) > 0]
    if draft.table.page is None:
        return words
    page = (0.0, 0.0, *draft.table.page)
    return [word for word in words if shared_area(word.box, page) >= area(word.box) * (1 - 1e-6)]


def judge_boxes(draft: Draft, whole: Box, *, strict: bool) -> None:
    """Reasons to reject that boxes and words give.

    Args:
        strict: also rows and columns that intersect, and annotated texts that differ from the words of the page.
    """
    words = page_words(draft)
    regions = [cell.region for cell in draft.cells if cell.region is not None]
    if any(sum(share_inside(word.box, region) >= HALF for region in regions) > 1 for word in words):
        draft.rejects["overlapping cells"] += 1
    inside = [word for word in words if word.text != "." and share_inside(word.box, whole) >= HALF]
    fits = [max(share_inside(word.box, region) for region in regions) for word in inside]
    if fits and statistics.fmean(fits) < FIT:
        draft.rejects["poor text cell fit"] += 1
    page = (0.0, 0.0, *draft.table.page) if draft.table.page else None
    for region in regions:
        outside = page is not None and shared_area(region, page) < area(region) * (1 - 1e-6)
        if area(region) == 0 or outside or shared_area(region, whole) < area(region) * (1 - 1e-6):
            draft.rejects["bad cell box"] += 1
    if area(whole) == 0 or (page is not None and shared_area(whole, page) < area(whole) * (1 - 1e-6)):
        draft.rejects["bad table box"] += 1
    if strict:
        _judge_strictly(draft)


def _judge_strictly(draft: Draft) -> None:
    table = draft.table
    for name, boxes, axis in (("rows", table.row_boxes, 1), ("columns", table.column_boxes, 0)):
        if any(one[axis + 2] > other[axis] + 1 for one, other in pairwise(boxes)):
            draft.rejects[f"{name} intersect"] += 1
    distances = [_distance(cell.text, cell.words_text) for cell in draft.cells if cell.words_text is not None]
    if distances and statistics.fmean(distances) > DIFFERENT_TEXT:
        draft.rejects["text differs from the page"] += 1


def _distance(annotated: str, read: str) -> float:
    """Edit distance without spaces and dots at the ends, by the longer text."""
    from coalign.core.extras import require

    one, other = ("".join(text.split()).strip(".") for text in (annotated, read))
    return require("rapidfuzz.distance", "tables").Levenshtein.normalized_distance(one, other)


def close_gaps(draft: Draft) -> None:
    """Let neighbouring rows and columns meet in the middle of the gap between them."""
    table = draft.table
    table.row_boxes = _closed(table.row_boxes, 1)
    table.column_boxes = _closed(table.column_boxes, 0)
    set_regions(draft.cells, table.row_boxes, table.column_boxes)


def _closed(boxes: list[Box], axis: int) -> list[Box]:
    found = [list(box) for box in boxes]
    for one, other in pairwise(found):
        one[axis + 2] = other[axis] = (one[axis + 2] + other[axis]) / 2
    return [(box[0], box[1], box[2], box[3]) for box in found]
