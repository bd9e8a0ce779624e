"""Photometry, losses on tone-mapped pictures with gradients, attention on luminance, the inverse camera curve."""

from __future__ import annotations

from typing import Any

from coalign.vision.exposures import photometry
from coalign.vision.exposures.attention import luminance_attention
from coalign.vision.exposures.losses import frequency_losses, temporal_losses
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "hdr" in inputs:
        hdr, ldr = inputs.tensors("hdr", "ldr")
        before, after = params["expo_from"], params["expo_to"]
        return {
            "tonemap_hdr": photometry.tone_mapped(hdr),
            "ldr_to_hdr": photometry.to_radiance(ldr, params["expo"]),
            "hdr_to_ldr_clamped": photometry.to_ldr(hdr, params["expo"]),
            "ldr_reexposed": photometry.re_exposed(ldr, before, after),
            "ldr_reexposed_down": photometry.re_exposed(ldr, after, before),
        }
    if "pred_t" in inputs:
        found, target, later, later_target = inputs.tensors("pred_t", "gt_t", "pred_t1", "gt_t1")
        l1, frequency = (found - target).abs().mean(), frequency_losses(found, target).mean()
        temporal = temporal_losses(found, later, target, later_target).mean()
        total = l1 + params["w_frequency"] * frequency + params["w_temporal"] * temporal
        return {
            "loss": total,
            "l1": l1,
            "frequency": frequency,
            "temporal": temporal,
            "total_without_perceptual": total,
        }
    if "query" in inputs:
        found = luminance_attention(*inputs.tensors("query", "key", "value", "embed_weight"))
        return {"argmax_key_for_query": found.places, "S": found.confidence, "T": found.values}
    n, sigma = params["n"], params["sigma"]
    linear = photometry.inverse_camera_curve(inputs.tensor("y"), n, sigma)
    return {
        "x": linear,
        "x_uint16": photometry.quantised(linear),
        "round_trip": photometry.camera_curve(linear, n, sigma),
    }
