"""PRO on rankings of one length. Where a case has logits, sums and lengths are computed from them too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from coalign.models.types import ResponseLogps
from coalign.preference.pro import pro_loss, pro_rank_losses
from coalign.training.losses.numerics import mean_logps
from tests.vectors.autograd import gradients_of, tensors


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, "sum_logps", "lengths", "rewards", gradients=("sum_logps",))
    logps, lengths, rewards = given["sum_logps"], given["lengths"], given["rewards"]
    if "logits" in inputs:
        scored = _score(inputs)
        torch.testing.assert_close(scored.sums().view_as(logps), logps.detach())
        torch.testing.assert_close(scored.lengths.view_as(logps).to(logps), lengths)
    # The library imitates the first response; a case that names another one builds that term itself.
    ranking = pro_rank_losses(mean_logps(logps, lengths), rewards, eps=params["eps"]).mean(dim=0)
    best = torch.tensor(inputs["sft_index"])[:, None]
    if (best == 0).all():
        losses = pro_loss(logps, lengths, rewards, sft_weight=params["sft_weight"], eps=params["eps"])
        sft = losses.mean() - ranking.sum()
    else:
        sft = -params["sft_weight"] * (logps.shape[1] - 1) ** 2 * logps.gather(1, best).mean()
    loss = ranking.sum() + sft
    return {
        "rank_losses": ranking,
        "sft_term": sft,
        "loss": loss,
        "scores": mean_logps(logps, lengths),
        **gradients_of(loss, given, expected),
    }


def _score(inputs: dict[str, Any]) -> ResponseLogps:
    """Input position t counts where it is attended to and not prefix, and predicts token t + 1."""
    logits, ids, attention, prefix = (
        torch.tensor(inputs[name]).flatten(0, 1)
        for name in ("logits", "input_ids", "attention_mask", "prefix_mask")
    )
    logps: Tensor = logits.double().log_softmax(dim=-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    counted = ((attention == 1) & (prefix == 0))[:, :-1]
    return ResponseLogps(logps[counted], counted.sum(dim=1), torch.arange(len(ids)))
