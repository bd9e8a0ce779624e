"""AWP: shifted alignments, corrected words, scores, losses and gradients; the official code sums over the samples."""

from __future__ import annotations

from typing import Any

import torch

from coalign.speech.awp import alignment_scores, hinge_loss
from coalign.speech.ctc.vocabulary import Vocabulary
from coalign.speech.objectives import properties
from coalign.speech.objectives import properties as awp
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "path_T" in inputs:
        return _shifts(inputs["path_T"], params["blank"])
    logits = inputs.tensor("logits_BVT").requires_grad_().transpose(1, 2)
    paths = torch.tensor(inputs["paths_BNT"])
    lengths = torch.tensor(inputs["lengths_B"])
    # The code samples and changes all padded frames; only the score looks at the lengths.
    whole = torch.full_like(lengths, paths.shape[-1])
    outputs: dict[str, Any] = {}
    if params["property"] == "low_latency":
        removed = torch.nn.functional.one_hot(
            torch.tensor(inputs["removed_index_BN"]), paths.shape[-1]
        ).bool()
        assert (removed & awp.removable(paths, whole, params["blank"])).sum() == removed.sum()
        better = awp.remove_frames(paths, removed, whole, params["blank"])
        outputs["shifted_paths_BNT"] = better
    else:
        better = _corrected(paths, whole, inputs, params)
        signs = params["alphabet"] + params["blank_char"]
        outputs["shifted_text_BN"] = [
            ["".join(signs[label] for label in path) for path in item] for item in better.tolist()
        ]
    losses = hinge_loss(logits, paths, better, lengths, margin=params["margin"])
    loss = losses.mean() * paths.shape[1]
    (gradient,) = torch.autograd.grad(loss, [inputs.tensor("logits_BVT")], retain_graph=True)
    return {
        **outputs,
        "mean_logprob_sampled_BN": alignment_scores(logits, paths, lengths),
        "mean_logprob_shifted_BN": alignment_scores(logits, better, lengths),
        "loss": loss,
        "loss_paper_mean_over_N": losses.mean(),
        "grad_logits_sum_abs": gradient.abs().sum(),
        "grad_logits_frame_argmax_abs_BT": gradient.abs().argmax(1),
    }


def _shifts(path: list[int], blank: int) -> dict[str, Any]:
    paths, lengths = torch.tensor([[path]]), torch.tensor([len(path)])
    places = awp.removable(paths, lengths, blank)[0, 0].nonzero().flatten().tolist()
    shifted = []
    for place in places or [len(path)]:  # nothing is removed where nothing can be
        removed = torch.arange(len(path)).eq(place).expand_as(paths)
        shifted.append(awp.remove_frames(paths, removed, lengths, blank)[0, 0].tolist())
    return {"removable_indices": places, "shifted_for_each_choice": shifted}


def _corrected(
    paths: torch.Tensor, lengths: torch.Tensor, inputs: dict[str, Any], params: dict[str, Any]
) -> torch.Tensor:
    tokens = [one if one != " " else "|" for one in params["alphabet"]] + [params["blank_char"]]
    context = awp.Context(
        Vocabulary(tokens, params["blank"]), torch.Generator(), max_char_distance=params["max_char_dist"]
    )
    ranks = iter(inputs["choice_rank_BN"])  # one is used where there is something to choose from
    original = torch.randint

    def given(high: int, size: Any, **unused: Any) -> torch.Tensor:
        return torch.tensor(next(ranks) % high)

    properties.torch.randint = given  # type: ignore[assignment]
    try:
        return awp.for_each_path(awp.minimum_wer_path)(paths, lengths, inputs["gt_B"], context)
    finally:
        properties.torch.randint = original  # type: ignore[assignment]
