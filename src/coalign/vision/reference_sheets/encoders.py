"""Image-text encoders as scorers: one picture or text at a time, so that no score depends on what shares a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from coalign.pairs.encoders import ImageTextEncoder


class EncoderScorer:
    """An image-text model of Transformers, loaded when it is first needed.

    Args:
        name: folder or hub id.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        self.name, self.device = name, device
        self._texts: dict[str, NDArray[np.float64]] = {}

    @cached_property
    def encoder(self) -> ImageTextEncoder:
        """The model; errors are those of `ImageTextEncoder.load`."""
        from coalign.pairs.encoders import ImageTextEncoder

        return ImageTextEncoder.load(self.name, device=self.device)

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
        """[N, D] pooled features, not of unit length."""
        found = [self.encoder.image(self.encoder.pixels([one])).pooled for one in pictures]
        return torch.cat(found).double().cpu().numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[N, D] pooled features; a text longer than the model reads is cut there (`cut` counts them)."""
        for one in texts:
            if one not in self._texts:
                found = self.encoder.text(self.encoder.ids([one])).pooled
                self._texts[one] = found[0].double().cpu().numpy()
        return np.stack([self._texts[one] for one in texts])

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads."""
        return self.encoder.cut(texts)
