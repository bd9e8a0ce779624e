"""Tables to files: JSON rows, HTML, and PASCAL VOC with the words and the picture beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from coalign.core.files import atomic_path, write_rows, write_text
from coalign.data.media.pictures import open_picture
from coalign.data.tables.html_tables import to_html
from coalign.data.tables.table import Box, Table, area, around, share_inside, to_row

Format = Literal["jsonl", "html", "voc"]
FORMATS: tuple[str, ...] = get_args(Format)
_MOST_SIDE = 1000
"""Larger pictures of pages are made so large. Source: the official scripts."""
_WORD_SHARE = 0.75


def write_tables(
    tables: Iterable[Table], folder: Path, formats: Iterable[Format], *, paddings: tuple[int, int] = (30, 5)
) -> dict[str, int]:
    """Write tables in several formats.

    `jsonl` is one file `tables.jsonl`, `html` a file a table, `voc` the layout of PubTables-1M: `SPLIT/ID.xml`,
    `words/ID_words.json`, and `images/ID.jpg` where the picture of the page is known.

    Args:
        paddings: pixels around a table, of the train split and of the others.

    Returns:
        Format to the tables that were written; a table without boxes has no PASCAL VOC form.
    """
    tables = [*tables]
    counts: dict[str, int] = {}
    for name in formats:
        if name == "jsonl":
            write_rows(folder / "tables.jsonl", map(to_row, tables))
            counts[name] = len(tables)
        elif name == "html":
            for table in tables:
                write_text(folder / "html" / f"{_file_name(table)}.html", to_html(table) + "\n")
            counts[name] = len(tables)
        else:
            counts[name] = sum(write_voc(table, folder / "voc", paddings) for table in tables)
    return counts


def _file_name(table: Table) -> str:
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in table.id)


def objects(table: Table) -> Iterator[tuple[str, Box]]:
    """Classes and boxes of a table whose rows, columns and cells have boxes; blank spanning cells are none."""
    whole = around([*table.row_boxes, *table.column_boxes])
    if whole is not None:
        yield "table", whole
    for cell in table.cells:
        if cell.region is not None and cell.projected:
            yield "table projected row header", cell.region
        elif cell.region is not None and cell.spans and not cell.blank:
            yield "table spanning cell", cell.region
    header = around(cell.region for cell in table.cells if cell.header)
    if header is not None:
        yield "table column header", header
    yield from (("table row", box) for box in table.row_boxes)
    yield from (("table column", box) for box in table.column_boxes)


def write_voc(table: Table, folder: Path, paddings: tuple[int, int] = (30, 5)) -> bool:
    """Write a table as PASCAL VOC, cut out of its page with some padding; False where it has no boxes.

    Raises:
        MediaError: the picture of the page cannot be read.
    """
    if not table.row_boxes or not table.column_boxes:
        return False
    name, padding = _file_name(table), paddings[0] if table.split == "train" else paddings[1]
    found = [*objects(table)]
    whole = found[0][1]
    picture = open_picture(table.picture) if table.picture is not None else None
    page = table.page or (picture.size if picture is not None else None)
    scale = (
        min(_MOST_SIDE, max(picture.size)) / max(page) if picture is not None and page is not None else 1.0
    )
    frame = [round(scale * edge) for edge in whole]
    frame = [frame[0] - padding, frame[1] - padding, frame[2] + padding, frame[3] + padding]
    if page is not None:
        limit = [round(scale * side) for side in page]
        frame = [max(0, frame[0]), max(0, frame[1]), min(limit[0], frame[2]), min(limit[1], frame[3])]
    size = frame[2] - frame[0], frame[3] - frame[1]

    def placed(box: Box) -> Box:
        x0, y0, x1, y1 = (scale * edge for edge in box)
        return (
            max(0.0, x0 - frame[0]),
            max(0.0, y0 - frame[1]),
            min(float(size[0]), x1 - frame[0]),
            min(float(size[1]), y1 - frame[1]),
        )

    boxes = [(label, placed(box)) for label, box in found]
    write_text(folder / (table.split or "tables") / f"{name}.xml", _xml(name, size, boxes))
    if table.words is not None:
        window = tuple(edge / scale for edge in frame)
        words = [
            {"text": word.text, "bbox": [round(edge, 5) for edge in placed(word.box)]}
            for word in table.words
            if area(word.box) > 0 and share_inside(word.box, window) > _WORD_SHARE
        ]
        write_text(folder / "words" / f"{name}_words.json", json.dumps(words, ensure_ascii=False) + "\n")
    if picture is not None and page is not None:
        whole_page = picture.resize((round(scale * page[0]), round(scale * page[1])))
        target = folder / "images" / f"{name}.jpg"
        with atomic_path(target) as path:
            whole_page.crop((frame[0], frame[1], frame[2], frame[3])).save(path, format="JPEG", quality=92)
    return True


def _xml(name: str, size: tuple[int, int], boxes: list[tuple[str, Box]]) -> str:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "")
    _add(root, "filename", f"{name}.jpg")
    _add(root, "path", f"{name}.jpg")
    _add(ElementTree.SubElement(root, "source"), "database", "coalign")
    sizes = ElementTree.SubElement(root, "size")
    for key, value in (("width", size[0]), ("height", size[1]), ("depth", 3)):
        _add(sizes, key, value)
    _add(root, "segmented", 0)
    for label, box in boxes:
        one = ElementTree.SubElement(root, "object")
        fields = (("name", label), ("pose", "Frontal"), ("truncated", 0), ("difficult", 0), ("occluded", 0))
        for key, value in fields:
            _add(one, key, value)
        frame = ElementTree.SubElement(one, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            _add(frame, key, round(value, 4))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, name: str, value: Any) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
