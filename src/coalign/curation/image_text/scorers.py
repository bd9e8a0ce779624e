"""Scores of image-text pairs: a learnt reward, the cosine of a dual encoder (CLIPScore), BLIP's matching head, or the lot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.core.runs import model_folder
from coalign.curation.image_text.quality import count_words

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from coalign.core.runs import Run
    from coalign.curation.image_text.reward import EmbeddingReward, FusionReward, RewardModel

By = Literal["reward", "clip-score", "itm", "random"]
DEFAULT_ENCODER = "openai/clip-vit-base-patch32"
SETTINGS, WEIGHTS, BACKBONE, QUANTILES = "reward.json", "head.safetensors", "backbone", "quantiles.json"


class PairScorer(Protocol):
    """Scores pairs; higher is better.

    Attributes:
        name: for reports.
    """

    @property
    def name(self) -> str: ...

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        """A score a caption.

        Args:
            pictures: [N] each once.
            which: [B] the picture of each caption.
        """
        ...


@dataclass(frozen=True)
class Towers:
    """A dual encoder, and what it reads: `pairs.encoders.ImageTextEncoder`, for instance."""

    encoder: Any

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[N, D] pooled features, not normalised."""
        with torch.no_grad():
            return self.encoder.image(self.encoder.pixels(pictures)).pooled.float()

    def texts(self, captions: Sequence[str]) -> Tensor:
        """[B, D] pooled features, not normalised."""
        ids = self.encoder.ids(captions)
        if hasattr(self.encoder.model.text_model, "eos_token_id"):
            # causal and pooled at the end token (CLIP): what stands behind it changes nothing and costs most of the time
            ids = ids[:, : int(self.encoder.text_mask(ids).sum(1).max()) + self.encoder.first_slot]
        with torch.no_grad():
            return self.encoder.text(ids).pooled.float()


@dataclass(frozen=True)
class CosineScorer:
    """CLIPScore (arXiv 2104.08718) without its factor 2.5 and its floor at 0, which change no order above it: the cosine."""

    towers: Towers
    name: str = "CLIPScore"

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        images, texts = self.towers.images(pictures)[list(which)], self.towers.texts(captions)
        return torch.nn.functional.cosine_similarity(images, texts).tolist()


@dataclass(frozen=True)
class EmbeddingScorer:
    """The reward on the features of a dual encoder."""

    towers: Towers
    model: EmbeddingReward
    name: str = "reward"

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        images, texts = self.towers.images(pictures)[list(which)], self.towers.texts(captions)
        words = torch.tensor([count_words(one) for one in captions], device=images.device)
        with torch.inference_mode():
            return self.model(images, texts, words).tolist()


@dataclass(frozen=True)
class Blip:
    """BLIP with its processor."""

    model: Any
    processor: Any
    length: int = 512

    def inputs(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> dict[str, Tensor]:
        """`pixels`, `ids`, `mask`, `image_index` of `reward.FusionReward`."""
        parameter = next(self.model.parameters())
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        texts = self.processor.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {
            "pixels": pixels.to(parameter.device, parameter.dtype),
            "ids": texts["input_ids"].to(parameter.device),
            "mask": texts["attention_mask"].to(parameter.device),
            "image_index": torch.tensor(list(which), device=parameter.device),
        }


@dataclass(frozen=True)
class FusionScorer:
    """The reward on BLIP."""

    blip: Blip
    model: FusionReward
    name: str = "reward"

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        with torch.inference_mode():
            return self.model(**self.blip.inputs(pictures, which, captions)).tolist()


@dataclass(frozen=True)
class MatchScorer:
    """BLIP's own probability that picture and text match."""

    blip: Blip
    name: str = "BLIP-Score"

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        from coalign.curation.image_text.reward import fused_states

        with torch.inference_mode():
            states = fused_states(self.blip.model, **self.blip.inputs(pictures, which, captions))
            return self.blip.model.itm_head(states).float().softmax(-1)[:, 1].tolist()


@dataclass(frozen=True)
class RandomScorer:
    """A number in [0, 1) of picture and caption, without looking: the baseline that a filter must beat."""

    seed: int
    name: str = "random"

    def score(
        self, pictures: Sequence[Image.Image], which: Sequence[int], captions: Sequence[str]
    ) -> list[float]:
        digests = [hashlib.blake2b(one.tobytes(), digest_size=8).digest() for one in pictures]
        found = []
        for place, caption in zip(which, captions, strict=True):
            text = f"{self.seed}/".encode() + digests[place] + caption.encode("utf-8", "surrogatepass")
            drawn = hashlib.blake2b(text, digest_size=7).digest()
            found.append(int.from_bytes(drawn, "big") / 2**56)
        return found


def save_reward(folder: Path, model: RewardModel, about: dict[str, Any], processor: Any = None) -> None:
    """Write a reward: its head and, of BLIP, the whole backbone with its processor; `about` says what it stands on."""
    from safetensors.torch import save_file

    from coalign.curation.image_text.reward import FusionReward

    with atomic_path(folder) as path:
        path.mkdir()
        own = {
            name: value.contiguous()
            for name, value in model.state_dict().items()
            if not name.startswith("backbone.")
        }
        save_file(own, path / WEIGHTS)
        if isinstance(model, FusionReward):
            model.backbone.save_pretrained(path / BACKBONE)
            processor.save_pretrained(path / BACKBONE)
        write_json(path / SETTINGS, about)


def reward_folder(name: str | None, run: Run) -> Path:
    """Where the reward lies that scores: that of a run or a folder by name, or the one that this run learnt."""
    return run.model if name is None else model_folder(name)


def read_settings(folder: Path) -> dict[str, Any]:
    """What a saved reward says of itself.

    Raises:
        ModelError: the folder holds none.
    """
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: holds no reward of image-text pairs ({SETTINGS} is missing or damaged).",
            hint="Give the run of `coalign run compress-align --annotations ...`, or the folder `model` in it.",
        ) from error


def load_head(folder: Path, model: RewardModel) -> None:
    """Read the weights of a saved head into `model`.

    Raises:
        ModelError: they are missing, or of another shape.
    """
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
        missing, unknown = model.load_state_dict(found, strict=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS}: cannot be read as the head of this reward ({error})."
        ) from error
    lost = [name for name in missing if not name.startswith("backbone.")]
    if lost or unknown:
        raise ModelError(
            f"{folder / WEIGHTS}: has not the weights of this reward: {', '.join([*lost, *unknown])}."
        )
