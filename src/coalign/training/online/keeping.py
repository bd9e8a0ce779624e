"""A term that holds a policy to what it could do before: demonstrations beside the rollouts of every step.

Two forms are usual. `nll` goes on learning them (PPO-ptx, arXiv 2203.02155, equation 2). `kl` keeps the whole distributions on
them near those of the start model (Baichuan Alignment, arXiv 2410.14940, section 2.1): where the start is a merge, learning
the demonstrations again would pull it back to one of the models that were merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from coalign.core.options import Count, NonNegative, OptionGroup, option
from coalign.data.sources import DataSources, canonical_sources
from coalign.models.scoring.engine import score_responses, token_logits
from coalign.models.types import Responses
from coalign.training.losses.likely_tokens import divergences, kept_mass, likely_tokens

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.data.encoding import EncodedRecord

Kind = Literal["kl", "nll"]


@dataclass(kw_only=True)
class KeepingOptions(OptionGroup):
    """What the policy should go on doing while it learns from rewards."""

    __group__ = "Forgetting"

    ptx_data: DataSources | None = option(
        None, "demonstrations that are held to beside the rewards, such as those the start model learnt"
    )
    ptx_loss: Literal["kl", "nll"] = option(
        "kl",
        "kl: the divergence from the start model at their tokens; nll: their negative log-likelihood",
        source="arXiv 2410.14940, section 2.1; nll: 2203.02155, equation 2",
        only_with="ptx_data",
    )
    ptx_weight: NonNegative = option(0.1, "weight of this term", only_with="ptx_data")
    ptx_batch_size: Count = option(4, "demonstrations beside each optimizer step", only_with="ptx_data")
    ptx_top_k: Count = option(
        500,
        "likeliest tokens of the start model that the divergence is taken over",
        source="arXiv 2410.14940, section 2.1",
        only_with={"ptx_loss": "kl"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ptx_data is not None:
            self.ptx_data = canonical_sources(self.ptx_data, "ptx_data", weights=False)
        else:
            self.refuse(["ptx_top_k"], "without ptx_data")


@dataclass(frozen=True)
class Keeping:
    """Demonstrations, and how they are held to.

    Attributes:
        examples: encoded, each with one response.
        reference: opens a context that gives the start model.
        seed: of what is drawn; the demonstrations of a step depend on it and the step alone.
    """

    examples: Sequence[EncodedRecord]
    options: KeepingOptions
    reference: Callable[[], AbstractContextManager[nn.Module]]
    seed: int = 0

    def loss(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """[] the weighted mean over the tokens of the step's demonstrations, with gradient, and metrics [N] in nats."""
        responses = self.drawn(step)
        if self.options.ptx_loss == "nll":
            losses = -score_responses(model, responses).token_logps
            return self.options.ptx_weight * losses.mean(), {"ptx/nll": losses.detach()}
        with self.reference() as start, torch.no_grad():
            likely = [likely_tokens(one, self.options.ptx_top_k) for one in _in_order(start, responses)]
        found, kept = [], []
        for logits, wanted in zip(_in_order(model, responses), likely, strict=True):
            found.append(divergences(logits, wanted))
            kept.append(kept_mass(logits.detach(), wanted))
        losses = torch.cat(found)
        return self.options.ptx_weight * losses.mean(), {
            "ptx/kl": losses.detach(),
            "ptx/seen_mass": torch.cat(kept),
        }

    def drawn(self, step: int) -> Responses:
        """The demonstrations of a step: without repetition while there are enough."""
        size = len(self.examples)
        count = min(self.options.ptx_batch_size, size)
        number, within = divmod(step * count, size)
        draw = torch.Generator().manual_seed((self.seed + 7919 * number) % 2**63)
        order = torch.randperm(size, generator=draw).tolist()
        rows = [self.examples[order[(within + place) % size]] for place in range(count)]
        return Responses(
            [one.prompt_ids for one in rows],
            [one.response_ids[0] for one in rows],
            [*range(count)],
            [one.trained[0] if one.trained else [True] * len(one.response_ids[0]) for one in rows],
        )


def _in_order(model: nn.Module, responses: Responses) -> list[Tensor]:
    """For each demonstration the logits of its tokens that count."""
    assert responses.trained is not None
    logits = dict(token_logits(model, responses))
    return [logits[row][torch.tensor(mask)] for row, mask in enumerate(responses.trained)]
