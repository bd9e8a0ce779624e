"""Text similarity is difflib's to the last bit; GriTS is what a plain reading of its definition gives."""

from __future__ import annotations

import random
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.data.tables.table import Cell
from coalign.measures.media.grits import Grid, grits, mean_scores
from coalign.measures.texts.matching_blocks import block_similarities

TEXTS = st.lists(st.text("ab c", max_size=12) | st.text(max_size=8), min_size=1, max_size=6)


def ratio(first: str, second: str, *, popular: bool = False) -> float:
    if not first and not second:
        return 1.0
    blocks = SequenceMatcher(None, first, second, autojunk=not popular).get_matching_blocks()
    return 2 * sum(block.size for block in blocks) / (len(first) + len(second))


def all_pairs(first: list[str], second: list[str]) -> list[tuple[int, int]]:
    return [(one, other) for one in range(len(first)) for other in range(len(second))]


@given(TEXTS, TEXTS)
@settings(max_examples=60, deadline=None)
def test_similarity_is_that_of_difflib(first: list[str], second: list[str]) -> None:
    pairs = all_pairs(first, second)
    found = block_similarities(first, second, pairs).tolist()
    assert found == [ratio(first[one], second[other]) for one, other in pairs]


@pytest.mark.parametrize("popular", [False, True])
@pytest.mark.parametrize("alphabet", ["ab", "abcdefghij ,.", "".join(map(chr, range(200, 700)))])
def test_long_texts_are_those_of_difflib_around_its_rule_for_popular_characters(
    alphabet: str, popular: bool
) -> None:
    rng = random.Random(len(alphabet))
    first = ["".join(rng.choices(alphabet, k=k)) for k in (0, 1, 63, 64, 65, 128, 199, 200, 201, 400)]
    second = [text[:50] + rng.choice(alphabet) + text[51:] for text in first] + first[::-1]
    pairs = all_pairs(first, second)
    found = block_similarities(first, second, pairs, popular=popular).tolist()
    assert found == [ratio(first[one], second[other], popular=popular) for one, other in pairs]


def test_difflib_scores_long_texts_that_are_nearly_equal_zero() -> None:
    text = "ab" * 100
    other = "b" + text[1:]
    official, exact = (
        block_similarities([text], [other], [(0, 0)], popular=flag)[0] for flag in (False, True)
    )
    assert official == 0.0
    assert exact > 0.99


def tables(rng: random.Random) -> list[Cell]:
    """A grid with some spans."""
    rows, columns, taken, cells = rng.randint(1, 4), rng.randint(1, 4), set(), []
    for row in range(rows):
        for column in range(columns):
            if (row, column) in taken:
                continue
            wide = 2 if column + 1 < columns and (row, column + 1) not in taken and rng.random() < 0.3 else 1
            cell = Cell(
                [row], [*range(column, column + wide)], "".join(rng.choices("abc", k=rng.randint(0, 3)))
            )
            x, y = 10 * column + rng.random(), 5 * row + rng.random()
            cell.box = (x, y, x + 9 * wide, y + 4)
            taken |= {*cell.places}
            cells.append(cell)
    return cells


