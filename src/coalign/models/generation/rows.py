"""The columns of rows of answers (`coalign.loops.rows`), as the back ends' samples fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalign.models.types import Generation


def row_of(samples: Sequence[Generation]) -> dict[str, Any]:
    """The columns of the responses to one prompt."""
    row: dict[str, Any] = {
        "responses": [one.text for one in samples],
        "finish_reasons": [one.finish_reason for one in samples],
        "tokens": [one.length or None for one in samples],
    }
    if samples[0].logprobs is not None:
        row["logprobs"] = [one.logprobs for one in samples]
    if samples[0].top_logprobs is not None:
        row["token_texts"] = [one.tokens for one in samples]
        row["top_logprobs"] = [one.top_logprobs for one in samples]
    return row
