"""AlignScore: chunks, sentences and their aggregation, scores of the heads, the joint loss and its gradients."""

from __future__ import annotations

from typing import Any

import torch

from coalign.evaluation.factuality.model import PairLogits, head_scores, joint_sums, weigh
from coalign.evaluation.factuality.scorer import aggregate, split
from coalign.evaluation.factuality.sentences import chunk_sizes, group
from tests.vectors.given import Given

LOGITS = ("bin_logits", "tri_logits", "reg_pred", "mlm_logits")


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if params["op"] == "split_and_aggregate":
        return _aggregated(inputs, params)
    if params["op"] == "head_scores":
        logits = PairLogits(*inputs.tensors("bin_logits", "tri_logits", "reg_logits"))
        return {f"score_{head}": head_scores(logits, head) for head in ("nli", "bin", "reg")}
    columns = {"bin": "align_label", "tri": "tri_label", "mlm": "mlm_label"}
    labels = {head: torch.tensor(inputs[name]) for head, name in columns.items()}
    labels["reg"] = inputs.tensor("reg_label")
    assert params["ignore_index"] == -100
    sums, counts = joint_sums(PairLogits(*inputs.tensors(*LOGITS)), labels)
    loss = weigh(sums, counts, mlm_weight=params["mlm_loss_factor"])
    names = ("sum_mlm", "sum_bin_over_ln2", "sum_tri_over_ln3", "sum_sq_reg")
    return {"loss": loss, "counts": counts, **dict(zip(names, sums, strict=True))}


def _aggregated(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    parts = split(inputs["context"], inputs["claim"], words_per_chunk=params["words_per_chunk"])
    sentences = inputs["context_sentences"]
    sizes = chunk_sizes(len(sentences), len(inputs["context"].split()), params["words_per_chunk"])
    assert parts.chunks == [" ".join(one) for one in group(sentences, sizes)], "splitter and groups agree"
    score, best, _ = aggregate(torch.tensor(inputs["scores"], dtype=torch.float64))
    return {
        "chunks": parts.chunks,
        "claim_sentences": parts.sentences,
        "pair_count": len(parts.pairs()),
        "score": score,
        "per_sentence_max": best,
    }
