"""The fixes in their order, each of which can be switched off, and the reasons to reject.

Order and rules are those of the official scripts (microsoft/table-transformer, `process_fintabnet.py` and
`process_icdar2013.py`), which only have the whole of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from coalign.core.errors import ConfigError
from coalign.core.options import CountOrZero, OptionGroup, option
from coalign.core.yaml_text import load_yaml
from coalign.data.tables.json_tables import inline_text
from coalign.data.tables.table import Cell, Table
from coalign.tables.canonical import boxes, draft, header, spanning
from coalign.tables.canonical.draft import Draft

Rules = Literal["fintabnet", "icdar-2013"]
Reason = Literal[
    "no rows",
    "overlapping grid cells",
    "missing grid cells",
    "annotation mismatch",
    "overmerged cells",
    "oversegmented columns",
    "small table",
    "ambiguous header",
    "multiple column headers",
    "bad projected row header",
    "ambiguous spanning cell",
    "oversized header",
    "undetermined row boundary",
    "undetermined column boundary",
    "runaway text adjustment",
    "dots retained",
    "overlapping cells",
    "poor text cell fit",
    "no table body",
    "bad cell box",
    "bad table box",
    "rows intersect",
    "columns intersect",
    "text differs from the page",
]
"""Why a table is left out."""
REASONS: tuple[str, ...] = get_args(Reason)
FATAL = ("no rows", "overlapping grid cells", "missing grid cells")
"""What cannot be accepted: the table is no grid."""
ASSETS = Path(__file__).parent / "assets"


@dataclass(kw_only=True)
class Fixes(OptionGroup):
    """What is corrected, and what is rejected."""

    __group__ = "Fixes"

    rules: Rules = option(
        "fintabnet",
        "fintabnet: tables of more than two columns have a header; icdar-2013: of more than one, with the decisions of "
        "people about single tables",
        source="official code",
    )
    fill_holes: bool | None = option(
        None,
        "put blank cells where none is annotated; by default with the rules of icdar-2013 alone",
        source="official code",
    )
    strip_tags: bool = option(True, "take inline tags out of texts", source="paper")
    remove_empty: bool = option(True, "remove rows and columns without text", source="paper")
    merge_spanned: bool = option(
        True, "make one of rows or columns that every cell spans together", source="paper"
    )
    correct_header: bool = option(True, "find how far the column header reaches", source="paper")
    projected: bool = option(True, "widen rows that head those below to one cell", source="paper")
    split_blank: bool = option(True, "take blank spanning cells of the header apart", source="paper")
    absorb_above: bool = option(True, "header cells take the blank places above", source="paper")
    absorb_below: bool = option(True, "header cells take the blank places below", source="paper")
    merge_header: bool = option(True, "merge header cells that stand over the same columns", source="paper")
    merge_row_header: bool = option(
        True, "cells of the first column take the blank ones below", source="paper"
    )
    read_words: bool = option(
        True, "take boxes and a second text from the page's words, where they are known", source="paper"
    )
    close_gaps: bool = option(True, "let neighbouring rows and columns meet", source="paper")
    strict: bool = option(
        False,
        "also reject rows or columns that intersect, and texts that differ from the page's words",
        source="official code, where nothing calls it",
    )
    max_header_row: CountOrZero = option(
        4, "a header row after this one (from 0) is too many", source="official code"
    )
    accept: list[Reason] = option([], "reasons that are noted and do not reject")
    exceptions: Path | None = option(
        None, "YAML: end of a table's id to not_projected, last_header_row, own_first_cell"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fatal = [one for one in self.accept if one in FATAL]
        if fatal:
            advice = " (see fill_holes)" if fatal[0] == "missing grid cells" else ""
            raise ValueError(f"accept: {fatal[0]!r} leaves no grid to correct{advice}")


@dataclass(frozen=True)
class Aligned:
    """What became of a table.

    Attributes:
        table: corrected as far as its fixes went.
        fixes: what was done, with how often.
        rejects: why it is left out; nothing where it is kept.
        accepted: reasons that were accepted.
    """

    table: Table
    fixes: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> bool:
        return not self.rejects


class Aligner:
    """Corrects tables by one set of options.

    Raises:
        ConfigError: the file of exceptions cannot be used.
    """

    def __init__(self, fixes: Fixes) -> None:
        self.fixes = fixes
        self.icdar = fixes.rules == "icdar-2013"
        self.exceptions = read_exceptions(ASSETS / "icdar_2013.yaml") if self.icdar else {}
        if fixes.exceptions is not None:
            self.exceptions = {**self.exceptions, **read_exceptions(fixes.exceptions)}

    def __call__(self, table: Table) -> Aligned:
        made = Draft.of(table)
        self._correct(made)
        fixes = +made.fixes
        accepted = Counter({why: count for why, count in made.rejects.items() if why in self.fixes.accept})
        return Aligned(made.table, fixes, made.rejects - accepted, accepted)

    def _correct(self, made: Draft) -> None:
        if not self._is_grid(made):
            return
        exception = self._exception(made.table.id)
        self._clean(made)
        if not self.icdar:
            _judge_overmerged(made)
        self._reduce(made)
        _judge_oversegmented(made, small=not self.icdar)
        self._head(made, exception)
        self.canonicalise(made, frozenset(exception.get("own_first_cell", ())))
        self._reduce(made)
        _judge_header(made, self.fixes.max_header_row, by_columns=not self.icdar)
        self._place(made)
        if all(made.header):
            made.rejects["no table body"] += 1
        if made.projected and (made.projected[-1] or (made.projected[0] and not self.icdar)):
            made.rejects["bad projected row header"] += 1

    def _is_grid(self, made: Draft) -> bool:
        table = made.table
        if not table.cells:
            made.rejects["no rows"] += 1
            return False
        if "annotation mismatch" in table.notes:
            made.rejects["annotation mismatch"] += table.notes["annotation mismatch"]
        overlaps = table.overlaps()
        made.rejects.update({"overlapping grid cells": len(overlaps)} if overlaps else {})
        holes = table.holes()
        fill = self.icdar if self.fixes.fill_holes is None else self.fixes.fill_holes
        if holes and fill:
            table.cells += [Cell([row], [column]) for row, column in holes]
            made.fixes["filled missing grid cell"] += len(holes)
        elif holes:
            made.rejects["missing grid cells"] += len(holes)
        return not any(reason in made.rejects for reason in FATAL)

    def _clean(self, made: Draft) -> None:
        for cell in made.cells:
            text = inline_text(cell.text) if self.fixes.strip_tags else cell.text
            if text != cell.text.strip():
                made.fixes["removed inline tags"] += 1
            cell.text = text

    def _reduce(self, made: Draft) -> None:
        for remove, merge in (
            (draft.remove_empty_columns, draft.merge_columns),
            (draft.remove_empty_rows, draft.merge_rows),
        ):
            if self.fixes.remove_empty:
                remove(made)
            if self.fixes.merge_spanned:
                merge(made)

    def _head(self, made: Draft, exception: Mapping[str, Any]) -> None:
        projected = {"exclude": frozenset(exception.get("not_projected", ())), "at_top": self.icdar}
        if self.fixes.projected and self.icdar:
            header.mark_projected_rows(made, **projected)
        if self.fixes.correct_header:
            rules = {"assumed_above": 1, "cues": False} if self.icdar else {}
            header.correct_header(made, last_row=exception.get("last_header_row"), **rules)
        if self.fixes.projected:
            header.mark_projected_rows(made, **projected)
        if self.icdar:
            _judge_repeated_header(made)

    def canonicalise(self, made: Draft, own_first_cell: frozenset[int]) -> None:
        fixes = self.fixes
        if fixes.split_blank:
            spanning.split_blank_spans(made)
        if fixes.absorb_above:
            spanning.absorb_blanks(made, up=True)
        if fixes.absorb_below:
            spanning.absorb_blanks(made, up=False)
        if fixes.merge_header:
            spanning.merge_header_columns(made)
        if fixes.merge_row_header:
            spanning.merge_row_header(made, exclude=own_first_cell)

    def _place(self, made: Draft) -> None:
        """Boxes, where the annotation has any; a table without text has been rejected before."""
        made.table.row_boxes, made.table.column_boxes = [], []
        if not made.table.has_boxes or not made.cells:
            return
        whole = boxes.settle(made, part_rows=self.icdar, read=self.fixes.read_words)
        if whole is None:
            return
        if not self.icdar:
            boxes.judge_boxes(made, whole, strict=self.fixes.strict)
        if self.fixes.close_gaps:
            boxes.close_gaps(made)

    def _exception(self, name: str) -> Mapping[str, Any]:
        return next(
            (one for key, one in self.exceptions.items() if name == key or name.endswith(f"/{key}")), {}
        )


def read_exceptions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Decisions about single tables.

    Raises:
        ConfigError: no mapping of ids to known decisions.
    """
    loaded = load_yaml(path)
    known = {"not_projected": list, "own_first_cell": list, "last_header_row": int}
    for key, one in loaded.items() if isinstance(loaded, dict) else ((None, None),):
        if not isinstance(one, dict) or any(
            not isinstance(value, known.get(name, ())) for name, value in one.items()
        ):
            expected = "not_projected: [rows], own_first_cell: [rows] or last_header_row: row"
            raise ConfigError(f"{path}: {key}: {one!r} is not usable, expected {expected}")
    return {str(key): one for key, one in loaded.items()}


