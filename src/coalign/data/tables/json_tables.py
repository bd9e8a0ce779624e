"""Tables in JSON rows.

cells        `cells`, a list of `row_nums`, `column_nums`, text (`text`, `cell_text`, `json_text_content`,
             `pdf_text_content`, `xml_text_content`, `text_content`), box (`bbox`, `pdf_text_tight_bbox`), and flags
             `is_column_header`, `is_projected_row_header`: what coalign writes, the annotations of PubTables-1M, and
             what the published GriTS code reads
PubTabNet    `html.structure.tokens` and `html.cells`, each with `tokens` and mostly `bbox`; FinTabNet has the same,
             with boxes in points from the lower left corner
HTML         `html`, a text with one table or more
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coalign.data.messages import FieldError, describe
from coalign.data.tables.html_tables import cells_of_html
from coalign.data.tables.table import Box, Cell, Table, Word

TEXT_NAMES = (
    "text",
    "cell_text",
    "json_text_content",
    "pdf_text_content",
    "xml_text_content",
    "text_content",
)
BOX_NAMES = ("bbox", "pdf_text_tight_bbox", "box")
_READ = frozenset(
    (
        "id",
        "cells",
        "rows",
        "columns",
        "words",
        "page",
        "picture",
        "split",
        "row_boxes",
        "column_boxes",
        "html",
        "structure_id",
    )
)
_TAGS = {
    "<i>": " ",
    "</i>": " ",
    "<sup>": " ",
    "</sup>": " ",
    "<sub>": " ",
    "</sub>": " ",
    "<b>": "",
    "</b>": "",
}


def tables_of_row(row: Mapping[str, Any], name: str, folder: Path) -> Iterator[Table]:
    """The tables of one row: one, or several where `html` holds several.

    Args:
        name: id of a table whose row has none.
        folder: what relative paths of pictures are relative to.

    Raises:
        FieldError: a field that cannot be used.
    """
    page = row.get("page")
    common: dict[str, Any] = {
        "words": [word_of(one) for one in listed(row["words"], "words")]
        if row.get("words") is not None
        else None,
        "page": _size(page) if page is not None else None,
        "split": str(row.get("split") or ""),
        "picture": folder / str(row["picture"]) if row.get("picture") else None,
        "extra": {key: value for key, value in row.items() if key not in _READ},
    }
    name = str(row.get("id") or row.get("structure_id") or row.get("filename") or name)
    if isinstance(row.get("html"), Mapping):
        yield _annotated(row["html"], row, name, common)
    elif isinstance(row.get("html"), str):
        found = cells_of_html(row["html"])
        if not found:
            raise FieldError("no <table>", "HTML with a table", "html")
        for place, cells in enumerate(found):
            yield Table(name if len(found) == 1 else f"{name}-{place}", cells, **common)
    elif "cells" in row:
        cells = [_cell(one) for one in listed(row["cells"], "cells")]
        table = Table(
            name,
            cells,
            **common,
            row_boxes=_boxes(row, "row_boxes"),
            column_boxes=_boxes(row, "column_boxes"),
        )
        _mark_rows(table, row.get("rows"))
        yield table
    else:
        raise FieldError("missing", "`cells`, or `html`", "cells")


def listed(value: Any, field: str) -> list[Any]:
    """The value, which must be a list.

    Raises:
        FieldError: it is not.
    """
    if not isinstance(value, list):
        raise FieldError(describe(value), "a list", field)
    return value


def box_of(value: Any, field: str) -> Box | None:
    """A box, or None where it is missing or empty.

    Raises:
        FieldError: not four finite numbers.
    """
    if value is None or (isinstance(value, list | tuple) and not len(value)):
        return None
    numbers = value if isinstance(value, list | tuple) else []
    if len(numbers) != 4 or not all(_finite(one) for one in numbers):
        raise FieldError(describe(value), "four numbers x0, y0, x1, y1, or none", field)
    x0, y0, x1, y1 = map(float, numbers)
    return x0, y0, x1, y1


def _boxes(row: Mapping[str, Any], field: str) -> list[Box]:
    found = (box_of(one, field) for one in listed(row.get(field) or [], field))
    return [box for box in found if box is not None]


def word_of(value: Any) -> Word:
    """A word of a words file: `text` and `bbox`.

    Raises:
        FieldError: one of them is missing or cannot be used.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        raise FieldError(describe(value), "a mapping with `text` and `bbox`", "words")
    box = box_of(value.get("bbox"), "words.bbox")
    if box is None:
        raise FieldError("missing", "four numbers x0, y0, x1, y1", "words.bbox")
    return Word(value["text"], box)


