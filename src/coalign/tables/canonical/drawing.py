"""A table as a picture: rows, columns and cells over the page, or on a plain grid where the page is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalign.core.extras import require
from coalign.data.media.pictures import open_picture
from coalign.data.tables.table import Box, Cell, Table, around

if TYPE_CHECKING:
    from PIL import Image

LINE, HEADER, PROJECTED, SPAN, HOLE = (
    (150, 156, 166),
    (205, 222, 245),
    (226, 210, 240),
    (250, 230, 196),
    (236, 236, 236),
)
ROWS, COLUMNS, CELLS = (36, 99, 180), (24, 130, 90), (196, 90, 20)
LEGEND = "Blue: column header. Violet: projected row header. Orange: other cells that span several places. Grey: holes."
_MARGIN, _LINE_HEIGHT, _LETTER = 6, 15, 6
_NARROW, _WIDE = 36, 150
_MOST_LINES = 40


def draw(table: Table) -> Image.Image:
    """The table's structure.

    Raises:
        MediaError: the picture of the page cannot be read.
        MissingExtraError: Pillow is not installed.
    """
    if table.picture is not None and table.has_boxes:
        return _over_page(table)
    return _on_grid(table)


def _over_page(table: Table) -> Image.Image:
    """The page with the boxes of rows, columns and spanning cells."""
    picture = open_picture(table.picture)
    page = table.page or picture.size
    scale = max(picture.size) / max(page)
    colours = [(box, ROWS) for box in table.row_boxes] + [(box, COLUMNS) for box in table.column_boxes]
    for cell in table.cells:
        box = cell.region or cell.box
        if box is not None and (cell.spans or not colours):
            colours.append((box, CELLS))
    pen = require("PIL.ImageDraw", "tables").Draw(picture, "RGBA")
    for cell in table.cells:
        box = cell.region or cell.box
        fill = _fill(cell)
        if box is not None and fill is not None:
            pen.rectangle(_scaled(box, scale), fill=(*fill, 110))
    for box, colour in colours:
        pen.rectangle(_scaled(box, scale), outline=colour, width=2)
    whole = around(box for box, _ in colours)
    if whole is None:
        return picture
    x0, y0, x1, y1 = _scaled(whole, scale)
    return picture.crop(
        (
            max(x0 - _MARGIN, 0),
            max(y0 - _MARGIN, 0),
            min(x1 + _MARGIN, picture.width),
            min(y1 + _MARGIN, picture.height),
        )
    )


def _scaled(box: Box, scale: float) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (round(scale * edge) for edge in box)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _fill(cell: Cell) -> tuple[int, int, int] | None:
    return (
        HEADER
        if cell.header
        else PROJECTED
        if cell.projected
        else SPAN
        if cell.spans and not cell.blank
        else None
    )


def _on_grid(table: Table) -> Image.Image:
    """A plain grid; columns are as wide as their texts, within bounds; long tables are cut."""
    image: Any = require("PIL.Image", "tables")
    rows, columns = min(table.n_rows, _MOST_LINES), min(table.n_columns, _MOST_LINES)
    widths = [_NARROW] * columns
    for cell in table.cells:
        if len(cell.columns) == 1 and cell.columns[0] < columns:
            width = min(_LETTER * len(cell.text) + 2 * _MARGIN, _WIDE)
            widths[cell.columns[0]] = max(widths[cell.columns[0]], width)
    x = [_MARGIN]
    for width in widths:
        x.append(x[-1] + width)
    y = [_MARGIN + (_LINE_HEIGHT + 3) * row for row in range(rows + 1)]
    picture = image.new("RGB", (x[-1] + _MARGIN, y[-1] + _MARGIN), (255, 255, 255))
    pen = require("PIL.ImageDraw", "tables").Draw(picture)
    font = require("PIL.ImageFont", "tables").load_default(size=11)
    pen.rectangle((x[0], y[0], x[-1], y[-1]), fill=HOLE)
    for cell in table.cells:
        if not cell.rows or not cell.columns or cell.rows[0] >= rows or cell.columns[0] >= columns:
            continue
        right, bottom = min(cell.columns[-1] + 1, columns), min(cell.rows[-1] + 1, rows)
        frame = (x[cell.columns[0]], y[cell.rows[0]], x[right], y[bottom])
        pen.rectangle(frame, fill=_fill(cell) or (255, 255, 255), outline=LINE)
        room = max((frame[2] - frame[0] - _MARGIN) // _LETTER, 1)
        text = cell.text if len(cell.text) <= room else cell.text[: room - 1] + "…"
        pen.text(
            (frame[0] + 3, (frame[1] + frame[3]) // 2 - _LINE_HEIGHT // 2 + 1),
            text,
            fill=(30, 30, 30),
            font=font,
        )
    return picture
