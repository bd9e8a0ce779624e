"""GLSCL: global and local similarity, both consistency losses, ranks, and normalisation by a bank of queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from coalign.measures.retrieval import match_ranks
from coalign.video.glscl import inter_consistency, intra_diversity, margin_ranking, matching_loss
from coalign.video.retrieval.interaction import global_similarity, local_similarity
from coalign.video.retrieval.ranking import query_bank_normalised
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if inputs["kind"] == "margin_ranking":
        return {"loss": margin_ranking(inputs.tensor("sim"), params["margin"])}
    if inputs["kind"] == "qb_norm":
        bank, test = inputs.tensors("bank_sim", "test_sim")
        sim = query_bank_normalised(test, bank, k=params["k"], beta=params["beta"], least=params["theta"])
        return {"sim": sim}
    if inputs["kind"] == "retrieval_metrics":
        ranks = match_ranks(inputs.tensor("sim").numpy())
        recall = {f"R{k}": 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
        return {**recall, "MedianR": float(np.median(ranks)), "MeanR": float(ranks.mean())}
    pooled, frames, mask = inputs.tensors("text_eos", "video_frames", "video_mask")
    clips, texts = (normalize(inputs.tensor(f"{one}_query_out"), dim=-1) for one in ("visual", "text"))
    whole = global_similarity(pooled, frames, mask, params["temp"])
    local = local_similarity(texts, clips)
    scale = torch.tensor(params["logit_scale_log"], dtype=torch.float64).exp()
    similarity = whole + params["local_weight"] * local
    matching = matching_loss(similarity, scale)
    consistency = inter_consistency(texts, clips, weight=params["beta"], target=params["target"])
    diversity = params["alpha"] * intra_diversity(clips, params["margin"])
    return {
        "global_sim": whole,
        "local_sim": local,
        "train_sim_t2v": similarity,
        "intra_diversity_loss": diversity,
        "inter_consistency_loss": consistency,
        "matching_loss": matching,
        "loss": matching + consistency + diversity,
    }
