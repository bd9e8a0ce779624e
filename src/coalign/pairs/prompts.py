"""Prompts in the layers of image and text towers: vectors that take the place of tokens, spliced in once for every use.

Deep prompts (Jia et al. 2022; Khattak et al. 2023, MaPLe): the first tensor goes in where tokens become vectors, the i-th
in front of layer i, where it replaces what the layer before made of its forerunner; layers after the last let them pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def image_prompts(tower: nn.Module, prompts: Sequence[Tensor] | None) -> Iterator[None]:
    """While the block runs, `tower` appends prompts to its patch tokens.

    The first stands behind the patch tokens after these have their positions (prompts have none), before any norm; in
    front of layer i the last n tokens are dropped and the i-th appended.

    Args:
        tower: a vision model of Transformers, with `embeddings` and `encoder`.
        prompts: J tensors [n, D_v] or [B, n, D_v], J at most the number of layers; None or none leaves it as it is.

    Raises:
        ValueError: more prompts than layers, or of different lengths.
    """

    def append(tokens: Tensor, depth: int) -> Tensor:
        return appended(tokens, prompts[depth], replace=depth > 0)  # type: ignore[index]

    with _spliced(tower.embeddings, tower, prompts, append):  # type: ignore[arg-type]
        yield


@contextlib.contextmanager
def text_prompts(tower: nn.Module, prompts: Sequence[Tensor] | None, *, first: int = 1) -> Iterator[None]:
    """While the block runs, prompts take the place of the n tokens from `first` on.

    The first does so before the positions are added; in front of layer i the slots are overwritten by the i-th. Token ids
    stay as they are, so the end of a text is found where it was.

    Args:
        tower: a text model of Transformers, with token embeddings and `encoder`.
        prompts: J tensors [n, D_t] or [B, n, D_t]; None or none leaves it as it is.
        first: place of the first slot; 1 keeps the start token.

    Raises:
        ValueError: more prompts than layers, prompts of different lengths, or a text that ends before the slots do.
    """

    def overwrite(tokens: Tensor, depth: int) -> Tensor:
        return overwritten(tokens, prompts[depth], first=first)  # type: ignore[index]

    with _spliced(tower.get_input_embeddings(), tower, prompts, overwrite):  # type: ignore[operator]
        yield


def appended(tokens: Tensor, vectors: Tensor, *, replace: bool) -> Tensor:
    """Tokens [B, N, D] with vectors [n, D] or [B, n, D] behind them, in place of the last n where they `replace` them."""
    vectors = _for_batch(vectors, tokens)
    kept = tokens[:, : -vectors.shape[1]] if replace else tokens
    return torch.cat([kept, vectors], dim=1)


def overwritten(tokens: Tensor, vectors: Tensor, *, first: int) -> Tensor:
    """Tokens [B, N, D] with vectors [n, D] or [B, n, D] in place of those from `first` on.

    Raises:
        ValueError: fewer than first + n tokens.
    """
    vectors = _for_batch(vectors, tokens)
    end = first + vectors.shape[1]
    if end > tokens.shape[1]:
        raise ValueError(f"texts have {tokens.shape[1]} tokens, expected at least {end} for the prompts")
    return torch.cat([tokens[:, :first], vectors, tokens[:, end:]], dim=1)


def layers_of(tower: nn.Module) -> Sequence[nn.Module]:
    """The layers of a tower of Transformers."""
    encoder: Any = tower.encoder
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer


@contextlib.contextmanager
def _spliced(
    embeddings: nn.Module, tower: nn.Module, prompts: Sequence[Tensor] | None, put: Any
) -> Iterator[None]:
    if not prompts:
        yield
        return
    layers = layers_of(tower)
    if len(prompts) > len(layers):
        raise ValueError(f"{len(prompts)} prompts for {len(layers)} layers, expected at most one a layer")
    if len({one.shape[-2] for one in prompts}) > 1:
        raise ValueError(f"prompts have {[one.shape[-2] for one in prompts]} vectors, expected one number")
    with contextlib.ExitStack() as hooks:
        made = embeddings.register_forward_hook(lambda _module, _inputs, output: put(output, 0))
        hooks.callback(made.remove)
        for depth in range(1, len(prompts)):
            made = layers[depth].register_forward_pre_hook(
                lambda _module, inputs, at=depth: (put(inputs[0], at), *inputs[1:])
            )
            hooks.callback(made.remove)
        yield


def _for_batch(vectors: Tensor, tokens: Tensor) -> Tensor:
    """[B, n, D] in the format of the tokens that they join."""
    return vectors.to(tokens.dtype).expand(len(tokens), *vectors.shape[-2:])
