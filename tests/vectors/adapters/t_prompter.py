"""Matched references, layouts of every order, scores and choice of candidates."""

from __future__ import annotations

from typing import Any

from coalign.vision.reference_sheets.matching import (
    CENTRE,
    arrange,
    match_references,
    permutations_of,
    score_candidates,
)
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "candidate_embeddings" in inputs:
        found = score_candidates(
            inputs["candidate_embeddings"], inputs["prompt_embedding"], inputs["reference_embeddings"]
        )
        return {"text_score": found.text, "reference_score": found.references, "selected": found.best}
    elements = inputs["element_embeddings"]
    matched = match_references(
        elements, inputs["image_embeddings"], top=params["top"], tiles=params["reserve_per_element"]
    )
    tiles = [one.tiles for one in matched]
    return {
        "ranked_image_ids_per_element": [list(one.ranked) for one in matched],
        "tiles_per_element": [list(one) for one in tiles],
        "layouts": [
            {"permutation": list(order), "grid_rows_image_ids": _rows(arrange(tiles, order))}
            for order in permutations_of(len(elements), 0)
        ],
    }


def _rows(grid: dict[tuple[int, int], int]) -> list[list[int | str]]:
    return [
        ["MASK" if (column, row) == CENTRE else grid[column, row] for column in range(3)] for row in range(3)
    ]
