"""Image-text models behind two methods, whatever their kind: CLIP, SigLIP and their like from Transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError
from coalign.data.media.pictures import open_picture
from coalign.models.devices import pick_device
from coalign.models.files.loading import assert_whole, load_with_info
from coalign.models.files.places import locate
from coalign.pairs.activations import say_activation
from coalign.pairs.prompts import image_prompts, text_prompts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """What a tower makes of a batch.

    Attributes:
        pooled: [B, D] in the joint space, not of unit length.
        tokens: [B, N, D_tower] last hidden states (of an image: the class token first, where there is one, then patches;
            prompts are left out), before the projection (`ImageTextEncoder.project_tokens`).
        mask: [B, N] True where a token of a text counts, its end included; None: all of an image.
    """

    pooled: Tensor
    tokens: Tensor
    mask: Tensor | None = None


class ImageTextEncoder:
    """An image-text model with its tokenizer and image processor. `ImageTextEncoder.load` makes one from files.

    Args:
        model: of Transformers, with `get_image_features` and `get_text_features`.
        tokenizer, processor: of texts and of images.
        name: for messages and reports.

    Raises:
        ModelError: `model` has no such methods.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str = "model") -> None:
        lacking = [one for one in ("get_image_features", "get_text_features") if not hasattr(model, one)]
        if lacking:
            raise ModelError(
                f"{name} is a {type(model).__name__} without {lacking[0]}, expected an image-text model with features"
                " of both (CLIP, SigLIP and their like)."
            )
        self.model, self.tokenizer, self.processor, self.name = model, tokenizer, processor, name
        text = model.text_model
        if getattr(text, "eos_token_id", None) == 2 and tokenizer.eos_token_id not in (None, 2):
            # configurations from before 2023 state 2, and Transformers then takes the highest id for the end, which is
            # wrong as soon as a token is added; the end token itself says the same for the others
            text.eos_token_id = tokenizer.eos_token_id

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> ImageTextEncoder:
        """From a folder or a hub id; safetensors only. Frozen and in evaluation mode.

        Without torchvision images are processed by Pillow. The activation function of its layers is compared with that
        of its family and said in the log (`coalign.pairs.activations`).

        Raises:
            ModelError: it cannot be found or read, weights are missing, or it is no image-text model.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        place = locate(str(name), revision)
        model, info = load_with_info(AutoModel, place, "an image-text model", dtype=dtype)
        assert_whole(place, info, "Give the whole model, not one of its towers.")
        where: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
        try:
            tokenizer = AutoTokenizer.from_pretrained(place.path, **where)
            processor = AutoImageProcessor.from_pretrained(place.path, **_processing(), **where)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"{place.name}: its tokenizer or image processor cannot be read: {error}"
            ) from error
        say_activation(model.config, place)
        return cls(
            model.to(pick_device(device)).eval().requires_grad_(False), tokenizer, processor, place.name
        )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def scale(self) -> Tensor:
        """Scalar: what cosine similarities are multiplied by for logits, exp of the learnt logarithm; 1 without one."""
        learnt = getattr(self.model, "logit_scale", None)
        return learnt.exp().squeeze() if learnt is not None else torch.ones((), device=self.device)

    @property
    def width(self) -> int:
        """D of the joint space."""
        projection = getattr(self.model, "visual_projection", None)
        if projection is not None:
            return projection.out_features
        return self.model.vision_model.config.hidden_size

    @property
    def tower_widths(self) -> tuple[int, int]:
        """Width of the tokens of images and of texts."""
        return self.model.vision_model.config.hidden_size, self.model.text_model.config.hidden_size

    @property
    def depths(self) -> tuple[int, int]:
        """Layers of the towers of images and of texts."""
        return (
            self.model.vision_model.config.num_hidden_layers,
            self.model.text_model.config.num_hidden_layers,
        )

    def image(self, pixels: Tensor, prompts: Sequence[Tensor] | None = None) -> Encoded:
        """Encode images.

        Args:
            pixels: [B, 3, H, W] as `pixels` gives them.
            prompts: J tensors [n, D_v] or [B, n, D_v] (`coalign.pairs.prompts.image_prompts`).
        """
        with image_prompts(self.model.vision_model, prompts):
            found = self.model.get_image_features(pixel_values=pixels.to(self.device))
        extra = prompts[0].shape[-2] if prompts else 0
        tokens = found.last_hidden_state
        return Encoded(found.pooler_output, tokens[:, : tokens.shape[1] - extra])

    def text(
        self, ids: Tensor, prompts: Sequence[Tensor] | None = None, mask: Tensor | None = None
    ) -> Encoded:
        """Encode texts.

        Args:
            ids: [B, L] token ids as `ids` gives them.
            prompts: J tensors [n, D_t] or [B, n, D_t] in place of the n tokens after the start token
                (`coalign.pairs.prompts.text_prompts`).
            mask: [B, L] of the tokens that are attended to; None leaves it to the model (CLIP is causal and pools at the
                end token, SigLIP has learnt to read its padding).
        """
        ids = ids.to(self.device)
        counted = mask.to(self.device).bool() if mask is not None else self.text_mask(ids)
        attended = {"attention_mask": counted.long()} if mask is not None else {}
        with text_prompts(self.model.text_model, prompts, first=self.first_slot):
            found = self.model.get_text_features(input_ids=ids, **attended)
        return Encoded(found.pooler_output, found.last_hidden_state, counted)

    @property
    def first_slot(self) -> int:
        """Where a text's own tokens start: behind the start token, where the tokenizer puts one."""
        start = self.tokenizer.bos_token_id
        return int(start is not None and self.tokenizer("a")["input_ids"][0] == start)

    def text_mask(self, ids: Tensor) -> Tensor:
        """[B, L] True up to the first end token of each text; where a text has none, wherever it is not padding."""
        end, padding = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        begins = torch.arange(ids.shape[1], device=ids.device) >= self.first_slot
        ends = (ids == end) & begins if end is not None else torch.zeros_like(ids, dtype=torch.bool)
        before = ends.cumsum(1) - ends.long() == 0
        filled = ids != padding if padding is not None else torch.ones_like(before)
        return torch.where(ends.any(1, keepdim=True), before, filled)

    def project_tokens(self, encoded: Encoded, kind: str) -> Tensor:
        """[B, N, D] tokens in the joint space, by the projection of the pooled feature.

        Args:
            kind: `image` (through the norm that the class token passes) or `text`.

        Raises:
            ModelError: a model that pools by attention and has no projection of single tokens.
        """
        if not hasattr(self.model, "visual_projection"):
            raise ModelError(f"{self.name} has no projection of single tokens, expected a CLIP.")
        if kind == "image":
            return self.model.visual_projection(self.model.vision_model.post_layernorm(encoded.tokens))
        return self.model.text_projection(encoded.tokens)

    def pixels(self, pictures: Iterable[Any]) -> Tensor:
        """[B, 3, H, W] of pictures in any form that `open_picture` takes, resized and normalised as the model wants.

        Raises:
            MediaError: a picture that cannot be read.
        """
        opened = [open_picture(one) for one in pictures]
        return self.processor(images=opened, return_tensors="pt")["pixel_values"]

    def ids(self, texts: Sequence[str]) -> Tensor:
        """[B, L] token ids, filled up to the model's length, and cut there (the end token stays)."""
        limit = self.model.text_model.config.max_position_embeddings
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )["input_ids"]

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads."""
        limit = self.model.text_model.config.max_position_embeddings
        return sum(len(one) > limit for one in self.tokenizer(list(texts), verbose=False)["input_ids"])

    def save(self, folder: Path) -> None:
        """Write the model as Transformers reads it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _processing() -> dict[str, Any]:
    from transformers.utils import is_torchvision_available

    # asked for, so that no warning tells of a fall-back
    return {} if is_torchvision_available() else {"backend": "pil"}
