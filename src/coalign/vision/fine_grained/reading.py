"""What scorers read: prompts and phrases as token ids, pictures as pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class Reader(Protocol):
    """How a model reads prompts and pictures."""

    def prompt_ids(self, text: str) -> list[int]:
        """A prompt with its special tokens, as long as the model can read."""
        ...

    def phrase_ids(self, text: str) -> list[int]:
        """A phrase without special tokens."""
        ...

    def padded(self, ids: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
        """([B, L], [B, L]) ids and mask, as long as the longest, or as `length`."""
        ...

    def pixels(self, pictures: Sequence[Any]) -> Tensor:
        """[B, 3, H, W] of pictures, opened or not."""
        ...


@dataclass
class TokenReader:
    """A Hugging Face tokenizer, and what makes pixels.

    Args:
        to_pixels: opened pictures to a tensor on the model's device.
        longest: tokens that the model can read; a longer prompt is cut before its end token.
        clean: what is done to prompts and phrases before.
    """

    tokenizer: Any
    to_pixels: Any
    device: torch.device
    longest: int = 512
    clean: Callable[[str], str] = str

    def prompt_ids(self, text: str) -> list[int]:
        return self.tokenizer(self.clean(text), truncation=True, max_length=self.longest)["input_ids"]

    def phrase_ids(self, text: str) -> list[int]:
        return self.tokenizer(self.clean(text), add_special_tokens=False)["input_ids"]

    def padded(self, ids: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
        size = length if length is not None else max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        filled = [[*one, *[pad] * (size - len(one))] for one in ids]
        mask = [[1] * len(one) + [0] * (size - len(one)) for one in ids]
        return torch.tensor(filled, device=self.device), torch.tensor(mask, device=self.device)

    def pixels(self, pictures: Sequence[Image.Image | Any]) -> Tensor:
        from coalign.data.media.pictures import Picture

        opened = [one.open() if isinstance(one, Picture) else one for one in pictures]
        return self.to_pixels(opened)


def plain_caption(text: str) -> str:
    """Lower case, without `.!"()*#:;~`, words parted by one space, at most 50: as BLIP-2's captions were in its training
    (LAVIS' `blip_caption`, which the official code uses).
    """
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", text.lower()).split()[:50])
