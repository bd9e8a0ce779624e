"""Tiny runs of systems for tables: (options, files)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
TEXTS = (("Item", "2021", "2020"), ("Assets", "", ""), ("Cash", "11", "12"), ("Loans", "13", "14"))


def table(name: str, texts: Sequence[Sequence[str]] = TEXTS, *, boxes: bool = True) -> dict[str, Any]:
    """A row of JSON Lines: one cell a place, each text a word of its own."""
    places = [
        (row, column, text, [60 * column, 20 * row, 60 * column + 6 * max(len(text), 1), 20 * row + 12])
        for row, line in enumerate(texts)
        for column, text in enumerate(line)
    ]
    cells = [
        {"row_nums": [row], "column_nums": [column], "text": text, "bbox": box if boxes and text else []}
        for row, column, text, box in places
    ]
    words = [{"text": text, "bbox": box} for _, _, text, box in places if text]
    return {"id": name, "cells": cells, **({"words": words, "page": [200, 100]} if boxes else {})}


def tables() -> list[dict[str, Any]]:
    """One to correct, one as it should be, one that overlaps, one with a hole."""
    plain, overlapping, holed = table("plain", [*TEXTS[:1], *TEXTS[2:]]), table("over"), table("hole")
    overlapping["cells"][0]["column_nums"] = [0, 1]
    del holed["cells"][5]
    return [table("heading"), plain, overlapping, holed]


SMALL: dict[str, Tiny] = {
    "tsr-alignment": ({"data": "tables.jsonl", "formats": ["jsonl", "html"]}, {"tables.jsonl": tables()}),
}
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "tsr-alignment with predictions": (
        "tsr-alignment",
        (
            {
                "data": "tables.jsonl",
                "predictions": "read.jsonl",
                "formats": ["voc"],
                "correct_predictions": True,
            },
            {"tables.jsonl": tables(), "read.jsonl": [table("heading"), table("plain", boxes=False)]},
        ),
    ),
}
