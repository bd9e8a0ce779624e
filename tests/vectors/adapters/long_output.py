"""Long output: lengths, the filter, quality, and the loss over all tokens of a batch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from coalign.core.files import read_rows
from coalign.curation.long_writing.filtering import filter_records
from coalign.curation.long_writing.lengths import count_words, length_score, required_length
from coalign.curation.long_writing.quality import quality_totals
from coalign.data.records import Demonstration, Source
from coalign.training.losses.supervised import nll_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "length_score":
            scores = [length_score(*one) for one in zip(inputs["required"], inputs["actual"], strict=True)]
            return {"scores": scores, "mean": fmean(scores)}
        case "count_words":
            texts = inputs["texts"]
            chinese = [any("\u4e00" <= one <= "\u9fff" for one in text) for text in texts]
            return {"counts": [count_words(text) for text in texts], "is_chinese": chinese}
        case "required_length":
            return {"lengths": [required_length(one) for one in inputs["prompts"]]}
        case "two_stage_filter":
            return _filtered(inputs["prompts"], inputs["response_word_counts"], params["threshold"])
        case "quality_aggregate":
            return {"totals": quality_totals(inputs["judge_scores"], params["missing_value"])}
        case _:
            return _token_mean(inputs)


def _token_mean(inputs: Given) -> dict[str, Any]:
    logps = (
        inputs.tensor("logits").log_softmax(-1).gather(-1, torch.tensor(inputs["labels"])[..., None])[..., 0]
    )
    mask = inputs.tensor("target_mask")
    sums, lengths = (logps * mask).sum(-1), mask.sum(-1)
    # as the trainer divides: by the tokens of the whole step
    loss = nll_loss(sums, lengths).sum() / lengths.sum()
    return {"loss": loss, "per_sequence_mean_loss": nll_loss(sums, lengths, reduction="mean").mean()}


def _filtered(prompts: list[str], counts: list[int], threshold: float) -> dict[str, Any]:
    records = [
        Demonstration(
            source=Source("vectors", None, place),
            prompt=[{"role": "user", "content": prompt}],
            completion=" ".join(["word"] * count),
        )
        for place, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        done = filter_records(Path(folder), records, threshold=threshold)
        rows = list(done.rows())
        fell = [int(one["id"]) for one in read_rows(done.rejects) if one["step"] != "length named"]
    return {
        "stage1_kept": sorted([*(int(row["id"]) for row in rows), *fell]),
        "stage2_kept": [int(row["id"]) for row in rows],
        "stage2_scores": [row["score_length"] for row in rows],
    }
