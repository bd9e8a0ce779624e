"""tvta: MIL-NCE over the frames of a batch, moments and their recall, frames inside an interval."""

from __future__ import annotations

from typing import Any

import torch

from coalign.video.grounding.losses import alignment_recall, batch_positives, mil_nce, moments, time_mask
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if inputs["kind"] == "time_mask":
        starts, ends = (torch.tensor(inputs[name]) for name in ("start", "end"))
        return {"mask": time_mask(starts, ends, params["num_frames"], params["fps"])}
    cosine, temperature = inputs.tensor("cosine"), params["temperature"]
    inside = torch.tensor(inputs["time_mask"])
    padding = torch.tensor(inputs["visual_padding_mask"])
    if inputs["kind"] == "milnce":
        return {
            "losses": mil_nce(cosine, batch_positives(inside), padding.flatten(), temperature=temperature)
        }
    found, _ = moments(cosine, padding, temperature=temperature)
    recall = alignment_recall(found, inside, torch.tensor(inputs["alignable"]))
    return {"pred_time": found, "recall": recall}
