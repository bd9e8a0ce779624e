"""The divergence of whole token distributions, over the tokens that a reference finds likeliest.

The estimates of `losses.policy_gradient.kl_estimates` look at the sampled token alone; this looks at k tokens and has no
sampling noise. What a policy puts elsewhere is not seen: `kept_mass` says how much that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


class LikelyTokens(NamedTuple):
    """The k likeliest tokens of a distribution at each of N places.

    Attributes:
        ids: [N, k] in rising order; of equally likely tokens those with the lower ids.
        logps: [N, k] their log-probabilities among each other: the exponentials of a row sum to 1.
    """

    ids: Tensor
    logps: Tensor

    @classmethod
    def joined(cls, pieces: Sequence[LikelyTokens]) -> LikelyTokens:
        """One place after the other."""
        return cls(torch.cat([one.ids for one in pieces]), torch.cat([one.logps for one in pieces]))

    def to(self, device: torch.device) -> LikelyTokens:
        """The same on another device."""
        return LikelyTokens(self.ids.to(device), self.logps.to(device))


def likely_tokens(logits: Tensor, k: int) -> LikelyTokens:
    """The `k` likeliest tokens of logits [N, V], all of them where V is smaller; without gradient."""
    logits = logits.detach()
    k = min(k, logits.shape[-1])
    least = logits.topk(k, dim=-1).values[:, -1:]
    above = logits > least
    equal = logits == least
    room = k - above.sum(-1, keepdim=True)
    taken = above | (equal & (equal.cumsum(-1) <= room))
    ids = taken.nonzero()[:, 1].reshape(len(logits), k)
    return LikelyTokens(ids, logits.gather(-1, ids).log_softmax(-1))


def divergences(logits: Tensor, reference: LikelyTokens) -> Tensor:
    """[N] KL(policy || reference) over the reference's likeliest tokens, in nats, both renormalised over them.

    sum_S p (log p - log q) with p = softmax(logits[S]) (Baichuan Alignment, arXiv 2410.14940, section 2.1). Gradients flow
    through the policy's logits alone. With all tokens it is the KL divergence.
    """
    policy = logits.gather(-1, reference.ids).log_softmax(-1)
    return (policy.exp() * (policy - reference.logps.to(policy.dtype))).sum(-1)


def kept_mass(logits: Tensor, reference: LikelyTokens) -> Tensor:
    """[N] the policy's probability of the reference's likeliest tokens: 1 less what `divergences` does not see."""
    return (logits.gather(-1, reference.ids).logsumexp(-1) - logits.logsumexp(-1)).exp()
