"""Prompts with pictures as an image-text-to-text model takes them: by its own processor, pixels made when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ModelError
from coalign.data.media.pictures import picture_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coalign.data.records import Shown

_ATTRIBUTE = "picture_processor"


def attach_processor(tokenizer: PreTrainedTokenizerBase, processor: Any) -> None:
    """Let a tokenizer carry the processor that it belongs to."""
    setattr(tokenizer, _ATTRIBUTE, processor)


def processor_of(tokenizer: Any) -> Any | None:
    """The processor of an image-text-to-text model, by its tokenizer; None for a model of text alone."""
    return getattr(tokenizer, _ATTRIBUTE, None)


def image_token(processor: Any) -> str:
    """What stands for a picture in text that the processor takes."""
    found = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None)
    return str(getattr(found, "content", found) or "<image>")


@dataclass(frozen=True, eq=False)
class PicturePrompt:
    """A rendered prompt and its pictures.

    Attributes:
        text: with one image token a picture.
        ids: token ids, each picture as many tokens as the model has for it.
    """

    processor: Any
    text: str
    pictures: tuple[Shown, ...]
    ids: tuple[int, ...]

    @classmethod
    def encode(cls, processor: Any, text: str, pictures: Sequence[Shown]) -> PicturePrompt:
        """Decode the pictures once, to know how many tokens they take.

        Raises:
            MediaError: one cannot be decoded.
            ModelError: the processor refuses them.
        """
        ids = _processed(processor, [text], [[one.open() for one in pictures]])["input_ids"][0].tolist()
        return cls(processor, text, tuple(pictures), tuple(ids))

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, for what is kept on disk."""
        return hashlib.sha256("".join(map(picture_hash, self.pictures)).encode()).hexdigest()


def batch_inputs(prompts: Sequence[PicturePrompt], width: int, *, left: bool = False) -> dict[str, Any]:
    """What a model is given beside token ids and mask: tensors of the processor for these rows together.

    Args:
        prompts: a row each; one that stands twice is decoded once.
        width: of the rows, responses included. What the processor says of every token is 0 beyond the prompt.
        left: rows are padded on the left, and end with their prompts.

    Raises:
        MediaError: a picture cannot be decoded (any more).
        ModelError: the processor makes other tokens of a prompt than when the records were read.
    """
    import torch

    opened = {id(one): [picture.open() for picture in one.pictures] for one in prompts}
    texts, pictures = [one.text for one in prompts], [opened[id(one)] for one in prompts]
    made = _processed(prompts[0].processor, texts, pictures, side="left" if left else "right")
    ids, mask = made.pop("input_ids"), made.pop("attention_mask")
    for row, one in enumerate(prompts):
        if ids[row][mask[row].bool()].tolist() != list(one.ids):
            raise ModelError(
                f"{one.pictures[0].called}: its processor makes other tokens of it than before.",
                hint="A picture may have been changed while the run went on.",
            )
    shape = ids.shape
    for name, value in made.items():
        if value.shape == shape:
            missing = width - shape[1]
            made[name] = torch.nn.functional.pad(value, (missing, 0) if left else (0, missing))
    return made


def _processed(
    processor: Any, texts: list[str], pictures: list[list[Any]], side: str = "right"
) -> dict[str, Any]:
    try:
        made = processor(
            text=texts,
            images=pictures,
            return_tensors="pt",
            padding=True,
            padding_side=side,
            add_special_tokens=False,
        )
    except (ValueError, TypeError, IndexError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"The model's processor ({type(processor).__name__}) refuses pictures and text: {reason}."
        ) from error
    return dict(made)
