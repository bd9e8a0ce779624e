"""Rewards of questions about a picture, and of answers to them: on features of a frozen encoder, or a score head on a model that
reads picture and text together.

A question's reward never sees an answer; an answer's sees its question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.core.progress import progress
from coalign.curation.image_text.reward import RewardModel
from coalign.data.media.pictures import Picture

if TYPE_CHECKING:
    from coalign.curation.image_text.scorers import Towers
    from coalign.models.files.places import Location

WIDTHS = (128, 64)
PIECE_WORDS = 24
"""Words that an encoder reads at a time; the features of longer texts are the mean over their pieces."""
ADAPTER_RANK, ADAPTER_ALPHA = 128, 256
"""Source: official code."""
ADAPTED = r".*(language_model|text_model).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Item:
    """What is scored: a question where there is no answer. A picture as a row names it."""

    image: str | None
    question: str
    answer: str | None = None

    @property
    def texts(self) -> list[str]:
        """The question, and the answer where there is one."""
        return [self.question] if self.answer is None else [self.question, self.answer]


class FeatureReward(RewardModel):
    """A reward on features of picture and texts: each, the product and the cosine of every two, and log(1 + words) -> MLP -> 1.

    Args:
        width: of the pooled features.
        parts: 2 for picture and question, 3 for an answer besides.
    """

    def __init__(self, width: int, parts: int, widths: Sequence[int] = WIDTHS, dropout: float = 0.2) -> None:
        pairs = parts * (parts - 1) // 2
        super().__init__((parts + pairs) * width + pairs + parts - 1, widths, dropout)
        self.parts = parts

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """[B] rewards.

        Args:
            features: [B, parts, D] pooled, normalised here; zeros where there is no picture.
            words: [B, parts - 1] words of the texts.
        """
        units = nn.functional.normalize(features.float(), dim=-1)
        products = [units[:, one] * units[:, other] for one, other in combinations(range(self.parts), 2)]
        cosines = torch.stack([one.sum(-1) for one in products], -1)
        return self.finished(
            torch.cat([units.flatten(1), *products, cosines, torch.log1p(words.to(units.dtype))], dim=-1)
        )


@dataclass
class FeatureReads:
    """Reads items by a frozen dual encoder; what was read is kept while `keep` says so (a training)."""

    towers: Towers
    keep: bool = False
    _images: dict[str | None, Tensor] = field(default_factory=dict)
    _texts: dict[str, Tensor] = field(default_factory=dict)

    def know(self, images: Mapping[str, Tensor]) -> None:
        """Keep features [D] of pictures that were read elsewhere, by their names in items."""
        self.keep = True
        self._images.update(images)

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[Item]]) -> Tensor:
        """[B] rewards of all items of all groups, in order.

        Raises:
            MediaError: a picture that cannot be opened.
        """
        items = [one for group in groups for one in group]
        device = next(model.parameters()).device
        features, words = self.features(items)
        if not self.keep:
            self._images.clear()
            self._texts.clear()
        return model(features.to(device), words.to(device))

    def read(self, items: Sequence[Item], batch: int = 64) -> None:
        """Keep the features of all these items, read in batches that depend on nothing but the items.

        Raises:
            MediaError: a picture that cannot be opened.
        """
        self.keep = True
        texts = list(dict.fromkeys(text for one in items for text in one.texts))
        images = list(dict.fromkeys(one.image for one in items))
        with progress(len(texts) + len(images), "Features", "picture or text") as bar:
            for start in range(0, len(texts), batch):
                self._read_texts(texts[start : start + batch])
                bar.advance(len(texts[start : start + batch]))
            for start in range(0, len(images), batch):
                self._read_images(images[start : start + batch])
                bar.advance(len(images[start : start + batch]))

    def features(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """([B, parts, D], [B, parts - 1]) as `FeatureReward` takes them."""
        self._read_texts([text for one in items for text in one.texts])
        self._read_images([one.image for one in items])
        rows = [[self._images[one.image], *(self._texts[text] for text in one.texts)] for one in items]
        words = [[len(text.split()) for text in one.texts] for one in items]
        return torch.stack([torch.stack(row) for row in rows]), torch.tensor(words)

    def _read_texts(self, texts: Sequence[str]) -> None:
        new = [one for one in dict.fromkeys(texts) if one not in self._texts]
        cut = [pieces(one) for one in new]
        flat = [piece for each in cut for piece in each]
        if not flat:
            return
        found = nn.functional.normalize(self.towers.texts(flat).cpu(), dim=-1)
        for text, features in zip(new, found.split([len(each) for each in cut]), strict=True):
            self._texts[text] = features.mean(0)

    def _read_images(self, images: Sequence[str | None]) -> None:
        new = [one for one in dict.fromkeys(images) if one is not None and one not in self._images]
        if new:
            found = self.towers.images([Picture(one).open() for one in new]).cpu()
            self._images.update(zip(new, found, strict=True))
        if None in images:
            self._images[None] = torch.zeros_like(next(iter(self._texts.values())))


def pieces(text: str) -> list[str]:
    """The text in pieces of at most `PIECE_WORDS` words, cut at ends of lines and sentences where there are any."""
    found: list[str] = []
    for sentence in re.split(r"\n+|(?<=[.!?])\s+", text):
        words = sentence.split()
        for start in range(0, len(words), PIECE_WORDS):
            piece = words[start : start + PIECE_WORDS]
            if found and len(found[-1].split()) + len(piece) <= PIECE_WORDS:
                found[-1] = " ".join([found[-1], *piece])
            else:
                found.append(" ".join(piece))
    return found or [text]


@dataclass
class TokenReads:
    """Reads items as text with the picture's token at its head, the questions a line each, or `Question: ...` and
    `Answer: ...` (official code), for a score at the last token of an image-text-to-text model. Pictures are padded to a square there; here the processor of the model decides.

    Args:
        length: most tokens; an item with more would lose its picture or its end, so it has no reward.
    """

    processor: Any
    length: int = 2048

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[Item]]) -> Tensor:
        """[B] rewards of all items of all groups, in order; NaN for one that is too long.

        Raises:
            MediaError: a picture that cannot be opened.
            ModelError: an item without a picture.
        """
        items = [one for group in groups for one in group]
        if any(one.image is None for one in items):
            raise ModelError("A record without a picture, which this reward model does not take.")
        pictures = [Picture(one.image).open() for one in items]
        head = getattr(self.processor, "image_token", "<image>")
        inputs = self.processor(
            text=[f"{head}\n{item_text(one)}" for one in items],
            images=[[one] for one in pictures],
            padding=True,
            return_tensors="pt",
        )
        device = next(model.parameters()).device
        fits = inputs["attention_mask"].sum(-1) <= self.length
        if fits.all():
            return (
                model(**{name: value.to(device) for name, value in inputs.items()}).logits.squeeze(-1).float()
            )
        if model.training:
            raise ModelError(
                f"{int((~fits).sum())} annotated texts have more than {self.length} tokens with their picture."
            )
        short = [one for one, kept in zip(items, fits.tolist(), strict=True) if kept]
        found = torch.full((len(items),), float("nan"), device=device)
        if short:
            found[fits.to(device)] = self.rewards(model, [short])
        return found


def item_text(item: Item) -> str:
    """What a model reads of an item beside its picture."""
    return item.question if item.answer is None else f"Question: {item.question}\nAnswer: {item.answer}"


Reads = FeatureReads | TokenReads


def new_reward(
    name: str, parts: int, *, device: str, dropout: float = 0.2
) -> tuple[nn.Module, Reads, dict[str, Any]]:
    """A reward model to be trained over any image-text encoder or image-text-to-text model, what it reads, and its settings.

    Raises:
        ModelError: the model cannot be loaded, or is neither.
    """
    from transformers import AutoConfig

    from coalign.models.devices import pick_device
    from coalign.models.files.failures import explained
    from coalign.models.files.loading import is_image_text
    from coalign.models.files.places import locate

    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(
            place.path, revision=place.revision, local_files_only=place.cached_only
        )
    except (OSError, ValueError) as error:
        raise explained(error, place, "model") from error
    settings = {"backbone": name, "parts": parts, "dropout": dropout}
    if is_image_text(config):
        model, processor = _token_reward(place)
        return model.to(pick_device(device)), TokenReads(processor), {**settings, "reads": "tokens"}
    from coalign.curation.image_text.scorers import Towers
    from coalign.pairs.encoders import ImageTextEncoder

    towers = Towers(ImageTextEncoder.load(name, device=device))
    model = FeatureReward(towers.encoder.width, parts, dropout=dropout).to(pick_device(device))
    return model, FeatureReads(towers), {**settings, "reads": "features"}


def _token_reward(place: Location) -> tuple[nn.Module, Any]:
    """A score head on an image-text-to-text model, which gets an adapter on its language model; the projector of its pictures
    learns too (the authors' is LLaVA-1.5-7B).
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from coalign.models.files.failures import explained
    from coalign.models.files.loading import load_pretrained
    from coalign.models.files.picture_classifiers import ImageTextForSequenceClassification

    whole = load_pretrained(
        AutoModelForImageTextToText, place, what="image-text-to-text model", dtype=torch.float32
    )
    try:
        processor = AutoProcessor.from_pretrained(
            place.path, revision=place.revision, local_files_only=place.cached_only
        )
    except (OSError, ValueError, ImportError) as error:
        raise explained(error, place, "processor") from error
    model = ImageTextForSequenceClassification.over(whole, 1)
    model.model.requires_grad_(False)
    rank = min(ADAPTER_RANK, whole.config.get_text_config().hidden_size)
    adapter = LoraConfig(r=rank, lora_alpha=rank * ADAPTER_ALPHA // ADAPTER_RANK, target_modules=ADAPTED)
    inject_adapter_in_model(adapter, model.model)
    for part, module in model.model.named_modules():
        if part.endswith(("multi_modal_projector", "connector")):
            module.requires_grad_(True)
    return model, processor


def save_reward(model: nn.Module, settings: dict[str, Any], folder: Path, side: str) -> None:
    """Write what was trained of the reward of a side, and what it stands on, as `side.safetensors` and `side.json`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    buffers = {name for name, _ in model.named_buffers()} if isinstance(model, RewardModel) else set()
    kept = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if name in trained | buffers
    }
    with atomic_path(folder / f"{side}.safetensors") as path:
        save_file(kept, path)
    write_json(folder / f"{side}.json", settings)


def load_reward(folder: Path, side: str, *, device: str = "auto") -> tuple[nn.Module, Reads]:
    """What `save_reward` wrote, to score with.

    Raises:
        ModelError: there is none, or its backbone cannot be loaded or is another one.
    """
    import json

    from safetensors.torch import load_file

    stored = folder / f"{side}.json"
    if not stored.is_file():
        raise ModelError(
            f"{folder} holds no reward of {side}s ({stored.name}).", hint="Learn one: give --annotations."
        )
    settings = json.loads(stored.read_text(encoding="utf-8"))
    model, reads, _ = new_reward(
        settings["backbone"], settings["parts"], device=device, dropout=settings["dropout"]
    )
    try:
        unknown = model.load_state_dict(
            load_file(folder / f"{side}.safetensors"), strict=False
        ).unexpected_keys
    except RuntimeError as error:  # sizes that differ
        unknown = [str(error).splitlines()[-1].strip()]
    if unknown:
        raise ModelError(
            f"{folder}: {settings['backbone']} is not the model that the reward of {side}s was learnt on ({unknown[0]})."
        )
    return model.eval(), reads
