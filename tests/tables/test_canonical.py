"""Each fix can be switched off, each reject has its reason, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.checks.papers.tables.tsr_alignment import structure
from coalign.checks.worlds.annotated_tables import exact_share, printed_tables, train_reader
from coalign.core.errors import ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.data.tables.table import Cell, Table, Word, to_row
from coalign.tables.canonical.align import Aligned, Aligner, Fixes
from coalign.tables.canonical.draft import Draft
from tests.cli.conftest import coalign as coalign
from tests.contract.tabled import table as row_of_table

Spans = dict[tuple[int, int], tuple[int, int]]


def grid(*lines: str, spans: Spans | None = None) -> Table:
    """A table from lines of texts between bars; `spans`: place to rows and columns of its cell."""
    spans = spans or {}
    covered = {
        (row + down, column + right)
        for (row, column), (rows, columns) in spans.items()
        for down in range(rows)
        for right in range(columns)
        if down or right
    }
    cells = []
    for row, line in enumerate(lines):
        for column, text in enumerate(line.split("|")):
            if (row, column) not in covered:
                rows, columns = spans.get((row, column), (1, 1))
                cells.append(
                    Cell([*range(row, row + rows)], [*range(column, column + columns)], text.strip())
                )
    return Table("t", cells)


def align(table: Table, **options: Any) -> Aligned:
    return Aligner(build(Fixes, options))(table)


def lines(table: Table) -> list[str]:
    """Rows as texts; a cell's text stands at its first place, `<` and `^` at the others."""
    at = {place: cell for cell in table.cells for place in cell.places}

    def shown(row: int, column: int) -> str:
        cell = at[row, column]
        return cell.text if (row, column) == cell.places[0] else "<" if column > cell.columns[0] else "^"

    return ["|".join(shown(row, column) for column in range(table.n_columns)) for row in range(table.n_rows)]


HEADED = ("|2021|", "|Q1|Q2", "Cash|10|11", "Loans|12|13")
GROUPED = ("Group|Name|Value", "x|abc|10", "|bcd|11", "y|cde|12", "|def|13")


def test_the_fixes_in_their_order() -> None:
    found = align(grid(*HEADED, spans={(0, 1): (1, 2)}))
    assert lines(found.table) == ["|2021|<", "^|Q1|Q2", "Cash|10|11", "Loans|12|13"]
    assert [cell.header for cell in found.table.cells].count(True) == 4
    grouped = align(grid(*GROUPED))
    assert lines(grouped.table) == ["Group|Name|Value", "x|abc|10", "^|bcd|11", "y|cde|12", "^|def|13"]
    assert grouped.fixes["merged oversegmented spanning cell"] == 2
    assert grouped.kept


@pytest.mark.parametrize(
    ("switch", "table", "expected"),
    [
        ("merge_row_header", grid(*GROUPED), GROUPED),
        ("projected", grid("Item|A|B", "Assets||", "Cash|10|11"), ("Item|A|B", "Assets||", "Cash|10|11")),
        ("remove_empty", grid("H||X", "a||10", "||", "b||11"), ("H||X", "a||10", "||", "b||11")),
        ("merge_spanned", grid("A|B|", "x|10|", spans={(0, 1): (1, 2), (1, 1): (1, 2)}), ("A|B|<", "x|10|<")),
        ("strip_tags", grid("A|B|C", "x<i>y</i>|10|11"), ("A|B|C", "x<i>y</i>|10|11")),
        ("absorb_above", grid(*HEADED, spans={(0, 1): (1, 2)}), ("|2021|<", "^|Q1|Q2", *HEADED[2:])),
        ("absorb_below", grid("M|All|", "|Lo|Hi", "a|10|11", spans={(0, 1): (1, 2)}), ("M|All|<", "^|Lo|Hi", "a|10|11")),
        ("split_blank", grid("|All|", "|Lo|Hi", "a|10|11", spans={(0, 1): (1, 2), (0, 0): (2, 1)}), ("|All|<", "^|Lo|Hi", "a|10|11")),
    ],
)  # fmt: skip
def test_a_fix_that_is_switched_off_is_not_made(switch: str, table: Table, expected: tuple[str, ...]) -> None:
    # Where a column is never filled, or no row has a cell of its own, the header would go on to the end.
    headers = switch not in ("remove_empty", "merge_spanned")
    assert tuple(lines(align(table, **{"correct_header": headers, switch: False}).table)) == expected


