"""What is computed of a rollout before its first update: log-probabilities, values, and divergences from a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from coalign.models.scoring.engine import score_responses, token_logits
from coalign.models.scoring.token_head import token_logps_from_logits
from coalign.models.scoring.values import score_with_values
from coalign.training.losses.likely_tokens import LikelyTokens, divergences, likely_tokens
from coalign.training.online.policy_gradient import Known, Rollout

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


def know(
    rollout: Rollout,
    model: nn.Module,
    *,
    reference: Callable[[], Any] | None = None,
    old: bool = False,
    value_head: nn.Module | None = None,
    top_k: int | None = None,
    diverged: bool = False,
    batch_tokens: int = 4096,
) -> Known:
    """Score a rollout before its first update.

    Args:
        reference: opens a context that gives the reference; None: it is not needed.
        old: the policy's own log-probabilities are needed.
        value_head: of the policy; its values come with the log-probabilities.
        top_k: the likeliest tokens of the reference are needed, so many at each place.
        diverged: the policy's divergences over these are needed as well.
        batch_tokens: most tokens in one forward pass.
    """
    responses = rollout.responses()

    def score(scorer: nn.Module) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found = score_responses(
                scorer, responses, batch_tokens=batch_tokens, temperature=rollout.temperature
            )
        return tuple(one.cpu() for one in found.split())

    before = values = None
    if old and value_head is not None:
        with torch.no_grad():
            found, said = score_with_values(
                model, value_head, responses, batch_tokens=batch_tokens, temperature=rollout.temperature
            )
        before = tuple(one.cpu() for one in found.split())
        values = torch.split(said.cpu(), found.lengths.tolist())
    elif old and not diverged:
        before = score(model)
    if reference is None:
        return Known(before, None, values)
    if top_k is None:
        with reference() as frozen:
            return Known(before, score(frozen), values)

    def passes(scorer: nn.Module) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each response its row, its logits and its log-probabilities."""
        found = token_logits(scorer, responses, batch_tokens=batch_tokens, temperature=rollout.temperature)
        for row, logits in found:
            targets = torch.tensor(rollout.response_ids[row], device=logits.device)
            yield row, logits, token_logps_from_logits(logits, targets).cpu()

    compared: dict[int, Tensor] = {}
    likely: dict[int, LikelyTokens] = {}
    sampled: dict[int, Tensor] = {}
    apart: dict[int, Tensor] = {}
    with torch.no_grad():
        with reference() as frozen:
            for row, logits, logps in passes(frozen):
                compared[row] = logps
                likely[row] = likely_tokens(logits, top_k).to(torch.device("cpu"))
        if diverged:
            for row, logits, logps in passes(model):
                sampled[row] = logps
                apart[row] = divergences(logits, likely[row].to(logits.device)).cpu()
    if old and before is None:
        before = _by_row(sampled)
    return Known(before, _by_row(compared), values, _by_row(likely), _by_row(apart) if diverged else None)


def _by_row(found: dict[int, T]) -> tuple[T, ...]:
    return tuple(found[row] for row in range(len(found)))
