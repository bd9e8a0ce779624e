"""AlignScore: chunks, sentences and their aggregation, scores of the heads, the joint loss and its gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.evaluation.factuality.model import PairLogits, head_scores, joint_loss
from coalign.evaluation.factuality.scorer import aggregate, split
from coalign.evaluation.factuality.sentences import chunk_sizes, group
from tests.vectors.autograd import gradients_of, tensors

LOGITS = ("bin_logits", "tri_logits", "reg_pred", "mlm_logits")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    if params["op"] == "split_and_aggregate":
        return _aggregated(inputs, params)
    if params["op"] == "head_scores":
        given = tensors(inputs)
        logits = PairLogits(given["bin_logits"], given["tri_logits"], given["reg_logits"])
        return {f"score_{head}": head_scores(logits, head) for head in ("nli", "bin", "reg")}
    given = tensors(inputs, *LOGITS, gradients=LOGITS)
    labels = {
        "bin": torch.tensor(inputs["align_label"]),
        "tri": torch.tensor(inputs["tri_label"]),
        "reg": torch.tensor(inputs["reg_label"], dtype=torch.float64),
        "mlm": torch.tensor(inputs["mlm_label"]),
    }
    assert params["ignore_index"] == -100
    found = joint_loss(PairLogits(*given.values()), labels, mlm_weight=params["mlm_loss_factor"])
    names = ("sum_mlm", "sum_bin_over_ln2", "sum_tri_over_ln3", "sum_sq_reg")
    return {
        "loss": found.loss,
        **dict(zip(names, found.sums, strict=True)),
        "counts": found.counts,
        **gradients_of(found.loss, given, expected),
    }


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
