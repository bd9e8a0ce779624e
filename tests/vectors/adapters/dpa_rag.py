"""DPA-RAG: the three losses of the reranker, the shortest combination of gradients, what a passage does to a reader."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from coalign.curation.reading.knowledge import category_of
from coalign.measures.min_norm import exact_min_norm, grid_min_norm
from coalign.training.losses.reranking import contrastive_loss, pairwise_loss, pointwise_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "losses":
            return _losses(inputs, params)
        case "mgda_weights":
            gradients = np.asarray(inputs["gradients"], dtype=np.float64)
            gram = gradients @ gradients.T
            found = {"official": grid_min_norm(gram), "exact": exact_min_norm(gram)}
            weights = {f"{name}_weights": one for name, one in found.items()}
            return weights | {f"{name}_objective": float(one @ gram @ one) for name, one in found.items()}
        case op:
            assert op == "category"
            return {"category": [category_of(one["no_doc"], one["with_doc"]) for one in inputs["records"]]}


def _losses(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    parts = ("cls", "rank", "pos", "neg")
    embeddings = {name: inputs.tensor(f"{name}_embeddings") for name in parts}
    weight, bias = inputs.tensors("weight", "bias")
    n = len(embeddings["cls"])
    queries = {name: torch.arange(n).repeat_interleave(len(one) // n) for name, one in embeddings.items()}
    points = pointwise_loss(
        embeddings["cls"] @ weight.T + bias, torch.tensor(inputs["cls_labels"]), queries["cls"], n
    )
    ranks = pairwise_loss((embeddings["rank"] @ weight.T + bias)[:, 1], queries["rank"], n)
    labels = torch.tensor([1] * len(embeddings["pos"]) + [0] * len(embeddings["neg"]))
    both = torch.cat([embeddings["pos"], embeddings["neg"]])
    between = contrastive_loss(
        both, labels, torch.cat([queries["pos"], queries["neg"]]), n, temperature=params["temperature"]
    )
    found = {"loss_cls": points.mean(), "loss_rank": ranks.mean(), "loss_scl": between.mean()}
    owner = {"cls": "loss_cls", "rank": "loss_rank", "pos": "loss_scl", "neg": "loss_scl"}
    for name, loss in owner.items():
        (found[f"grad_{name}_embeddings"],) = torch.autograd.grad(
            found[loss], embeddings[name], retain_graph=True
        )
    return found
