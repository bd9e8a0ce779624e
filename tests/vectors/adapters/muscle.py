"""Compatibility loss with its gradient, and flips. Logits come as [B, L, V]; only valid positions count."""

from __future__ import annotations

from typing import Any

import torch

from coalign.evaluation.muscle import compatibility_losses, old_version_mask
from coalign.evaluation.regressions.flips import flips, smooth_flips
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if params["op"] == "flips":
        found = flips(inputs["old_pred"], inputs["new_pred"], inputs["labels"])
        accuracies = {"acc_old": found.accuracy_old, "acc_new": found.accuracy_new}
        return {**accuracies, **{name: getattr(found, name) for name in ("nfr", "pfr", "nfr_mc", "btc")}}
    if params["op"] == "smooth_flips":
        smooth = smooth_flips(inputs["score_old"], inputs["score_new"])
        rates = {"pfr": smooth.pfr, "nfr": smooth.nfr}
        return {**rates, "mean_gain": smooth.gain, "mean_regression": smooth.loss}
    old, new, student = inputs.tensors("old_logits", "new_logits", "student_logits")
    labels, valid = torch.tensor(inputs["labels"]), torch.tensor(inputs["valid"]).bool()
    rows = valid.nonzero()[:, 0]
    flat = student[valid], old[valid], new[valid], labels[valid], rows
    count = max(len(rows), 1)

    def mean(weight: float) -> torch.Tensor:
        options = {"temperature": params["temperature"], "mask": params["mask"]}
        return compatibility_losses(*flat, distillation_weight=weight, **options).sum() / count

    mask = torch.zeros_like(labels)
    mask[valid] = old_version_mask(params["mask"], flat[0], flat[1], flat[3], rows).long()
    return {"loss": mean(params["lam"]), "comp": mean(1.0), "ce": mean(0.0), "mask_values": mask}
