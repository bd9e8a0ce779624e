"""Self-Specialization: the novelty filter with its growing pool, and BM25."""

from __future__ import annotations

from typing import Any

from coalign.loops.pipeline import Kept
from coalign.loops.steps.usual import Novel
from coalign.measures.retrieval import BM25
from coalign.measures.texts.novelty import NoveltyPool
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "documents" in inputs:
        index = BM25(inputs["documents"], k1=params["k1"], b=params["b"])
        return {"scores": index.scores(inputs["query"]), "top": index.top(inputs["query"], params["k"])}
    known, most = inputs["seed_instructions"], params["rougeL_f_max"]
    step, pool = Novel("novelty", lambda row: row["text"], most, known), NoveltyPool(known)
    overlaps, keep = [], []
    for text in inputs["candidates"]:
        overlaps.append(pool.overlap(text))
        keep.append(isinstance(step.look({"text": text}), Kept))
        if keep[-1]:
            step.remember({"text": text})
            pool.add(text)
    return {"max_rougeL": overlaps, "keep": keep}
