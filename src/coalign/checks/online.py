"""Learning from a tiny model's own samples: REINFORCE with a leave-one-out baseline, and nothing else around it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.checks.tiny_models import TinyGRU, sample
from coalign.training.losses.policy_gradient import group_advantages

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampled:
    """Responses of one length.

    Attributes:
        inputs: [P n, prompt + response] token ids.
        tokens: [P, n, T] those of the responses.
    """

    inputs: Tensor
    tokens: Tensor

    def logps(self, model: TinyGRU) -> Tensor:
        """[P, n] log-probabilities of the responses under a model, with its gradient."""
        count, n, length = self.tokens.shape
        logits = model(input_ids=self.inputs[:, :-1]).logits[:, -length:]
        targets = self.inputs[:, -length:, None]
        return logits.log_softmax(-1).gather(-1, targets).sum((-1, -2)).view(count, n)


def sampled(
    model: TinyGRU, prompts: Sequence[Sequence[int]], generator: torch.Generator, *, n: int, length: int
) -> Sampled:
    """n responses to every prompt, prompts of one length."""
    tokens = torch.tensor(sample(model, prompts, generator, n=n, max_new_tokens=length))
    asked = torch.tensor([list(one) for one in prompts])[:, None].expand(-1, n, -1)
    return Sampled(torch.cat([asked, tokens], dim=-1).flatten(0, 1), tokens)


def divergence(model: TinyGRU, base: TinyGRU, samples: Sampled) -> float:
    """KL(model || base) in nats, estimated from samples of the model."""
    with torch.no_grad():
        return float((samples.logps(model) - samples.logps(base)).mean())


def reinforced(
    model: TinyGRU,
    base: TinyGRU,
    prompts: Sequence[Sequence[int]],
    utility: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    *,
    strength: float,
    n: int,
    length: int,
    steps: int,
    learning_rate: float,
) -> TinyGRU:
    """A copy of `model` that went up `E[u / strength] - KL(policy || base)`: RLOO, one update a batch, Adam.

    Args:
        utility: [P, n, T] responses to [P, n] what they are worth.
        strength: the KL coefficient. The log-ratio counts in the reward.
    """
    policy = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate, fused=True)
    for _ in range(steps):
        batch = sampled(policy, prompts, generator, n=n, length=length)
        logps = batch.logps(policy)
        with torch.no_grad():
            rewards = utility(batch.tokens) / strength - (logps - batch.logps(base))
            advantages = group_advantages(rewards, baseline="leave_one_out")
        optimizer.zero_grad()
        (-(advantages * logps).mean()).backward()
        optimizer.step()
    return policy.eval()
