"""unipt: the contrastive loss over pooled tokens, masked words, the phrases of a picture, the ranking loss."""

from __future__ import annotations

from typing import Any

import torch

from coalign.pairs.losses import contrastive_loss, similarity
from coalign.vision.search.lexicon import choose
from coalign.vision.search.objectives import masked_word_loss, ranking_hinge
from coalign.vision.search.towers import max_pooled
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    kinds = {"contrastive": _contrastive, "mlm": _words, "pseudo_text_select": _phrases, "ranking": _ranking}
    return kinds[inputs["kind"]](inputs, params)


def _contrastive(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    text, image = (max_pooled(inputs.tensor(f"{side}_tokens_projected")) for side in ("text", "image"))
    other = contrastive_loss(image, text, 1 / params["alt_temperature"]).mean()
    return {
        "similarity": similarity(image, text),
        "loss": contrastive_loss(image, text, 1 / params["temperature"]).mean(),
        "loss_at_alt_temperature": other,
    }


def _words(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    total, count = masked_word_loss(inputs.tensor("logits"), inputs.tensor("labels").long())
    return {"loss": total / count}


def _phrases(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    image = torch.tensor([inputs["image_embedding"]], dtype=torch.float64)

    def chosen(phrases: list[list[float]], required: bool) -> int | None:
        how = {"scale": params["logit_scale"], "threshold": params["optional_threshold"]}
        place = int(choose(image, torch.tensor(phrases, dtype=torch.float64), required=required, **how)[0])
        return None if place < 0 else place

    return {
        kind: {name: chosen(phrases, kind == "required") for name, phrases in inputs[kind].items()}
        for kind in ("required", "optional")
    }


def _ranking(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    names = ("sim_pos", "sim_neg_text", "sim_neg_image")
    losses = ranking_hinge(*(inputs.tensor(name) for name in names), margin=params["margin"])
    return {"per_pair": losses, "mean": losses.mean()}
