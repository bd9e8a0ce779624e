"""Tables are read from every format, written and read back; what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data.messages import FieldError
from coalign.data.tables.html_tables import cells_of_html, to_html
from coalign.data.tables.readers import read_tables
from coalign.data.tables.table import Cell, Table, Word, to_row
from coalign.data.tables.writers import write_tables


def shape(cells: list[Cell]) -> list[tuple[list[int], list[int], str, bool]]:
    return [(cell.rows, cell.columns, cell.text, cell.header) for cell in cells]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_html_with_spans_groups_and_missing_end_tags() -> None:
    (cells,) = cells_of_html(
        "<p>x<table><thead><tr><th rowspan=2>A<th colspan=2>B &amp; C<tr><td>b<td>c</thead>"
        "<tbody><tr><td>1,000<td>007<td>5<sup>a</sup></table>"
    )
    assert shape(cells) == [
        ([0, 1], [0], "A", True),
        ([0], [1, 2], "B & C", True),
        ([1], [1], "b", True),
        ([1], [2], "c", True),
        ([2], [0], "1,000", False),
        ([2], [1], "007", False),
        ([2], [2], "5 a", False),
    ]


def test_html_row_headers_are_no_column_headers_and_spans_of_0_reach_to_the_end_of_their_group() -> None:
    (cells,) = cells_of_html(
        '<table><tbody><tr><th scope="row" rowspan="0">A</th><td colspan="0">1</td></tr><tr><td>2</td></tr></tbody>'
        "<tbody><tr><td>B</td><td>3</td></tr></tbody></table>"
    )
    assert shape(cells)[0] == ([0, 1], [0], "A", False)
    assert [cell.columns for cell in cells] == [[0], [1], [1], [0], [1]]


def test_a_table_inside_a_cell_is_text_of_the_cell() -> None:
    found = cells_of_html("<table><tr><td>a<table><tr><td>b</td></tr></table></td><td>c</td></tr></table>")
    assert [shape(cells) for cells in found] == [[([0], [0], "a b", False), ([0], [1], "c", False)]]


@pytest.mark.parametrize("span", ["x", "-1", "70000"])
def test_a_span_that_is_no_number_of_places_is_named(span: str) -> None:
    with pytest.raises(FieldError, match="rowspan"):
        cells_of_html(f'<table><tr><td rowspan="{span}">a</td></tr></table>')


def test_cells_as_html_and_back() -> None:
    cells = [
        Cell([0, 1], [0], "a <b>", header=True),
        Cell([0], [1, 2], "&", header=True),
        Cell([1], [1], "c", header=True),
        Cell([1], [2], "", header=True),
        Cell([2], [0], "d"),
        Cell([2], [2], "e"),
    ]
    (back,) = cells_of_html(to_html(Table("t", cells)))
    assert shape(back) == [*shape(cells[:5]), ([2], [1], "", False), ([2], [2], "e", False)]


def test_rows_of_pubtabnet_and_fintabnet(tmp_path: Path) -> None:
    html = {
        "structure": {"tokens": ["<thead>", "<tr>", "<td", ' colspan="2"', ">", "</td>", "</tr>", "</thead>", "<tbody>",
                                 "<tr>", "<td>", "</td>", "<td>", "</td>", "</tr>", "</tbody>"]},
        "cells": [{"tokens": ["<b>", "A", "</b>"], "bbox": [0, 90, 20, 100]}, {"tokens": ["x", "<i>", "1", "</i>"]}, {"tokens": []}],
    }  # fmt: skip
    path = write(
        tmp_path / "x.jsonl",
        {"filename": "one.png", "html": html},
        {"filename": "a/b.pdf", "table_id": 7, "html": html},
    )
    one, other = read_tables(path).tables
    assert (one.id, other.id) == ("one.png", "a/b-7")
    assert shape(one.cells) == [([0], [0, 1], "A", True), ([1], [0], "x 1", False), ([1], [1], "", False)]
    assert one.cells[0].box == (0, 90, 20, 100)
    assert other.cells[0].box == (0, 0, 20, 10), "points from below"
    assert (other.source, other.line) == (str(path), 2)


def icdar(cells: str) -> str:
    return f"<document><table id='1'><region id='1' page='2'>{cells}</region></table></document>"


CELL = "<cell id='1' start-row='{}' start-col='{}' {}><bounding-box x1='10' y1='{}' x2='30' y2='{}'/><content>{}</content></cell>"


def test_structure_files_of_icdar_2013(tmp_path: Path) -> None:
    cells = CELL.format(-1, 0, "end-col='1'", 80, 90, "A &amp; B") + CELL.format(0, 1, "", 60, 70, "c\nd")
    (tmp_path / "eu-1-str.xml").write_text(icdar(cells))
    (tmp_path / "eu-1-reg.xml").write_text("<document/>")
    found = read_tables(tmp_path)
    (table,) = found.tables
    assert table.id == "eu-1-0"
    assert shape(table.cells) == [([0], [0, 1], "A & B", False), ([1], [1], "c d", False)]
    assert table.cells[0].box == (10, 0, 30, 10)
    assert found.notes == {"counted from below 0": 1}
    assert table.holes() == [(1, 0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<document><table>", "not well-formed"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY e "boom">]><document>&e;</document>', "refused"),
        ("a.xml", "<other/>", "the root <other>"),
        ("a.xml", icdar(CELL.format("x", 0, "", 1, 2, "")), "start-row"),
        ("a.xml", icdar(CELL.format(3, 0, "end-row='1'", 1, 2, "")), "before start-row"),
        ("a.xml", "<annotation><object><name>chair</name></object></annotation>", "the class 'chair'"),
        ("a.xml", "<annotation></annotation>", "no table row"),
        ("a.html", "<p>nothing</p>", "no <table>"),
        ("a.json", "{", "cannot be read"),
        ("a.jsonl", '{"cells": 3}', "cells"),
        ("a.jsonl", '{"cells": [{"row_nums": [0, 2], "column_nums": [0]}]}', "without a gap"),
        ("a.jsonl", '{"cells": [{"row_nums": [0], "column_nums": [0], "bbox": [1, 2, 3]}]}', "four numbers"),
        ("a.jsonl", '{"cells": [{"row_nums": [0], "column_nums": [300000]}]}', "at most 200000 places"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as raised:
        read_tables(tmp_path / name)
    assert message in str(raised.value) + " ".join(map(str, raised.value.problems))
    assert name in str(raised.value)


def test_with_skip_the_others_are_read_and_nothing_is_lost(tmp_path: Path) -> None:
    good = to_row(Table("good", [Cell([0], [0], "a")]))
    found = read_tables(write(tmp_path / "x.jsonl", good, {"odd": 1}, {"cells": [3]}), on_bad_record="skip")
    assert [one.id for one in found.tables] == ["good"]
    assert [one.line for one in found.problems] == [2, 3]


def test_tables_of_the_same_name_have_ids_of_their_own(tmp_path: Path) -> None:
    row = to_row(Table("same", [Cell([0], [0], "a")]))
    assert [one.id for one in read_tables(write(tmp_path / "x.jsonl", row, row)).tables] == ["same", "same-2"]


def placed() -> Table:
    """Two columns and three rows; a spanning header, a projected row header."""
    cells = [
        Cell([0], [0, 1], "Head", header=True),
        Cell([1], [0, 1], "Part", projected=True),
        Cell([2], [0], "a"),
        Cell([2], [1], "b"),
    ]
    table = Table("one/two", cells, page=(220.0, 120.0), split="train")
    table.row_boxes = [(50.0, 40.0, 150.0, 50.0), (50.0, 50.0, 150.0, 60.0), (50.0, 60.0, 150.0, 70.0)]
    table.column_boxes = [(50.0, 40.0, 100.0, 70.0), (100.0, 40.0, 150.0, 70.0)]
    for cell in cells:
        cell.region = (
            table.column_boxes[cell.columns[0]][0], table.row_boxes[cell.rows[0]][1],
            table.column_boxes[cell.columns[-1]][2], table.row_boxes[cell.rows[-1]][3],
        )  # fmt: skip
        x, y = cell.region[:2]
        cell.box = (x + 2, y + 2, x + 20, y + 8)
    table.words = [Word(cell.text, cell.box) for cell in cells if cell.box]
    return table


def test_pascal_voc_with_words_and_picture_and_back(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (220, 120), "white").save(tmp_path / "page.png")
    table = placed()
    table.picture = tmp_path / "page.png"
    counts = write_tables([table], tmp_path / "out", ["voc", "html", "jsonl"])
    assert counts == {"voc": 1, "html": 1, "jsonl": 1}
    (back,) = read_tables(tmp_path / "out" / "voc").tables
    assert [(cell.rows, cell.columns, cell.text, cell.header, cell.projected) for cell in back.cells] == [
        (cell.rows, cell.columns, cell.text, cell.header, cell.projected) for cell in table.cells
    ]
    assert back.row_boxes[0] == (30.0, 30.0, 130.0, 40.0), "30 pixels around the table"
    assert back.picture is not None
    assert image.open(back.picture).size == (160, 90)
    assert back.split == "train"
    assert back.page == (160.0, 90.0)


def test_rows_of_json_and_back(tmp_path: Path) -> None:
    table = placed()
    write_tables([table], tmp_path, ["jsonl"])
    (back,) = read_tables(tmp_path / "tables.jsonl").tables
    assert to_row(back) == to_row(table)


def test_a_table_without_boxes_has_no_pascal_voc_form(tmp_path: Path) -> None:
    assert write_tables([Table("a", [Cell([0], [0], "x")])], tmp_path, ["voc"]) == {"voc": 0}


def test_a_spanning_cell_without_places_of_its_own_is_counted(tmp_path: Path) -> None:
    write_tables([placed()], tmp_path, ["voc"])
    path = next((tmp_path / "voc").rglob("*.xml"))
    text = path.read_text()
    start = text.index("<object>", text.index("table projected row header") - 40)
    twice = text[start : text.index("</object>", start) + len("</object>")]
    path.write_text(text.replace("</annotation>", twice + "</annotation>"))
    found = read_tables(path)
    assert found.notes == {"spanning cell without places of its own": 1}
    assert not found.tables[0].overlaps()
