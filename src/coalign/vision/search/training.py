"""The two trainings of a search by description: on pseudo-texts, and on captions of identities."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from coalign.measures.retrieval import equal_texts
from coalign.pairs.losses import contrastive_loss, similarity
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.search.objectives import mask_words, masked_word_loss, ranking_losses
from coalign.vision.search.towers import TwoTowers, unit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerState

View = Callable[[int, bool], "Tensor"]
"""Pixel values [3, H, W] of a picture by its place, mirrored or not."""
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def names_a_side(text: str) -> bool:
    """Whether mirroring would make a text wrong."""
    return _SIDES.search(text) is not None


class _Pictures(Task):
    """What both trainings do with pictures: items are keys `epoch * size + index`, views depend on seed and key alone."""

    examples = "the pictures"
    advice = "look at these pictures"
    view: View
    flip: bool
    seed: int

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def seen(self, index: int, text: str, draw: random.Random) -> Tensor:
        mirrored = draw.random() < 0.5
        return self.view(index, mirrored and self.flip and not names_a_side(text))


@dataclass
class Pretraining(_Pictures):
    """L_CL + weight x L_MLM (paper, section 3.2); a step's two means are each over what it counts.

    Attributes:
        model: for its tokenizer.
        captions: of each picture one text or more, of which an epoch takes one by lot.
        view: of a picture by its place.
        temperature: the logits are divided by.
        positives: equal texts of a batch are each other's pairs instead of negatives.
    """

    model: TwoTowers
    captions: Sequence[Sequence[str]]
    view: View
    temperature: float
    word_weight: float
    word_share: float
    positives: bool
    flip: bool
    seed: int
    name: ClassVar[str] = "contrastive, with masked words"  # type: ignore[misc]

    def collate(self, examples: Sequence[int]) -> Batch:
        pixels: list[Tensor] = []
        texts: list[str] = []
        draws: list[random.Random] = []
        for key in examples:
            index, draw = key % len(self.captions), random.Random(f"{self.seed}/{key}")
            texts.append(self.captions[index][draw.randrange(len(self.captions[index]))])
            pixels.append(self.seen(index, texts[-1], draw))
            draws.append(draw)
        encoded = self.model.encode(texts)
        batch: Batch = {
            "ids": [str(key % len(self.captions)) for key in examples],
            "pixels": torch.stack(pixels),
            "tokens": encoded["input_ids"],
            "mask": encoded["attention_mask"],
        }
        same = equal_texts(texts) if self.positives else None
        if same is not None:
            batch["positives"] = torch.from_numpy(same)
        if self.word_weight:
            tokenizer = self.model.tokenizer
            rows = [
                mask_words(
                    ids, encoded.word_ids(row), draw, share=self.word_share, mask=tokenizer.mask_token_id,
                    vocabulary=len(tokenizer),
                )
                for row, (ids, draw) in enumerate(zip(encoded["input_ids"].tolist(), draws, strict=True))
            ]  # fmt: skip
            batch["masked"], batch["words"] = (torch.tensor(part) for part in zip(*rows, strict=True))
        return batch

    def count(self, batch: Batch) -> Tensor:
        return torch.tensor([len(batch["ids"]), int((batch["words"] >= 0).sum()) if "words" in batch else 0])

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        image, _ = model("image", batch["pixels"])
        text, _ = model("text", batch["tokens"], batch["mask"])
        pairs = contrastive_loss(image.float(), text.float(), 1 / self.temperature, batch.get("positives"))
        metrics = {"contrastive": pairs.detach()}
        words = pairs.new_zeros(())
        if self.word_weight:
            logits = model("word_logits", batch["masked"], batch["mask"])
            words, count = masked_word_loss(logits.float(), batch["words"])
            metrics["words"] = (words.detach() / count.clamp(min=1)).expand(int(count))
        return Losses(torch.stack([pairs.sum(), self.word_weight * words]), metrics)


class Identities(nn.Module):
    """Towers, and one classifier of identities that pictures and texts share (and one for the parts)."""

    def __init__(self, towers: TwoTowers, identities: int) -> None:
        super().__init__()
        width, parts = towers.settings.width, towers.settings.parts
        self.towers = towers
        self.classifier = nn.Linear(width, identities, bias=False)
        if parts:
            self.part_classifier = nn.Linear(parts * width, identities, bias=False)

    def forward(
        self, pixels: Tensor, ids: Tensor, mask: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of the global features, and of the parts where there are: features and identity logits of both sides."""
        image, text = self.towers.image(pixels), self.towers.text(ids, mask)
        classifiers = [self.classifier, *([self.part_classifier] if self.towers.settings.parts else [])]
        pairs = zip(image, text, strict=True)
        return [
            (v, t, classify(v), classify(t))
            for classify, (v, t) in zip(classifiers, pairs, strict=False)
            if v is not None and t is not None
        ]


