"""SPRIGHT: positions and image scores of T2I-CompBench, VISOR of detections."""

from __future__ import annotations

from typing import Any

from coalign.measures.media.spatial import image_score, parse_spatial_prompt, position_score, stands, visor
from tests.vectors.given import Given

UNKNOWN_THERE = "on top of"
"""A phrase that no rule of the official code knows; ours reads it as `above`."""


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "prompts" in inputs:
        return _visor(inputs, params)
    if "cut" in params:
        scores = [
            image_score(one if there else None, two if also else None, position, least=params["cut"])
            for there, one, also, two, position in inputs["det1_conf1_det2_conf2_position"]
        ]
        return {"score": scores, "mean": sum(scores) / len(scores)}
    scores = []
    for words, first, second in inputs["relation_box1_box2"]:
        parsed = parse_spatial_prompt(f"a cat {words} a cup")
        assert parsed is not None
        relation = None if words == UNKNOWN_THERE else parsed.relation
        scores.append(position_score(relation, first, second))
    return {"score": scores}


def _visor(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    outcomes, right = [], {}
    for number, prompt in enumerate(inputs["prompts"]):
        group = []
        for picture in range(params["images_per_prompt"]):
            name = f"{number}_{picture}"
            found = inputs["detections"][name]
            centres = dict(zip(reversed(found["classes"]), reversed(found["centroid"]), strict=True))
            first, second = (centres.get(prompt[f"obj_{one}_attributes"][0]) for one in (1, 2))
            skipped = prompt["rel_type"] == params["skip_relation"]
            both = first is not None and second is not None and not skipped
            parsed = None if skipped else parse_spatial_prompt(prompt["text"])
            correct = both and parsed is not None and stands(parsed.relation, (*first,), (*second,))  # type: ignore[misc]
            group.append((first is not None, second is not None, correct))
            right[name] = int(correct)
        if prompt["rel_type"] != params["skip_relation"]:
            outcomes.append(group)
    found = {name: None if value is None else 100 * value for name, value in visor(outcomes).items()}
    each = [found[f"VISOR_{n}"] for n in range(1, params["images_per_prompt"] + 1)]
    named = {name: found[name] for name in ("OA", "OA_A", "OA_B", "VISOR_cond", "VISOR_uncond")}
    return {**named, "VISOR_1_2_3_4": each, "sra": right}
