"""The loss on two views, expected digits, labels, correlation, selective answering, best of n."""

from __future__ import annotations

import math
from typing import Any

import torch

from coalign.judging.parsing import read_expected_score
from coalign.judging.protocol import Scale
from coalign.measures.detection import pearson
from coalign.measures.selective import selective_curve
from coalign.rewards.self_j import combined_quality, quality_labels
from coalign.training.losses.self_distillation import self_distillation_terms
from tests.vectors.given import Given

IGNORED = -100


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "self_distillation_loss":
            views = [
                _targets(*inputs.tensors(f"{name}_logits", f"{name}_labels"))
                for name in ("teacher", "student")
            ]
            (teacher, labels), (student, _) = views
            terms = self_distillation_terms(teacher, student, labels, labels == params["eos_id"])
            means = [one.mean() for one in terms]
            loss = means[0] + params["alpha_student"] * means[1] + params["alpha_kd"] * means[2]
            return {"loss": loss, "teacher_ce": means[0], "student_ce": means[1], "kl": means[2]}
        case "expected_score":
            top = [(str(digit), math.log(one)) for digit, one in enumerate(inputs["digit_probs"]) if one > 0]
            return {"score": read_expected_score(top, Scale(low=0, high=9)).scores[0]}  # pyright: ignore[reportOptionalSubscript]
        case "combine_quality":
            quality = combined_quality(inputs["self_eval"], inputs["cosine"], weight=params["weight"])
            return {"quality": quality, "label": quality_labels(quality)}
        case "pearson":
            return {"r": pearson(inputs["x"], inputs["y"])}
        case "selective_curve":
            return vars(selective_curve(inputs["score"], inputs["quality"]))
        case "best_of_n":
            return {"index": [max(range(len(row)), key=row.__getitem__) for row in inputs["scores"]]}
        case other:
            raise ValueError(f"op {other!r}")


def _targets(logits: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the targets of [R, T, V] and [R, T], shifted by one."""
    wanted = labels[:, 1:] != IGNORED
    return logits[:, :-1][wanted], labels[:, 1:][wanted].long()
