"""Compatibility loss with its gradient, and flips. Logits come as [B, L, V]; only valid positions count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.evaluation.muscle import compatibility_losses, old_version_mask
from coalign.evaluation.regressions.flips import flips, smooth_flips


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    if params["op"] == "flips":
        found = flips(inputs["old_pred"], inputs["new_pred"], inputs["labels"])
        return {
            "acc_old": found.accuracy_old,
            "acc_new": found.accuracy_new,
            "nfr": found.nfr,
            "pfr": found.pfr,
            "nfr_mc": found.nfr_mc,
            "btc": found.btc,
        }
    if params["op"] == "smooth_flips":
        smooth = smooth_flips(inputs["score_old"], inputs["score_new"])
        return {
            "pfr": smooth.pfr,
            "nfr": smooth.nfr,
            "mean_gain": smooth.gain,
            "mean_regression": smooth.loss,
        }
    return _loss(inputs, params)


def _loss(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    old, new, student = (
        torch.tensor(inputs[name], dtype=torch.float64)
        for name in ("old_logits", "new_logits", "student_logits")
    )
    student.requires_grad_(True)
    labels, valid = torch.tensor(inputs["labels"]), torch.tensor(inputs["valid"]).bool()
    rows = valid.nonzero()[:, 0]
    flat = student[valid], old[valid], new[valid], labels[valid], rows
    count = max(len(rows), 1)

    def mean(weight: float) -> torch.Tensor:
        options = {"temperature": params["temperature"], "mask": params["mask"]}
        return compatibility_losses(*flat, distillation_weight=weight, **options).sum() / count

    loss = mean(params["lam"])
    (gradient,) = torch.autograd.grad(loss, student)
    mask = torch.zeros_like(labels)
    mask[valid] = old_version_mask(params["mask"], flat[0], flat[1], flat[3], rows).long()
    return {
        "loss": loss.item(),
        "comp": mean(1.0).item(),
        "ce": mean(0.0).item(),
        "mask_values": mask.tolist(),
        "grad_student_logits": gradient.tolist(),
    }
