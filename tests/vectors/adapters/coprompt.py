"""coprompt: the loss over given features, splices of deep prompts, and the harmonic mean."""

from __future__ import annotations

import math
from typing import Any

from torch.nn.functional import cross_entropy

from coalign.pairs.losses import similarity
from coalign.pairs.prompts import appended, overwritten
from coalign.vision.tuning.few_shot import harmonic_mean
from coalign.vision.tuning.prompted import adapted
from coalign.vision.tuning.training import consistency_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    return {"coprompt_loss": _loss, "deep_prompt_splice": _splice, "harmonic_mean": _mean}[inputs["kind"]](
        inputs, params
    )


def _loss(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    names = (
        "image_features",
        "text_features",
        "adapter_image_down",
        "adapter_image_up",
        "adapter_text_down",
        "adapter_text_up",
    )
    given = {name: inputs.tensor(name).requires_grad_() for name in names}
    image = adapted(
        given["image_features"],
        given["adapter_image_down"],
        given["adapter_image_up"],
        params["image_adapter_ratio"],
    )
    text = adapted(
        given["text_features"],
        given["adapter_text_down"],
        given["adapter_text_up"],
        params["text_adapter_ratio"],
    )
    logits = similarity(image, text, math.exp(params["logit_scale_log"]))
    ce = cross_entropy(logits, inputs.tensor("labels").long())
    frozen = inputs.tensor("frozen_image_features"), inputs.tensor("frozen_text_features")
    by_image, by_text = consistency_loss(image, text, *frozen, params["criterion"])
    apart = by_image.mean() + by_text.mean()
    loss = ce + params["lam"] * apart if params["lam"] else ce
    loss.backward()
    return {
        "logits": logits,
        "loss_ce": ce,
        "loss_consistency": apart if params["lam"] else None,
        "loss": loss,
        "grad_image_features": given["image_features"].grad,
        "grad_text_features": given["text_features"].grad,
        "grad_adapter_image_down": given["adapter_image_down"].grad,
        "grad_adapter_text_up": given["adapter_text_up"].grad,
    }


def _splice(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    tokens, prompt = inputs.tensor("tokens").transpose(0, 1), inputs.tensor("prompt")
    text = params["branch"] == "text"
    found = overwritten(tokens, prompt, first=1) if text else appended(tokens, prompt, replace=True)
    return {"tokens": found.transpose(0, 1)}


def _mean(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    return {"hm": harmonic_mean(inputs["base_acc"], inputs["novel_acc"])}
