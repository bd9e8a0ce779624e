"""Weight updates, trajectories, inner products of gradients, basis mixtures, shares of the nearest centroids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from coalign.curation.dga import updated_weights
from coalign.curation.mixing.task import inner_product
from coalign.measures.clusters import nearest, shares
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "weight_update":
            instant, new = updated_weights(
                inputs["weights"], inputs["alignments"], params["eta"], params["beta"]
            )
            return {"instant_weights": instant, "new_weights": new}
        case "trajectory":
            weights = np.full(len(inputs["alignments"][0]), 1 / len(inputs["alignments"][0]))
            found = []
            for alignments in inputs["alignments"]:
                _, weights = updated_weights(weights, alignments, params["eta"], params["beta"])
                found.append(weights)
            return {"weights": found}
        case "alignment":
            theta = _tensor(inputs["theta"]).requires_grad_()

            def gradient(x: Any, y: Any) -> list[torch.Tensor]:
                loss = ((_tensor(x) @ theta - _tensor(y)) ** 2).mean()
                return list(torch.autograd.grad(loss, theta))

            target = gradient(inputs["spec_x"], inputs["spec_y"])
            each = [gradient(x, y) for x, y in zip(inputs["domain_x"], inputs["domain_y"], strict=True)]
            return {
                "domain_gradients": torch.stack([one for (one,) in each]),
                "spec_gradient": target[0],
                "alignments": [inner_product(one, target) for one in each],
            }
        case "distribution_reweighting":
            basis, mix = np.array(inputs["basis"]), np.array(inputs["mix"])
            gradients = [[_tensor(one)] for one in basis @ np.array(inputs["domain_gradients"])]
            target = [_tensor(inputs["spec_gradient"])]
            alignments = [inner_product(one, target) for one in gradients]
            _, new = updated_weights(mix, alignments, params["eta"], params["beta"])
            return {
                "domain_weights_before": mix @ basis,
                "basis_alignments": alignments,
                "new_mix": new,
                "domain_weights_after": new @ basis,
            }
        case "importance_sampling":
            owners = nearest(inputs["spec_embeddings"], inputs["centroids"])
            return {"assignment": owners, "weights": shares(owners, len(inputs["centroids"]))}
        case other:
            raise ValueError(f"op {other!r}")


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
