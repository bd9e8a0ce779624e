"""Tables in XML: the structure files of ICDAR-2013, and boxes in PASCAL VOC form with a file of words beside them.

ICDAR-2013   `document/table/region/cell` with `start-row`, `start-col`, sometimes `end-row`, `end-col`, a bounding box
             in points from the lower left corner, and `content`; a region is a table here
PASCAL VOC   objects `table`, `table row`, `table column`, `table column header`, `table projected row header`, `table
             spanning cell` of a picture, as PubTables-1M, FinTabNet.c and ICDAR-2013.c have them; words stand in
             `NAME_words.json`

XML is read by defusedxml, which refuses entities and what they would load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from coalign.core.extras import require
from coalign.core.files import parse_json
from coalign.data.messages import FieldError
from coalign.data.tables.json_tables import flip_all, listed, word_of
from coalign.data.tables.table import MOST_PLACES, Box, Cell, Table, Word, around, set_regions, share_inside

CLASSES = (
    "table",
    "table column",
    "table row",
    "table column header",
    "table projected row header",
    "table spanning cell",
)
_HALF = 0.5


def parse_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        FieldError: it is not well-formed, or has entities.
        MissingExtraError: defusedxml is not installed.
    """
    parser = require("defusedxml.ElementTree", "tables")
    errors = require("defusedxml", "tables").DefusedXmlException
    try:
        return parser.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise FieldError(f"not well-formed ({error})", "XML", "file") from error
    except (errors, ValueError, UnicodeError, LookupError) as error:
        raise FieldError(f"refused ({error})", "XML in UTF-8 without entities", "file") from error


def icdar_tables(root: Element, name: str) -> Iterator[tuple[Table | None, FieldError | None]]:
    """The regions of an ICDAR-2013 structure file, each as a table or as what is wrong with it.

    They are numbered through the file, as the published scripts do. A region on another page than the one before it of
    the same table has the column `continued`.
    """
    number = 0
    for table in root.iter("table"):
        before = None
        for region in table.iter("region"):
            try:
                found = _region(region, f"{name}-{number}")
            except FieldError as error:
                yield None, FieldError(error.problem, error.expected, f"region {number}: {error.field}")
            else:
                if before is not None and before != region.get("page"):
                    found.extra["continued"] = True
                yield found, None
            number, before = number + 1, region.get("page")


def _region(region: Element, name: str) -> Table:
    cells = [_icdar_cell(cell) for cell in region.iter("cell")]
    notes: Counter[str] = Counter()
    first = (
        min((cell.rows[0] for cell in cells), default=0),
        min((cell.columns[0] for cell in cells), default=0),
    )
    if min(first) < 0:
        notes["counted from below 0"] += 1
        for cell in cells:
            cell.rows = [row - min(first[0], 0) for row in cell.rows]
            cell.columns = [column - min(first[1], 0) for column in cell.columns]
    flip_all(cells, None)
    extra: dict[str, Any] = {"page_number": region.get("page")} if region.get("page") else {}
    return Table(name, cells, notes=notes, extra=extra)


def _icdar_cell(cell: Element) -> Cell:
    rows, columns = (_range(cell, axis) for axis in ("row", "col"))
    if len(rows) * len(columns) > MOST_PLACES:
        raise FieldError(
            f"a cell of {len(rows)} rows and {len(columns)} columns", f"at most {MOST_PLACES} places", "cell"
        )
    content, box = cell.find("content"), cell.find("bounding-box")
    text = " ".join((content.text or "").split()) if content is not None else ""
    if box is None:
        return Cell(rows, columns, text)
    x0, y0, x1, y1 = (_number(box, side) for side in ("x1", "y1", "x2", "y2"))
    return Cell(rows, columns, text, (x0, y0, x1, y1))


def _range(cell: Element, axis: str) -> list[int]:
    first = int(_number(cell, f"start-{axis}"))
    last = int(_number(cell, f"end-{axis}")) if cell.get(f"end-{axis}") is not None else first
    if last < first:
        raise FieldError(
            f"end-{axis}={last} before start-{axis}={first}",
            "an end at or after the start",
            f"cell {cell.get('id')}",
        )
    return [*range(first, last + 1)]


def _number(element: Element, name: str) -> float:
    try:
        return float(element.get(name) or "")
    except ValueError as error:
        raise FieldError(f"{element.get(name)!r}", "a number", f"{element.tag}.{name}") from error


