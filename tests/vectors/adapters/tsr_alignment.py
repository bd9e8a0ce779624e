"""Similarities, GriTS of pairs of tables, and the steps that make annotations canonical."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalign.data.tables.table import Cell, Table
from coalign.measures.media.grits import KINDS, Grid, f_score, grits, overlaps
from coalign.measures.texts.matching_blocks import block_similarities
from coalign.tables.canonical.align import Aligner, Fixes
from coalign.tables.canonical.draft import (
    Draft,
    merge_columns,
    merge_rows,
    remove_empty_columns,
    remove_empty_rows,
)
from coalign.tables.canonical.header import HEADER_FIX, correct_header, mark_projected_rows
from tests.vectors.given import Given

STEPS: dict[str, Any] = {
    "remove_empty_columns": remove_empty_columns,
    "merge_columns": merge_columns,
    "remove_empty_rows": remove_empty_rows,
    "merge_rows": merge_rows,
    "correct_header": correct_header,
    "projected": mark_projected_rows,
    "canonicalize": lambda draft: Aligner(Fixes()).canonicalise(draft, frozenset()),
}


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["metric"]:
        case "primitives":
            return _primitives(inputs)
        case "grits":
            return _grits(inputs)
        case "canonicalize":
            return _canonical(inputs, params["steps"])
        case other:
            raise ValueError(f"metric {other!r}")


def _primitives(inputs: Given) -> dict[str, Any]:
    first, second = zip(*inputs["lcs_pairs"], strict=True)
    boxes = np.array(inputs["iou_pairs"], float).transpose(1, 2, 0)
    return {
        "lcs_similarity": block_similarities(first, second, [(one, one) for one in range(len(first))]),
        "iou": overlaps(boxes[0], boxes[1]),
        "fscore_precision_recall": [f_score(*one) for one in inputs["fscore_args"]],
    }


def _grits(inputs: Given) -> dict[str, Any]:
    true, predicted = (
        Grid.of(
            Cell(one["row_nums"], one["column_nums"], one["cell_text"], tuple(one["bbox"]))
            for one in inputs[side]
        )
        for side in ("true_cells", "pred_cells")
    )
    (found,) = grits([(true, predicted)])
    outputs: dict[str, Any] = {"acc_con": int(found["con"].exact)}
    for kind in KINDS:
        score = found[kind]
        outputs |= {
            f"grits_{kind}": score.score,
            f"precision_{kind}": score.precision,
            f"recall_{kind}": score.recall,
            f"upper_bound_{kind}": score.upper_bound,
        }
    return outputs


def _canonical(inputs: Given, steps: list[str]) -> dict[str, Any]:
    header = inputs["header_rows"]
    cells = [
        Cell([*rows], [*columns], text, header={*rows} <= {*header})
        for rows, columns, text in inputs["cells"]
    ]
    draft = Draft.of(Table("table", cells), header)
    for step in steps:
        STEPS[step](draft)
    found = sorted((cell.rows, cell.columns, cell.text, cell.header, cell.projected) for cell in draft.cells)
    return {
        "cells": [[*one] for one in found],
        "num_rows": draft.n_rows,
        "num_columns": draft.n_columns,
        "header_rows": [row for row, flag in enumerate(draft.header) if flag],
        "projected_row_header_rows": [row for row, flag in enumerate(draft.projected) if flag],
        "fixes": sorted(set(+draft.fixes) - {HEADER_FIX}),  # the official log has no line for it
        "rejects": sorted(+draft.rejects),
    }
