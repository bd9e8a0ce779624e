"""Log-probabilities of responses together with the values that a head reads off the states before their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.models.modules import unwrap
from coalign.models.scoring import engine
from coalign.models.types import ResponseLogps, Responses

if TYPE_CHECKING:
    from torch import Tensor, nn


def make_value_head(model: nn.Module) -> nn.Module:
    """A linear head in float32 on the last hidden states of `model`, on its device; it says 0 until it is trained."""
    output = cast("Any", unwrap(model)).get_output_embeddings()
    head = torch.nn.Linear(output.in_features, 1, device=output.weight.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def score_with_values(
    model: nn.Module,
    head: nn.Module,
    responses: Responses,
    *,
    batch_tokens: int | None = None,
    path: engine.Path = "auto",
    temperature: float = 1.0,
) -> tuple[ResponseLogps, Tensor]:
    """As `engine.score_responses`, in the same forward passes; all tokens count.

    Args:
        head: [..., D] hidden states to [..., 1]; gradients flow through it into the model.

    Returns:
        The log-probabilities, and [N] the value of the state before each token: prompt and response up to it.
    """
    states: list[Tensor] = []
    bare: Any = unwrap(model)
    taken = engine.resolve_path(model, path, responses)
    scorer = engine.packed_logps if taken == "packed" else engine.padded_logps
    hook = bare.get_output_embeddings().register_forward_pre_hook(lambda _, given: states.append(given[0]))

    def score(part: Responses) -> Tensor:
        states.clear()
        logps = scorer(model, part, temperature)
        hidden = states[0][0] if taken == "packed" else states[0].flatten(0, 1)
        rows = engine.predictor_rows(part, taken, states[0].shape[1]).to(hidden.device)
        values = head(hidden.index_select(0, rows).to(next(head.parameters()).dtype)).squeeze(-1)
        return torch.stack([logps, values.to(logps.dtype)], dim=1)

    try:
        both = engine.in_passes(score, responses, batch_tokens)
    finally:
        hook.remove()
    logps, values = both.token_logps.unbind(1)
    return ResponseLogps(logps, both.lengths, both.prompt_index), values
