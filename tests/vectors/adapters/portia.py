"""Splits, consistency over both orders, and correction rates."""

from __future__ import annotations

from typing import Any

from coalign.evaluation.portia import correction
from coalign.evaluation.position_bias import parts as cutting
from coalign.judging.parsing import LETTERS
from coalign.judging.protocol import Opinion, PairVerdict, summarise
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "split":
            return _split(inputs["sentences_1"], inputs["sentences_2"], params["k"])
        case "consistency":
            return _consistency(inputs["verdict_order_12"], inputs["verdict_order_21"])
        case "fixed_coverage":
            before, after = ([bool(one) for one in inputs[f"consistent_{x}"]] for x in ("before", "after"))
            return correction(before, after)
        case other:
            raise ValueError(f"op {other!r}")


def _split(first: list[str], second: list[str], k: int) -> dict[str, Any]:
    k = cutting.common_parts(first, second, k)
    cuts = cutting.length_cuts(first, k), cutting.length_cuts(second, k)
    parts = [cutting.parts_of(side, cut, joint=" ") for side, cut in zip((first, second), cuts, strict=True)]
    best = cutting.semantic_cuts(first, second, k)
    return {
        "k_effective": k,
        "length_cuts_1": cuts[0],
        "length_cuts_2": cuts[1],
        "length_parts_1": parts[0],
        "length_parts_2": parts[1],
        "length_similarities": [cutting.similarity(a, b) for a, b in zip(*parts, strict=True)],
        "semantic_cuts_1": best.first,
        "semantic_cuts_2": best.second,
        "semantic_total": best.total,
        "semantic_parts_1": cutting.parts_of(first, best.first, joint=" "),
        "semantic_parts_2": cutting.parts_of(second, best.second, joint=" "),
    }


def _consistency(forward: list[str], backward: list[str]) -> dict[str, Any]:
    pairs = [
        PairVerdict(id="", opinions=(Opinion(choice=LETTERS[one]), Opinion(choice=LETTERS[other]).mirrored()))
        for one, other in zip(forward, backward, strict=True)
    ]
    numbers = {"first": 1, "second": 2, "tie": 0}
    return {
        "consistent": [int(bool(one.consistent)) for one in pairs],
        "rate": summarise(pairs).consistency,
        "winner": [numbers.get(one.outcome) for one in pairs],
    }
