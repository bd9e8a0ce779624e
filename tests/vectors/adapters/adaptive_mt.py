"""Mined pairs and few-shot prompts, word-level edit similarity, use of terms."""

from __future__ import annotations

from typing import Any

import torch

from coalign.decoding.translation.memory import matches_in, mine_pairs
from coalign.decoding.translation.prompts import Labels, Shot, TranslationRequest, translation_prompt
from coalign.measures.texts.translation_metrics import edit_similarity, term_usage
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "a" in inputs:
        distance, score = edit_similarity(inputs["a"], inputs["b"])
        return {"edit_distance": distance, "fuzzy_match_score": score}
    if "terms" in inputs:
        terms = [(one[0], one[1]) for one in inputs["terms"]]
        counted, used, rate = term_usage(terms, inputs["hypothesis"], inputs["reference"])
        return {"counted_terms": counted, "used_terms": used, "usage_rate": rate}
    vectors = torch.tensor(inputs["embeddings"], dtype=torch.float64)
    pairs = mine_pairs(vectors, params["top_k"])
    labels = Labels(params["source_language"], params["target_language"])
    prompts = []
    for index, source in enumerate(inputs["sources"]):
        found = matches_in(pairs, index, params["n_examples"])
        shots = [Shot(inputs["sources"][one.index], inputs["targets"][one.index]) for one in found]
        prompts.append(translation_prompt(TranslationRequest(source, shots), labels))
    return {"mined_pairs": [list(one) for one in pairs], "prompts": prompts}
