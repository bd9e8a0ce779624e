"""Features of pictures under any image encoder of Transformers: CLIP and SigLIP, DINOv2, ViT, ConvNeXt, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coalign.models.devices import pick_device
from coalign.models.files.failures import explained
from coalign.models.files.places import locate
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class ImageFeatures:
    """One vector a picture: the pooled output of the encoder, else the mean of its last hidden states.

    Args:
        name: folder or hub id.

    Raises:
        ModelError: absent, no safetensors weights, or without an image processor.
    """

    def __init__(
        self, name: str, *, revision: str | None = None, device: str = "auto", batch_size: int = 32
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel

        place = locate(name, revision)
        hub: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
        try:
            self.processor = AutoImageProcessor.from_pretrained(place.path, **hub)
            with no_weight_bars():
                model = AutoModel.from_pretrained(place.path, use_safetensors=True, **place.of_weights)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise explained(error, place, "image encoder") from error
        self.device = pick_device(device)
        self.model: Any = model.to(self.device).eval()
        self.batch_size = batch_size

    def __call__(self, pictures: Sequence[Image]) -> NDArray[np.float64]:
        """[N, D] features, float64."""
        parts = [
            self._features(pictures[first : first + self.batch_size])
            for first in range(0, len(pictures), self.batch_size)
        ]
        return np.concatenate(parts)

    def _features(self, pictures: Sequence[Image]) -> NDArray[np.float64]:
        from coalign.models.scoring.products import inference

        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.device)
        with inference():
            found: Any = getattr(self.model, "get_image_features", self.model)(**inputs)
        return _pooled(found).flatten(1).double().cpu().numpy()


def _pooled(found: Any) -> Any:
    """[B, D, ...] of a model's output: itself where it is one tensor, what it calls pooled, else the mean over places."""
    if torch.is_tensor(found):
        return found
    pooled = getattr(found, "pooler_output", None)
    if pooled is not None:
        return pooled
    hidden = found.last_hidden_state
    return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