def test_without_the_header_fix_only_annotated_headers_count() -> None:
    table = grid("A|B|C", "x|10|11")
    assert not any(cell.header for cell in align(table, correct_header=False).table.cells)
    table.cells[0].header = True
    assert sum(cell.header for cell in align(table, correct_header=False).table.cells) == 1


def test_header_cells_over_the_same_columns_merge() -> None:
    table = grid("A|B|C", "a|b|c", "x|10|11")
    for cell in table.cells[:6]:
        cell.header = True
    assert lines(align(table).table) == ["A a|B b|C c", "x|10|11"], (
        "and the rows that all cells span become one"
    )
    assert lines(align(table, merge_header=False).table) == ["A|B|C", "a|b|c", "x|10|11"]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (Table("t", []), "no rows"),
        (Table("t", [Cell([0], [0, 1], "a"), Cell([0], [1], "b")]), "overlapping grid cells"),
        (Table("t", [Cell([0], [0], "a"), Cell([1], [1], "b")]), "missing grid cells"),
        (grid("long|A|B", "|10|11", "|12|13", spans={(0, 0): (3, 1)}), "overmerged cells"),
        (grid("Item|A|B", "Cash|$|11", "Loans|12|13"), "oversegmented columns"),
        (grid("Item|A|B", "Cash|(|11", "Loans||13", "Notes||15"), "oversegmented columns"),
        (grid("only", "one"), "small table"),
        (grid("alpha|one", "beta|two"), "ambiguous header"),
        (grid("Title||", "A|B|C", "x|10|11"), "bad projected row header"),
        (grid("A|B|C"), "no table body"),
        (grid("A|B|C", *["|x|y"] * 6, "z|10|11"), "oversized header"),
    ],
)
def test_a_reject_has_its_reason(table: Table, reason: str) -> None:
    found = align(table, merge_spanned=False, merge_header=False)
    assert reason in found.rejects
    assert not found.kept
    if reason not in ("no rows", "overlapping grid cells", "missing grid cells"):
        accepted = align(table, merge_spanned=False, merge_header=False, accept=[reason])
        assert reason in accepted.accepted
        assert reason not in accepted.rejects


def test_holes_are_filled_where_that_is_asked_for() -> None:
    table = Table("t", [cell for cell in grid("A|B|C", "x|10|11", "y|12|13").cells if cell.text != "12"])
    found = align(table, fill_holes=True)
    assert found.kept
    assert found.fixes["filled missing grid cell"] == 1


def test_rules_of_icdar_2013() -> None:
    two = grid("alpha|one", "beta|two", "gamma|three")
    assert align(two, rules="icdar-2013").kept, "two columns have a header there"
    repeated = grid("A|B|C", "x|10|11", "A|B|C", "y|12|13")
    assert "multiple column headers" in align(repeated, rules="icdar-2013").rejects
    titled = align(grid("Title||", "A|B|C", "x|10|11"), rules="icdar-2013")
    assert lines(titled.table) == ["A|B|C", "x|10|11"]
    assert titled.fixes["removed projected row header at top of table"] == 1


def test_decisions_about_single_tables(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("t: {not_projected: [1]}\nother: {last_header_row: 0}\n")
    table = grid("Item|A|B", "Assets||", "Cash|10|11")
    assert lines(align(table, exceptions=tmp_path / "x.yaml").table) == ["Item|A|B", "Assets||", "Cash|10|11"]
    (tmp_path / "bad.yaml").write_text("t: {header: 1}\n")
    with pytest.raises(ConfigError, match="not_projected"):
        Aligner(Fixes(exceptions=tmp_path / "bad.yaml"))


def placed(**changes: tuple[float, float, float, float] | None) -> Table:
    """Three rows and columns whose texts have boxes and words."""
    table = grid("Item|A|B", "Cash|10|11", "Loans|12|13")
    for cell in table.cells:
        x, y = 60.0 * cell.columns[0], 20.0 * cell.rows[0]
        cell.box = changes.get(cell.text, (x, y, x + 30, y + 10))
    table.words = [Word(cell.text, cell.box) for cell in table.cells if cell.box]
    table.page = (200.0, 100.0)
    return table


def test_boxes_of_rows_columns_and_cells_meet_in_the_middle() -> None:
    found = align(placed()).table
    assert found.row_boxes == [(0, 0, 150, 15), (0, 15, 150, 35), (0, 35, 150, 50)]
    assert found.column_boxes[0] == (0, 0, 45, 50)
    assert next(cell for cell in found.cells if cell.text == "10").region == (45, 15, 105, 35)
    apart = align(placed(), close_gaps=False).table
    assert apart.row_boxes == [(0, 0, 150, 10), (0, 20, 150, 30), (0, 40, 150, 50)]


def test_texts_and_boxes_are_read_from_the_words_of_the_page() -> None:
    table = placed()
    assert table.words is not None
    table.words[3:4] = [
        Word("Cash", (0, 20, 14, 30)),
        Word("on", (16, 20, 22, 30)),
        Word("hand", (23, 20, 40, 30)),
        Word("..", (41, 20, 44, 30)),
    ]
    table.cells[3].box = (0, 20, 44, 30)
    found = align(table)
    assert found.kept
    cash = next(cell for cell in found.table.cells if cell.text == "Cash")
    assert cash.words_text == "Cash on hand"
    assert cash.box == (0, 20, 40, 30)
    assert found.fixes["removed dots from text cell"]
    assert (
        next(cell for cell in align(table, read_words=False).table.cells if cell.text == "Cash").words_text
        is None
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"A": None, "10": None, "12": None}, "undetermined column boundary"),
        ({"Loans": (0.0, 40.0, 30.0, 110.0)}, "bad cell box"),
    ],
)
def test_boxes_that_cannot_be_right_are_rejected(change: dict[str, Any], reason: str) -> None:
    table = placed(**change)
    assert reason in align(table, read_words=False).rejects


