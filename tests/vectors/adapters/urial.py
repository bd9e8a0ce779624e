"""URIAL: prompts and cleaned answers as text, similarities of two candidate lists."""

from __future__ import annotations

from typing import Any

from coalign.decoding.in_context.prefix import clean_answer, conversation_prompt
from coalign.decoding.in_context.token_shift import list_similarities
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "raw_completion" in inputs:
        return {"cleaned": clean_answer(inputs["raw_completion"])}
    if "prefix_text" in inputs:
        assert params["template"] == "urial_backticks"
        return {"prompt": conversation_prompt(inputs["prefix_text"], inputs["turns"])}
    base, aligned = inputs["base_candidates"], inputs["aligned_candidates"]
    return {f"top_k={k}": list_similarities(base, aligned, k) for k in params["top_k_values"]}
