"""The objective of fine-grained alignment: an overall score, a score of every token, and which tokens are elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

VarianceWeight = Literal["none", "exp"]


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

    Raises:
        ValueError: `exp` without variances.
    """
    probabilities = match_probabilities(logits)
    overall = (overall_scores(probabilities, queries) - scores).abs()
    if variance_weight == "exp":
        if variances is None:
            raise ValueError("variance_weight 'exp' needs the variance of each prompt's scores")
        overall = overall * variances.exp()
    tokens = (probabilities[:, queries:] * mask - token_scores).abs().mean(-1)
    marks = (predicted_mask - mask).abs().mean(-1)
    return overall + token_weight * tokens + mask_weight * marks


def contrasted(p_positive: Tensor, p_negative: Tensor) -> Tensor:
    """[...] `(P_T + 1 - P_F) / 2`: PN-VQA's score of an element from P(yes) when it is asked whether the answer is yes, and
    when it is asked whether it is no (arXiv 2412.18150, section 4.2).
    """
    return (p_positive + 1 - p_negative) / 2