def test_strictly_texts_that_differ_from_the_page_are_rejected() -> None:
    table = placed()
    table.words = [Word("other", word.box) for word in table.words or ()]
    assert align(table).kept
    assert "text differs from the page" in align(table, strict=True).rejects


TEXTS = st.sampled_from(["", "", "abc", "12", "Total", "x y"])


@given(st.integers(1, 6), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_a_correction_leaves_a_grid_with_all_its_words(rows: int, columns: int, data: st.DataObject) -> None:
    table = grid(*("|".join(data.draw(TEXTS) for _ in range(columns)) for _ in range(rows)))
    before = to_row(table)
    found = align(table)
    assert to_row(table) == before, "the table that was given stays as it is"
    if found.kept:
        assert not found.table.overlaps()
        assert not found.table.holes()
        gone = found.fixes["removed projected row header at bottom of table"]
        words = sorted(" ".join(cell.text for cell in found.table.cells).split())
        assert gone or words == sorted(" ".join(cell.text for cell in table.cells).split())
        assert align(found.table).table.n_rows <= found.table.n_rows


def test_a_cell_that_would_be_merged_twice_makes_the_table_ambiguous() -> None:
    draft = Draft.of(grid("a|b", "c|d"))
    first, second, *_ = draft.cells
    draft.merge([first, second, second])
    assert draft.rejects == {"ambiguous spanning cell": 1}


def test_the_command_scores_predictions_by_id(coalign: Callable[..., Any], tmp_path: Path) -> None:
    def write(name: str, *rows: Any) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    truth = write("true.jsonl", row_of_table("a"), row_of_table("b"))
    guess = write("read.jsonl", row_of_table("a", boxes=False), row_of_table("z"))
    found = coalign(
        "score",
        "grits",
        guess,
        "--truth",
        truth,
        "--out",
        str(tmp_path / "o.jsonl"),
        "--html",
        str(tmp_path / "o.html"),
    )
    assert found.code == 0, found.err
    assert "'z' belongs to no true table" in found.err
    first, second = read_rows(tmp_path / "o.jsonl")
    assert (first["grits_con"], first["exact_con"], "grits_loc" in first) == (1.0, True, False)
    assert (second["grits_con"], second["predicted"], second["predicted_rows"]) == (0.0, False, 0)
    none = coalign("score", "grits", write("z.jsonl", row_of_table("z")), "--truth", truth)
    assert none.code == 1
    assert "No predicted table has the id of a true one" in none.err


def test_the_world_of_the_check() -> None:
    tables = printed_tables(40, 7)
    aligned = [Aligner(Fixes())(one.raw) for one in tables]
    assert all(found.kept for found in aligned)
    assert all(
        structure(found.table) == structure(one.true) for found, one in zip(aligned, tables, strict=True)
    )
    assert any(structure(one.raw) != structure(one.true) for one in tables)
    reader = train_reader(tables, [one.true for one in tables], 0, steps=60, places=256)
    untrained = train_reader(tables, [one.true for one in tables], 0, steps=0)
    assert exact_share(reader, tables)[1] > exact_share(untrained, tables)[1]