def voc_table(root: Element, path: Path) -> Table:
    """The table of a PASCAL VOC file, with the words beside it.

    Raises:
        FieldError: no rows or columns, a class or box that cannot be used, words that cannot be read.
    """
    boxes: dict[str, list[Box]] = {name: [] for name in CLASSES}
    for one in root.iter("object"):
        label = (one.findtext("name") or "").strip()
        if label not in boxes:
            raise FieldError(f"the class {label!r}", "one of: " + ", ".join(CLASSES), "object.name")
        frame = one.find("bndbox")
        if frame is None:
            raise FieldError("missing", "xmin, ymin, xmax, ymax", "object.bndbox")
        x0, y0, x1, y1 = (_text_number(frame, side) for side in ("xmin", "ymin", "xmax", "ymax"))
        boxes[label].append((x0, y0, x1, y1))
    rows = sorted(boxes["table row"], key=lambda box: box[1] + box[3])
    columns = sorted(boxes["table column"], key=lambda box: box[0] + box[2])
    missing = [name for name, found in (("table row", rows), ("table column", columns)) if not found]
    if missing:
        raise FieldError(f"no {missing[0]}", "rows and columns", "object.name")
    size = root.find("size")
    page = (_text_number(size, "width"), _text_number(size, "height")) if size is not None else None
    notes: Counter[str] = Counter()
    spans = [(box, True) for box in boxes["table projected row header"]]
    spans += [(box, False) for box in boxes["table spanning cell"]]
    cells = _grid_cells(rows, columns, spans, notes)
    for header in boxes["table column header"]:
        inside = {place for place, row in enumerate(rows) if _inside(row, header, 1)}
        for cell in cells:
            cell.header = cell.header or {*cell.rows} <= inside
    table = Table(path.stem, cells, page=page, row_boxes=rows, column_boxes=columns, notes=notes)
    table.words = read_words(words_path(path))
    if table.words is not None:
        place_words(table)
    picture = _picture(root, path)
    table.picture = picture if picture is not None and picture.exists() else None
    table.split = path.parent.name if path.parent.name in ("train", "val", "test") else ""
    return table


def _text_number(parent: Element, name: str) -> float:
    try:
        return float(parent.findtext(name) or "")
    except ValueError as error:
        raise FieldError(f"{parent.findtext(name)!r}", "a number", name) from error


def _inside(one: Box, other: Box, axis: int) -> bool:
    """Whether at least half of a box lies in another, along one axis (0: x, 1: y)."""
    length = one[axis + 2] - one[axis]
    return (
        length > 0 and (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis])) / length >= _HALF
    )


def _grid_cells(
    rows: list[Box], columns: list[Box], spans: list[tuple[Box, bool]], notes: Counter[str]
) -> list[Cell]:
    """Cells of a grid of rows and columns; a spanning cell takes the rows and columns that lie half inside it.

    One whose places another has taken is left out, and counted.
    """
    cells: list[Cell] = []
    taken: set[tuple[int, int]] = set()
    for box, projected in spans:
        across = [place for place, row in enumerate(rows) if _inside(row, box, 1)]
        down = [place for place, column in enumerate(columns) if _inside(column, box, 0)]
        cell = Cell(across, down, projected=projected)
        if not across or not down or taken & {*cell.places}:
            notes["spanning cell without places of its own"] += 1
            continue
        taken |= {*cell.places}
        cells.append(cell)
    cells += [
        Cell([row], [column])
        for row in range(len(rows))
        for column in range(len(columns))
        if (row, column) not in taken
    ]
    set_regions(cells, rows, columns)
    return sorted(cells, key=lambda cell: (cell.rows[0], cell.columns[0]))


def place_words(table: Table) -> None:
    """Give each word to the cell that holds most of it, and at least half; cells get their text and tight box."""
    by_cell: dict[int, list[Word]] = {}
    for word in table.words or ():
        shares = [share_inside(word.box, cell.region) if cell.region else 0.0 for cell in table.cells]
        best = max(range(len(shares)), key=shares.__getitem__, default=None)
        if best is None or shares[best] < _HALF:
            whole = around([*table.row_boxes, *table.column_boxes])
            if whole is not None and share_inside(word.box, whole) >= _HALF:
                table.notes["word in no cell"] += 1
            continue
        by_cell.setdefault(best, []).append(word)
    for place, cell in enumerate(table.cells):
        found = by_cell.get(place, [])
        cell.text = " ".join(word.text for word in found)
        cell.box = around(word.box for word in found)


def words_path(path: Path) -> Path:
    """Where the words of a PASCAL VOC file are: beside it, or in the folder of words that the public sets have."""
    name = f"{path.stem}_words.json"
    known = [path.with_name(name), path.parent / "words" / name, path.parent.parent / "words" / name]
    return next((one for one in known if one.exists()), known[0])


def read_words(path: Path) -> list[Word] | None:
    """The words of a file, a list of `text` and `bbox`, or None where there is none.

    Raises:
        FieldError: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FieldError(f"{path.name} cannot be read ({error})", "a JSON list of words", "words") from error
    return [word_of(one) for one in listed(value, "words")]


def _picture(root: Element, path: Path) -> Path | None:
    name = (root.findtext("filename") or "").strip()
    folders = (path.parent, path.parent / "images", path.parent.parent / "images")
    return next((one / name for one in folders if name and (one / name).is_file()), None)
