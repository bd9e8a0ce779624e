"""Printed tables and their annotations: what stands on the page is fixed, annotators take spanning cells apart.

A table has three to five columns, one or two header rows, in some a row that heads those below it, and in some first
cells that reach over two rows. What is printed depends on its structure alone. An annotator who takes a span apart notes
the text at one of its places and blank cells at the others, below or (in the header) above at random; so annotations
contradict each other, as those of the public sets do.

The reader decides for each place of the grid whether it belongs to the cell on its right and to the one below, from what
is printed around it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.data.tables.table import Cell, Table

WINDOW, FEATURES = 5, 8
"""Side of what the reader sees around a place, and what it sees of each: text begins, digits, tall ink, wide ink, noise,
row, column, outside of the table."""
_NAMES = (
    "assets",
    "cash",
    "equity",
    "loans",
    "notes",
    "orders",
    "profit",
    "rates",
    "stock",
    "taxes",
    "wages",
    "yield",
)


@dataclass(frozen=True)
class Printed:
    """A table as it is, and as it was annotated.

    Attributes:
        true: its structure.
        raw: the annotation.
        ink: [rows, columns, FEATURES - 1] what is printed at each place.
    """

    true: Table
    raw: Table
    ink: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.true.n_rows, self.true.n_columns


def printed_tables(count: int, seed: int, *, split: float = 0.5) -> list[Printed]:
    """Tables, each with its annotation.

    Args:
        split: probability that an annotator takes a kind of span apart; drawn for each table and kind.
    """
    rng = random.Random(seed)
    return [_printed(rng, f"table-{place}", split) for place in range(count)]


def _printed(rng: random.Random, name: str, split: float) -> Printed:
    columns, body = rng.randint(3, 5), rng.randint(4, 8)
    groups = rng.random() < 0.5
    cells = _header(rng, columns)
    row = first = max(cell.rows[-1] for cell in cells) + 1
    heading = rng.randrange(first, first + body - 1) if rng.random() < 0.5 else None
    while row < first + body:
        if heading is not None and row >= heading:
            cells.append(Cell([row], [*range(columns)], f"{_name(rng)} {_name(rng)}", projected=True))
            heading, row = None, row + 1
            continue
        height = 2 if groups and row + 1 < first + body and row + 1 != heading and rng.random() < 0.5 else 1
        cells.append(Cell([*range(row, row + height)], [0], _name(rng)))
        cells += [
            Cell([line], [column], _name(rng) if groups and column == 1 else str(rng.randint(10, 9999)))
            for line in range(row, row + height)
            for column in range(1, columns)
        ]
        row += height
    true = Table(name, cells)
    kinds: tuple[Callable[[Cell], bool], ...] = (
        lambda cell: cell.header and len(cell.rows) > 1,
        lambda cell: not cell.header and len(cell.rows) > 1,
        lambda cell: cell.projected,
    )
    apart = [kind for kind in kinds if rng.random() < split]
    raw = [
        part
        for cell in cells
        for part in (_taken_apart(rng, cell) if any(kind(cell) for kind in apart) else [cell.copy()])
    ]
    for cell in raw:  # an annotator says neither where the header ends nor what heads what
        cell.header = cell.projected = False
    return Printed(true, Table(name, raw), _ink(rng, true))


def _header(rng: random.Random, columns: int) -> list[Cell]:
    """One row, or two: then neighbours share a cell above, and the other columns have one cell for both rows."""
    if rng.random() < 0.4:
        return [Cell([0], [column], _name(rng), header=True) for column in range(columns)]
    cells = [Cell([0, 1], [0], _name(rng), header=True)]
    column = 1
    while column < columns:
        wide = min(rng.choice((1, 2)), columns - column) if column > 1 or columns < 4 else 2
        if wide == 2:
            cells.append(Cell([0], [column, column + 1], _name(rng), header=True))
            cells += [Cell([1], [one], _name(rng), header=True) for one in (column, column + 1)]
        else:
            cells.append(Cell([0, 1], [column], _name(rng), header=True))
        column += wide
    if all(len(cell.rows) == 2 for cell in cells):
        return [Cell([0], cell.columns, cell.text, header=True) for cell in cells]
    return cells


def _name(rng: random.Random) -> str:
    return rng.choice(_NAMES)


def _taken_apart(rng: random.Random, cell: Cell) -> list[Cell]:
    """A cell with the text, and blank ones; in the header the text may be the lowest."""
    places = cell.places
    holder = places[-1] if cell.header and rng.random() < 0.5 else places[0]
    return [Cell([row], [column], cell.text if (row, column) == holder else "") for row, column in places]


def _ink(rng: random.Random, table: Table) -> Tensor:
    rows, columns = table.n_rows, table.n_columns
    ink = torch.zeros(rows, columns, FEATURES - 1)
    for cell in table.cells:
        for row, column in cell.places:
            ink[row, column, 0] = float((row, column) == cell.places[0])
            ink[row, column, 1] = float(cell.text.isdigit())
            ink[row, column, 2] = float(len(cell.rows) > 1)
            ink[row, column, 3] = float(len(cell.columns) > 1)
            ink[row, column, 4] = rng.gauss(0, 1)
            ink[row, column, 5] = row / 10
            ink[row, column, 6] = column / 5
    return ink


def links(cells: Sequence[Cell], shape: tuple[int, int]) -> Tensor:
    """[rows * columns, 2] whether a place belongs to the cell of the place on its right, and of that below."""
    at = {place: id(cell) for cell in cells for place in cell.places}
    found = [
        [
            float(at.get((row, column + 1)) == at[row, column]),
            float(at.get((row + 1, column)) == at[row, column]),
        ]
        for row in range(shape[0])
        for column in range(shape[1])
    ]
    return torch.tensor(found)


def views(table: Printed) -> Tensor:
    """[rows * columns, WINDOW ** 2 * FEATURES] what the reader sees around each place."""
    (rows, columns), margin = table.shape, WINDOW // 2
    page = torch.zeros(rows + 2 * margin, columns + 2 * margin, FEATURES)
    page[..., -1] = 1
    page[margin : margin + rows, margin : margin + columns, :-1] = table.ink
    page[margin : margin + rows, margin : margin + columns, -1] = 0
    windows = page.unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)  # [rows, columns, features, WINDOW, WINDOW]
    return windows.reshape(rows * columns, -1)


def train_reader(
    tables: Sequence[Printed],
    annotations: Sequence[Table],
    seed: int,
    *,
    steps: int = 600,
    places: int = 1024,
) -> nn.Module:
    """A reader of 64 hidden units that learned the links of the annotations, by Adam at 1e-3."""
    torch.manual_seed(seed)
    reader = nn.Sequential(nn.Linear(WINDOW**2 * FEATURES, 64), nn.ReLU(), nn.Linear(64, 2))
    seen = torch.cat([views(one) for one in tables])
    wanted = torch.cat(
        [links(one.cells, table.shape) for one, table in zip(annotations, tables, strict=True)]
    )
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(seen), (places,), generator=generator)
        loss = nn.functional.binary_cross_entropy_with_logits(reader(seen[rows]), wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval()


@torch.no_grad()
def exact_share(reader: nn.Module, tables: Sequence[Printed]) -> tuple[float, float]:
    """The share of tables all of whose links are read as they are, and the share of links."""
    right = [(reader(views(one)) > 0) == (links(one.true.cells, one.shape) > 0) for one in tables]
    whole = sum(bool(one.all()) for one in right)
    return whole / len(right), float(torch.cat(right).float().mean())
