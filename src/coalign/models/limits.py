"""What a model can be given: token ids that it embeds, and as many positions as it has learned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from coalign.core.errors import ModelError
from coalign.models.modules import vision_towers

_POSITIONS = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings?|pos_emb)$")


def learned_positions(model: torch.nn.Module) -> int | None:
    """How many positions of text a model has an embedding for; None for rotary and other computed positions."""
    seeing = tuple(f"{one}." for one in vision_towers(model))
    for name, module in model.named_modules():
        of_text = not name.startswith(seeing) if seeing else True
        if of_text and isinstance(module, torch.nn.Embedding) and _POSITIONS.search(name):
            return module.num_embeddings - int(getattr(module, "offset", 0))
    return None


def assert_fits(model: torch.nn.Module, texts: Iterable[Sequence[int]]) -> None:
    """Refuse token ids and lengths that the model has no embedding for, which would end in an IndexError or worse.

    Args:
        texts: token ids, each with everything that is to follow it.

    Raises:
        ModelError: naming the tokens that are embedded, or the positions that there are.
    """
    embedded = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    positions = learned_positions(model)
    for ids in texts:
        largest = max(ids, default=0)
        if largest >= embedded:
            raise ModelError(
                f"The text has the token id {largest}, and the model embeds {embedded} tokens: the tokenizer has tokens "
                "that were added without resizing the model.",
                hint="Resize the model's embeddings (model.resize_token_embeddings(len(tokenizer))) and save it, or take "
                "the tokenizer that belongs to it.",
            )
        if positions is not None and len(ids) > positions:
            raise ModelError(
                f"A text has {len(ids)} tokens, and the model has {positions} positions.",
                hint=f"Give --max-length {positions} or less.",
            )