def flipped(box: Box, height: float) -> Box:
    """A box from the lower left corner of a page as one from the upper left."""
    return box[0], height - box[3], box[2], height - box[1]


def flip_all(cells: list[Cell], height: float | None) -> None:
    """Turn boxes that were measured from below; without the height of the page they begin at the highest cell."""
    boxes = [cell.box for cell in cells if cell.box is not None]
    top = height if height is not None else max((box[3] for box in boxes), default=0.0)
    for cell in cells:
        if cell.box is not None:
            cell.box = flipped(cell.box, top)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(value: Any) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and all(_finite(one) and one > 0 for one in value):
        return float(value[0]), float(value[1])
    raise FieldError(describe(value), "width and height", "page")


def _cell(value: Any) -> Cell:
    if not isinstance(value, Mapping):
        raise FieldError(describe(value), "a mapping with `row_nums` and `column_nums`", "cells")
    text = next((value[name] for name in TEXT_NAMES if value.get(name) is not None), "")
    if not isinstance(text, str):
        raise FieldError(describe(text), "text", "cells.text")
    box = next((value[name] for name in BOX_NAMES if value.get(name)), None)
    words_text = value.get("words_text")
    return Cell(
        _numbers(value.get("row_nums"), "cells.row_nums"),
        _numbers(value.get("column_nums"), "cells.column_nums"),
        text,
        box_of(box, "cells.bbox"),
        header=bool(value.get("is_column_header")),
        projected=bool(value.get("is_projected_row_header")),
        region=box_of(value.get("region"), "cells.region"),
        words_text=words_text if isinstance(words_text, str) else None,
    )


def _numbers(value: Any, field: str) -> list[int]:
    numbers = value if isinstance(value, list) else []
    if not numbers or not all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers
    ):
        raise FieldError(describe(value), "a list of whole numbers from 0", field)
    found = sorted(set(numbers))
    if found != [*range(found[0], found[-1] + 1)]:
        raise FieldError(f"{found}", "numbers without a gap", field)
    return found


def _mark_rows(table: Table, rows: Any) -> None:
    """PubTables-1M says of rows, too, whether they are headers."""
    if isinstance(rows, Mapping):
        flags = {
            int(key): one for key, one in rows.items() if str(key).isdigit() and isinstance(one, Mapping)
        }
        for cell in table.cells:
            known = [flags[row] for row in cell.rows if row in flags]
            cell.header = cell.header or (bool(known) and all(one.get("is_column_header") for one in known))


def _annotated(html: Mapping[str, Any], row: Mapping[str, Any], name: str, common: dict[str, Any]) -> Table:
    """A row of PubTabNet or FinTabNet: structure and texts stand apart."""
    structure = html.get("structure")
    tokens = structure.get("tokens") if isinstance(structure, Mapping) else None
    if not isinstance(tokens, list) or not all(isinstance(one, str) for one in tokens):
        raise FieldError(describe(tokens), "a list of tokens", "html.structure.tokens")
    found = cells_of_html("<table>" + "".join(tokens) + "</table>")
    cells, given = found[0] if found else [], listed(html.get("cells"), "html.cells")
    notes: Counter[str] = Counter()
    if len(cells) != len(given):
        notes["annotation mismatch"] += abs(len(cells) - len(given))
    for cell, one in zip(cells, given, strict=False):
        if not isinstance(one, Mapping):
            raise FieldError(describe(one), "a mapping with `tokens`", "html.cells")
        cell.text = inline_text("".join(map(str, listed(one.get("tokens"), "html.cells.tokens"))))
        cell.box = box_of(one.get("bbox"), "html.cells.bbox")
    if str(row.get("filename", "")).lower().endswith(".pdf"):
        flip_all(cells, common["page"][1] if common["page"] else None)
    name = name if "table_id" not in row else f"{Path(name).with_suffix('')}-{row['table_id']}"
    return Table(name, cells, **common, notes=notes)


def inline_text(text: str) -> str:
    """Text without inline tags: italics and sub- and superscripts part words, bold type does not."""
    for tag, replacement in _TAGS.items():
        text = text.replace(tag, replacement)
    return " ".join(text.split())
