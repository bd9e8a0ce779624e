"""GriTS against the published implementation: 1,000 pairs of tables, equal scores, seconds on one thread.

    git clone https://github.com/microsoft/table-transformer
    python -m venv official && official/bin/pip install PyMuPDF==1.21.1 numpy coalign
    OMP_NUM_THREADS=1 official/bin/python benchmarks/table_scores.py --official table-transformer/src

The published code needs PyMuPDF 1.21 (not 1.26: its rectangles refuse NumPy rows) and is imported from the folder that
is given; none of it is in this repository. Both sides get the same cells, build their grids and compute GriTS-Top, -Loc
and -Con; they alternate over batches of tables of all sizes, and seconds are processor time.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.measures.media.grits import KINDS, Grid, grits

SIZES = {(5, 4): 500, (8, 5): 300, (12, 6): 150, (20, 8): 45, (40, 10): 5}
"""Rows and columns of the true tables, and how many have them."""
LONG = (199, 200, 400)
"""Characters of the long cells that every tenth table has, one of each."""
WORDS = [
    "net",
    "sales",
    "total",
    "assets",
    "income",
    "share",
    "of",
    "the",
    "year",
    "ended",
    "deferred",
    "cost",
    "revenue",
    "(loss)",
    "per",
    "and",
    "other",
]


@dataclass
class Cell:
    rows: list[int]
    columns: list[int]
    text: str
    box: tuple[float, float, float, float]


Scores = list[dict[str, tuple[float, float, float, float]]]


def make_text(rng: random.Random, row: int, column: int) -> str:
    if rng.random() < 0.1:
        return ""
    if row > 1 and column > 0:
        return f"{rng.randrange(100_000):,}" if rng.random() < 0.8 else f"({rng.uniform(0, 99):.1f}) %"
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))


def make_table(rng: random.Random, rows: int, columns: int, long: bool) -> list[Cell]:
    """Cells with some spans in the first two rows and uneven boxes."""
    x = [0.0] + [round(40 + 30 * rng.random(), 2) for _ in range(columns)]
    x = [sum(x[: i + 1]) for i in range(columns + 1)]
    cells, taken = [], set()
    for row in range(rows):
        for column in range(columns):
            if (row, column) in taken:
                continue
            wide = 2 if row == 0 and 0 < column < columns - 1 and rng.random() < 0.4 else 1
            tall = 2 if row < rows - 1 and column == 0 and wide == 1 and rng.random() < 0.15 else 1
            covered = [(r, c) for r in range(row, row + tall) for c in range(column, column + wide)]
            taken.update(covered)
            box = (x[column], 12.3 * row, x[column + wide], 12.3 * (row + tall))
            cells.append(
                Cell(
                    [*range(row, row + tall)],
                    [*range(column, column + wide)],
                    make_text(rng, row, column),
                    box,
                )
            )
    if long:
        for cell, length in zip(rng.sample(cells, len(LONG)), LONG, strict=True):
            cell.text = " ".join(rng.choices(WORDS, k=length))[:length]
    return cells


def predicted(rng: random.Random, cells: list[Cell]) -> list[Cell]:
    """What a recogniser might say: moved boxes, misread characters, spans taken apart, a row left out."""
    found = copy.deepcopy(cells)
    for cell in found:
        cell.box = tuple(edge + rng.gauss(0, 1.5) for edge in cell.box)  # pyright: ignore[reportAttributeAccessIssue]
        if cell.text and rng.random() < 0.3:
            place = rng.randrange(len(cell.text))
            cell.text = cell.text[:place] + rng.choice("aeiou0123 ") + cell.text[place + 1 :]
    if rng.random() < 0.3:
        found = [
            Cell(
                [row],
                [column],
                cell.text if (row, column) == (cell.rows[0], cell.columns[0]) else "",
                cell.box,
            )
            for cell in found
            for row in cell.rows
            for column in cell.columns
        ]
        if rng.random() < 0.5:
            gone = rng.randrange(max(cell.rows[0] for cell in found) + 1)
            found = [
                Cell([cell.rows[0] - (cell.rows[0] > gone)], cell.columns, cell.text, cell.box)
                for cell in found
                if cell.rows[0] != gone
            ]
    return found


def ours(pairs: list[tuple[list[Cell], list[Cell]]]) -> Scores:
    found = grits([(Grid.of(true), Grid.of(guess)) for true, guess in pairs])
    return [
        {
            kind: (one[kind].score, one[kind].precision, one[kind].recall, one[kind].upper_bound)
            for kind in KINDS
        }
        for one in found
    ]


def published(folder: Path) -> Callable[[list[tuple[list[Cell], list[Cell]]]], Scores]:
    """The official functions, called as the official evaluation calls them."""
    import types

    import numpy as np

    sys.path.insert(0, str(folder))
    # It imports these for other parts than the scores.
    for name in ("torchvision", "matplotlib", "matplotlib.pyplot", "matplotlib.patches", "eval_utils"):
        module: Any = sys.modules.setdefault(name, types.ModuleType(name))
        module.transforms = module.pyplot = module.patches = None
    import grits as official  # pyright: ignore[reportMissingImports]

    official: Any = official
    grid = {
        "top": official.cells_to_relspan_grid,
        "con": lambda cells: official.cells_to_grid(cells, key="cell_text"),
        "loc": lambda cells: official.cells_to_grid(cells, key="bbox"),
    }
    score = {"top": official.grits_top, "con": official.grits_con, "loc": official.grits_loc}

    def scores(pairs: list[tuple[list[Cell], list[Cell]]]) -> Scores:
        found = []
        for tables in pairs:
            given = [
                [
                    {
                        "row_nums": one.rows,
                        "column_nums": one.columns,
                        "cell_text": one.text,
                        "bbox": list(one.box),
                    }
                    for one in cells
                ]
                for cells in tables
            ]
            found.append(
                {
                    kind: score[kind](
                        *(np.array(grid[kind](one), dtype=object if kind == "con" else None) for one in given)
                    )
                    for kind in KINDS
                }
            )
        return found

    return scores


def timed(side: Callable[..., Scores], pairs: list[Any]) -> tuple[Scores, float]:
    started = time.process_time()
    found = side(pairs)
    return found, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--official", type=Path, required=True, help="folder that holds the official grits.py"
    )
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--share", type=float, default=1.0, help="of the tables of each size")
    parser.add_argument(
        "--size", type=int, nargs=2, help="rows and columns of all tables, instead of the mixture"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    sizes = [size for size, count in SIZES.items() for _ in range(round(count * arguments.share))]
    if arguments.size:
        sizes = [tuple(arguments.size)] * len(sizes)
    rng.shuffle(sizes)
    tables = [make_table(rng, *size, long=place % 10 == 0) for place, size in enumerate(sizes)]
    pairs = [(one, predicted(rng, one)) for one in tables]
    official = published(arguments.official)
    timed(ours, pairs[:5])
    timed(official, pairs[:1])
    seconds: dict[str, list[float]] = {"coalign": [], "official": []}
    largest = 0.0
    for batch in range(arguments.batches):
        part = pairs[batch :: arguments.batches]
        mine, spent = timed(ours, part)
        theirs, spent_theirs = timed(official, part)
        seconds["coalign"].append(spent)
        seconds["official"].append(spent_theirs)
        differences = (
            abs(a - b)
            for one, other in zip(mine, theirs, strict=True)
            for kind in KINDS
            for a, b in zip(one[kind], other[kind], strict=True)
        )
        largest = max(largest, *differences)
        print(
            f"  batch {batch}: {len(part)} tables, {spent:.3f} s, {spent_theirs:.2f} s, {spent_theirs / spent:.1f}",
            flush=True,
        )
    ratios = [theirs / mine for theirs, mine in zip(seconds["official"], seconds["coalign"], strict=True)]
    print(
        f"{len(pairs)} tables: coalign {sum(seconds['coalign']):.2f} s, official {sum(seconds['official']):.1f} s"
    )
    print(
        f"official / coalign: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}"
    )
    print(f"largest difference of a score, precision, recall or bound: {largest:.1e}")


if __name__ == "__main__":
    main()
