"""NEFTune: noise on the embeddings of the tokens that a model is trained on (Jain et al. 2023, arXiv 2310.05914)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ConfigError
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def embedding_noise(model: nn.Module, alpha: float | None) -> Iterator[None]:
    """In the block, every embedded token of a model in training mode gets independent noise, uniform in
    ±alpha / sqrt(L d): L tokens of its own sequence, d wide. Sequences are those of the paper: padding is not counted, and
    in a packed row a prompt with its responses is one. In evaluation mode nothing changes.

    Args:
        model: bare or wrapped; alpha None or 0 for none.

    Raises:
        ConfigError: a model without embeddings of tokens.
    """
    if not alpha:
        yield
        return
    bare: Any = unwrap(model)
    try:
        embeddings = bare.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of Transformers, or one of sounds or pictures
        embeddings = None
    if embeddings is None:
        raise ConfigError(
            f"neftune_noise_alpha has no effect on a {type(bare).__name__}, which embeds no tokens."
        )
    seen: dict[str, Any] = {}

    def look(module: nn.Module, positional: Any, named: dict[str, Any]) -> None:
        seen.update(layout=named.get("shared_prefix"), mask=named.get("attention_mask"))

    def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        sizes = sequence_lengths((embedded.shape[0], embedded.shape[1]), **seen).to(embedded)
        reach = alpha / (sizes * embedded.shape[-1]).sqrt()
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * reach[..., None]

    with contextlib.ExitStack() as hooks:
        hooks.callback(bare.register_forward_pre_hook(look, with_kwargs=True).remove)
        hooks.callback(embeddings.register_forward_hook(add).remove)
        yield


def sequence_lengths(shape: tuple[int, int], layout: Any = None, mask: Tensor | None = None) -> Tensor:
    """[B, T] for each place the tokens of the sequence that it belongs to, at least 1.

    Args:
        shape: [B, T] of the tokens.
        layout: of a packed row (`coalign.models.scoring.shared_prefix.Layout`).
        mask: [B, T] 1 where a token counts.
    """
    if layout is not None:
        sizes = torch.tensor([end - start for start, end in layout.spans])
        return sizes.repeat_interleave(sizes)[None].expand(shape)
    if mask is not None and mask.shape == torch.Size(shape):
        return mask.sum(dim=1, keepdim=True).clamp(min=1).expand(shape)
    return torch.full(shape, max(1, shape[1]))
