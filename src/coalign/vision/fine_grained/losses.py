"""The objective of fine-grained alignment: an overall score, a score of every token, and which tokens are elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

VarianceWeight = Literal["none", "exp"]
Distance = Literal["absolute", "cross-entropy"]


def match_probabilities(logits: Tensor) -> Tensor:
    """[..., 2] logits of "does not match" and "matches" to the probability of the second, in float32 or wider: in half
    precision `1 + 4 p` sticks at 5.
    """
    return (logits.float() if logits.dtype.itemsize < 4 else logits).softmax(-1)[..., 1]


def overall_scores(probabilities: Tensor, queries: int) -> Tensor:
    """[B] `1 + 4 mean(p)` over the query places of [B, Q + L] probabilities: 1 to 5."""
    return 1 + 4 * probabilities[:, :queries].mean(-1)


def fine_grained_losses(
    logits: Tensor,
    predicted_mask: Tensor,
    mask: Tensor,
    token_scores: Tensor,
    scores: Tensor,
    variances: Tensor | None = None,
    *,
    queries: int,
    token_weight: float = 0.1,
    mask_weight: float = 0.1,
    variance_weight: VarianceWeight = "exp",
    distance: Distance = "absolute",
) -> Tensor:
    """[B] `w |s' - s| + a mean_l |p_l m_l - t_l| + b mean_l |m'_l - m_l|` (EvalMuse-40K, arXiv 2412.18150, section 4; official
    code `FGA_Blip2.forward`), not reduced.

    The means are over all L places, padding included, whose targets are 0. The weight w is `exp(var)` of the prompt's
    pictures under `exp`, of the overall term alone, and 1 under `none`, as in the released code.

    Args:
        logits: [B, Q + L, 2] of the query places and the text places; gradients flow.
        predicted_mask: [B, L] probability that a token is of an element; gradients flow.
        mask, token_scores: [B, L] targets; those of tokens outside of elements are 0.
        scores: [B] what people say overall, 1 to 5.
        variances: [B] of the overall scores of all pictures of the prompt; needed under `exp`.
        queries: Q.
        distance: `cross-entropy` puts the cross-entropy of probabilities, the overall score as a share, in place of absolute
            differences. Ours, for layers that start from random weights: the absolute difference of a probability is
            flat at its ends, and most labels are 1, so such layers come to say 1 everywhere and stay there.

    Raises:
        ValueError: `exp` without variances.
    """
    probabilities = match_probabilities(logits)
    if distance == "absolute":
        overall = (overall_scores(probabilities, queries) - scores).abs()
        tokens = (probabilities[:, queries:] * mask - token_scores).abs()
        marks = (predicted_mask - mask).abs()
    else:
        overall = _cross_entropy(probabilities[:, :queries].mean(-1), (scores - 1) / 4)
        tokens = _cross_entropy(probabilities[:, queries:], token_scores) * mask
        marks = _cross_entropy(predicted_mask, mask)
    if variance_weight == "exp":
        if variances is None:
            raise ValueError("variance_weight 'exp' needs the variance of each prompt's scores")
        overall = overall * variances.exp()
    return overall + token_weight * tokens.mean(-1) + mask_weight * marks.mean(-1)


def _cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy(
        probabilities, targets.to(probabilities.dtype), reduction="none"
    )


def contrasted(p_positive: Tensor, p_negative: Tensor) -> Tensor:
    """[...] `(P_T + 1 - P_F) / 2`: PN-VQA's score of an element from P(yes) when it is asked whether the answer is yes, and
    when it is asked whether it is no (arXiv 2412.18150, section 4.2).
    """
    return (p_positive + 1 - p_negative) / 2