@dataclass
class FineTuning(_Pictures):
    """L_rk + weight x L_id, and on the parts the same, times gamma (paper, section 3.3).

    Attributes:
        texts: a caption of each example.
        identities: number of each example's identity.
    """

    model: TwoTowers
    texts: Sequence[str]
    identities: Sequence[int]
    view: View
    margin: float
    identity_weight: float
    part_weight: float
    flip: bool
    seed: int
    name: ClassVar[str] = "ranking and identity"  # type: ignore[misc]

    def collate(self, examples: Sequence[int]) -> Batch:
        places = [key % len(self.texts) for key in examples]
        views = [
            self.seen(place, self.texts[place], random.Random(f"{self.seed}/{key}"))
            for key, place in zip(examples, places, strict=True)
        ]
        encoded = self.model.encode([self.texts[place] for place in places])
        return {
            "ids": list(map(str, places)),
            "pixels": torch.stack(views),
            "tokens": encoded["input_ids"],
            "mask": encoded["attention_mask"],
            "identities": torch.tensor([self.identities[place] for place in places]),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        who = batch["identities"]
        losses: Any = 0.0
        metrics: dict[str, Tensor] = {}
        for weight, name, (image, text, *logits) in zip(
            (1.0, self.part_weight),
            ("", "part_"),
            model(batch["pixels"], batch["tokens"], batch["mask"]),
            strict=False,
        ):
            ranking = ranking_losses(similarity(unit(image), unit(text)), who, self.margin)
            identity = sum(cross_entropy(one.float(), who, reduction="none") for one in logits)
            losses = losses + weight * (ranking + self.identity_weight * identity)
            metrics |= {
                f"{name}ranking": ranking.detach(),
                f"{name}identity": torch.as_tensor(identity).detach(),
            }
        return Losses(losses, metrics)


@torch.no_grad()
def gallery_features(model: TwoTowers, batches: Any) -> list[Tensor]:
    """Global features [N, D] of pictures, and with part queries those of the parts [N, K D], each of unit length."""
    device = next(model.parameters()).device
    return _stacked([model.image(pixels.to(device)) for pixels in batches])


@torch.no_grad()
def query_features(model: TwoTowers, texts: Sequence[str], batch_size: int) -> list[Tensor]:
    """As `gallery_features`, of texts."""
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(texts), batch_size):
        encoded = model.encode(list(texts[start : start + batch_size])).to(device)
        found.append(model.text(encoded["input_ids"], encoded["attention_mask"]))
    return _stacked(found)


def search_scores(queries: Sequence[Tensor], gallery: Sequence[Tensor]) -> Tensor:
    """[Q, N] cosine of the global features, plus that of the parts where there are."""
    return sum((one @ other.T for one, other in zip(queries, gallery, strict=True)), torch.zeros(()))


def _stacked(found: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    sides = [[one for one in column if one is not None] for column in zip(*found, strict=True)]
    return [unit(torch.cat(column)).cpu() for column in sides if column]