def _judge_overmerged(made: Draft) -> None:
    count = sum(0 in cell.rows and len(cell.rows) > 2 and not cell.blank for cell in made.cells)
    if count:
        made.rejects["overmerged cells"] += count


def _judge_oversegmented(made: Draft, *, small: bool) -> None:
    """A cell that is a currency sign alone; or a column of hardly any characters, one of them tiny."""
    count = sum(cell.text in ("$", "¢") for cell in made.cells)
    characters: Counter[int] = Counter()
    tiny: set[int] = set()
    for cell in made.cells:
        if len(cell.columns) == 1:
            characters[cell.columns[0]] += len(cell.text)
            if len(cell.text) == 1 or (0 < len(cell.text) < 4 and cell.text[0] == "("):
                tiny.add(cell.columns[0])
    if small:
        count += sum(characters[column] < made.n_rows for column in tiny)
    if count:
        made.rejects["oversegmented columns"] += count


def _judge_repeated_header(made: Draft) -> None:
    """A row of the body with the texts of a header row: two tables in one."""
    at = made.at()
    texts = [
        [at[row, column].text if (row, column) in at else "" for column in range(made.n_columns)]
        for row in range(made.n_rows)
    ]
    heads = [row for row in range(made.n_rows) if made.header[row]]
    count = sum(
        texts[row] == texts[other]
        for row in heads
        for other in range(row + 1, made.n_rows)
        if not made.header[other]
    )
    if count:
        made.rejects["multiple column headers"] += count


def _judge_header(made: Draft, most: int, *, by_columns: bool) -> None:
    count = sum(
        flag and (row > most or (by_columns and row >= made.n_columns - 1))
        for row, flag in enumerate(made.header)
    )
    if count:
        made.rejects["oversized header"] += count