def plain_grits(true: list[Cell], predicted: list[Cell], kind: str) -> float:
    """Sums of dynamic programs in loops."""

    def grid(cells: list[Cell]) -> np.ndarray[Any, Any]:
        shape = max(cell.rows[-1] for cell in cells) + 1, max(cell.columns[-1] for cell in cells) + 1
        found = np.empty(shape, object)
        for cell in cells:
            for row, column in cell.places:
                span = (
                    cell.columns[0] - column,
                    cell.rows[0] - row,
                    cell.columns[-1] + 1 - column,
                    cell.rows[-1] + 1 - row,
                )
                found[row, column] = {"top": span, "con": cell.text, "loc": cell.box}[kind]
        return found

    def overlap(one: Any, other: Any) -> float:
        one, other = (np.asarray(box, np.float32).astype(float) for box in (one, other))
        sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
        hull = np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2])
        return float(sides.prod() / hull.prod()) if (sides > 0).all() else 0.0

    def best(rewards: Any, rows: int, columns: int) -> tuple[float, list[tuple[int, int]]]:
        table = np.zeros((rows + 1, columns + 1))
        for i in range(rows):
            for j in range(columns):
                table[i + 1, j + 1] = max(table[i, j] + rewards(i, j), table[i, j + 1], table[i + 1, j])
        i, j, path = rows, columns, []
        while i and j:
            if table[i - 1, j - 1] + rewards(i - 1, j - 1) == table[i, j]:
                i, j = i - 1, j - 1
                path.append((i, j))
            elif table[i - 1, j] == table[i, j]:
                i -= 1
            else:
                j -= 1
        return table[-1, -1], path

    a, b = grid(true), grid(predicted)
    reward: Any = ratio if kind == "con" else overlap
    rows = best(
        lambda i, k: best(lambda j, m: reward(a[i, j], b[k, m]), a.shape[1], b.shape[1])[0],
        a.shape[0],
        b.shape[0],
    )[1]
    columns = best(
        lambda j, m: best(lambda i, k: reward(a[i, j], b[k, m]), a.shape[0], b.shape[0])[0],
        a.shape[1],
        b.shape[1],
    )[1]
    total = sum(reward(a[i, j], b[k, m]) for i, k in rows for j, m in columns)
    return 2 * total / (a.size + b.size)


def test_scores_are_those_of_the_definition() -> None:
    rng = random.Random(0)
    pairs = [(tables(rng), tables(rng)) for _ in range(25)]
    found = grits([(Grid.of(true), Grid.of(predicted)) for true, predicted in pairs])
    for (true, predicted), scores in zip(pairs, found, strict=True):
        for kind, score in scores.items():
            assert score.score == pytest.approx(plain_grits(true, predicted, kind), abs=1e-12), kind
            assert score.score <= score.upper_bound + 1e-12


def test_a_score_does_not_depend_on_the_tables_beside_it() -> None:
    rng = random.Random(1)
    pairs = [(Grid.of(tables(rng)), Grid.of(tables(rng))) for _ in range(12)]
    assert grits(pairs) == [grits([one])[0] for one in pairs]


def cells(*texts: str) -> list[Cell]:
    return [
        Cell([row], [column], text)
        for row, line in enumerate(texts)
        for column, text in enumerate(line.split("|"))
    ]


def test_holes_are_blank_cells_and_overlaps_belong_to_the_last() -> None:
    holed = Grid.of([cell for cell in cells("a|b", "c|d") if cell.text != "b"])
    assert (holed.holes, holed.overlaps, holed.shape) == (1, 0, (2, 2))
    blank = Grid.of(cells("a|", "c|d"))
    assert grits([(blank, holed)], ["con", "top"])[0]["con"].exact
    claimed = Grid.of([*cells("a|b"), Cell([0], [1], "new")])
    assert (claimed.overlaps, claimed.holes) == (1, 0)
    assert grits([(Grid.of(cells("a|new")), claimed)], ["con"])[0]["con"].exact


def test_tables_without_cells() -> None:
    nothing, some = Grid.of([]), Grid.of(cells("a|b"))
    first, second, both = (
        one["con"] for one in grits([(some, nothing), (nothing, some), (nothing, nothing)], ["con"])
    )
    assert (first.score, first.precision, first.recall) == (0.0, 1.0, 0.0)
    assert (second.score, second.precision, second.recall) == (0.0, 0.0, 1.0)
    assert both.score == 1.0
    assert both.exact


def test_scores_can_change_when_tables_are_swapped_but_not_by_their_longest_common_subsequence() -> None:
    one, other = Grid.of(cells("bdaa a")), Grid.of(cells(" a baa"))
    by: Any
    for by, same in (("difflib", False), ("lcs", True)):
        there, back = (
            grits([pair], ["con"], text=by)[0]["con"].score for pair in ((one, other), (other, one))
        )
        assert (there == back) is same, by
    assert (
        grits([(one, other)], ["con"], text="lcs")[0]["con"].score
        >= grits([(one, other)], ["con"])[0]["con"].score
    )


def test_means_over_tables() -> None:
    pairs = [(Grid.of(cells("a|b")), Grid.of(cells(text))) for text in ("a|b", "a|c")]
    found = mean_scores(grits(pairs, ["con", "top"]))
    assert found == {"grits_con": 0.75, "exact_con": 0.5, "grits_top": 1.0, "exact_top": 1.0}
