"""A classifier that follows a stream of pictures without labels: one small step a batch, then the batch is classified."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coalign.core.files import append_rows, atomic_path, read_rows
from coalign.core.progress import progress
from coalign.vision.domains.classifier import MIXED, BlockClassifier, adaptive_maps
from coalign.vision.domains.draws import draw_views
from coalign.vision.domains.pictures import DomainPicture, in_batches, pixels_of
from coalign.vision.domains.styles import Style, consistency_losses, style_of

if TYPE_CHECKING:
    from pathlib import Path

    from coalign.vision.domains.files import Adaptable

KEEP_EVERY = 20
"""Batches between two states on disk, from which a stream that was cut goes on."""


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is followed; `options.StreamOptions` explains the fields."""

    adapted: str = "maps"
    styles: str = "bank"
    map_layers: int = 5
    test_rate: float = 1e-4
    test_weight: float = 1.0
    test_steps: int = 1
    concentration: float = 0.1


@dataclass(frozen=True)
class Adapted:
    """What a step of adaptation did: the consistency before its (last) step, and the farthest that a parameter has moved
    from where it started.
    """

    consistency: float
    moved: float


class StreamClassifier:
    """A classifier whose adaptive parameters follow a stream. Its weights, its head and the layers of its consistency stay as
    they are; with `adapted: extractor` a copy of the weights below the head is what follows.

    Args:
        pixels: [B, 3, H, W], some pictures, which give the shapes of the maps.
        seed: of the views.
    """

    def __init__(self, start: Adaptable, settings: StreamSettings, pixels: Tensor, seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self.layers = start.layers
        self.bank = start.bank
        self.maps: nn.ModuleList | None = None
        self.classifier = start.classifier.eval()
        if settings.adapted == "extractor":
            self.classifier = BlockClassifier(copy.deepcopy(start.classifier.network)).eval()
            self.parameters = list(self.classifier.extractor().values())
        else:
            self.maps = adaptive_maps(self.classifier, pixels, settings.map_layers)
            self.parameters = list(self.maps.parameters())
        self.start = [one.detach().clone() for one in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.test_rate)

    def adapt(self, pixels: Tensor, number: int) -> Adapted | None:
        """Lower the consistency loss of a batch by the settings' steps; None for a batch of one that has only its own style.

        Args:
            number: of the batch, which gives its views.
        """
        settings = self.settings
        bank = self.bank if settings.styles == "bank" else None
        if bank is None and len(pixels) < 2 and not self.released:
            return None
        loss = torch.zeros(())
        for step in range(settings.test_steps):
            draw = draw_views(
                len(pixels),
                self.seed,
                number,
                step,
                concentration=settings.concentration,
                styles=None if bank is None else len(bank[0].mean),
            )
            features, _ = self.classifier(pixels, draw, bank, self.maps)
            half = len(pixels)
            loss = consistency_losses(
                features[:half], features[half:], self.layers.weights, self.layers.biases
            ).mean()
            slopes = torch.autograd.grad(
                settings.test_weight * loss, self.parameters, allow_unused=True, materialize_grads=True
            )
            for one, slope in zip(self.parameters, slopes, strict=True):
                one.grad = slope
            self.optimizer.step()
        pairs = zip(self.parameters, self.start, strict=True)
        return Adapted(
            float(loss.detach()), max(float((one.detach() - old).abs().max()) for one, old in pairs)
        )

    @property
    def released(self) -> bool:
        """The released code's step, batches of one included."""
        return self.settings.styles == "released"

    def probabilities(self, pixels: Tensor) -> Tensor:
        """[B, classes] with the parameters as they are now."""
        with torch.no_grad():
            return self.classifier(pixels, maps=self.maps)[1].softmax(-1)

    def state(self) -> dict[str, Any]:
        parameters = [one.detach() for one in self.parameters]
        return {"parameters": parameters, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for one, value in zip(self.parameters, state["parameters"], strict=True):
                one.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])


def style_bank(classifier: BlockClassifier, batches: Sequence[Tensor]) -> list[Style]:
    """Styles of pictures behind each block in `MIXED`, [n, C] each."""
    found: list[list[Style]] = [[] for _ in MIXED]
    classifier.eval()
    for pixels in batches:
        maps = classifier.maps_of(pixels.to(classifier.device))
        for block in MIXED:
            found[block].append(style_of(maps[block]))
    return [
        Style(torch.cat([one.mean for one in styles]), torch.cat([one.deviation for one in styles]))
        for styles in found
    ]


def follow(
    start: Adaptable,
    pictures: Sequence[DomainPicture],
    settings: StreamSettings | None,
    folder: Path,
    *,
    batch: int,
    seed: int,
    shuffled: bool,
) -> None:
    """Classify a stream batch by batch, without and with adaptation, and write `predictions.jsonl` (a row a picture) and
    `batches.jsonl` (a row a batch) into `folder`. What is there already is not done again.

    Args:
        settings: None only predicts.
        batch: pictures of a batch.
        shuffled: the order of the stream is drawn from the seed.
    """
    predictions, log, kept = folder / "predictions.jsonl", folder / "batches.jsonl", folder / "stream.pt"
    batches = in_batches(pictures, batch, seed if shuffled else None)
    saved: dict[str, Any] = torch.load(kept, weights_only=True) if kept.exists() else {"done": 0}
    written, logged = (len(read_rows(path, repair=True)) for path in (predictions, log))
    stream: StreamClassifier | None = None
    with progress(len(batches), "Following the stream", "batch") as bar:
        bar.advance(saved["done"])
        for number, members in enumerate(batches[saved["done"] :], start=saved["done"]):
            pixels = pixels_of(start.processor, [one.picture.open() for one in members])
            pixels = pixels.to(start.classifier.device)
            if settings is not None and stream is None:
                stream = StreamClassifier(start, settings, pixels, seed)
                if "state" in saved:
                    stream.load(saved["state"])
            rows, told = _classified(start, stream, members, pixels, number)
            # Batches after the state on disk are computed again, and what was written of them is not written again.
            if fresh := rows[max(written - number * batch, 0) :]:
                append_rows(predictions, fresh)
            if number >= logged:
                append_rows(log, [told])
            if (number + 1) % KEEP_EVERY == 0 and stream is not None:
                with atomic_path(kept) as path:
                    torch.save({"done": number + 1, "state": stream.state()}, path)
            bar.advance()


def _classified(
    start: Adaptable,
    stream: StreamClassifier | None,
    members: Sequence[DomainPicture],
    pixels: Tensor,
    number: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a batch's pictures, and its own."""
    start.classifier.eval()
    with torch.no_grad():
        plain = start.classifier(pixels)[1].softmax(-1)
    told: dict[str, Any] = {"batch": number, "pictures": len(members)}
    found = plain
    if stream is not None:
        adapted = stream.adapt(pixels, number)
        found = stream.probabilities(pixels)
        told["consistency"] = adapted.consistency if adapted else None
        told["moved"] = adapted.moved if adapted else None
    rows = [
        {
            "id": one.id,
            "label": one.label,
            "plain": start.classes[int(before.argmax())],
            "predicted": start.classes[int(after.argmax())],
            "confidence": round(float(after.max()), 6),
        }
        for one, before, after in zip(members, plain, found, strict=True)
    ]
    told["changed"] = sum(row["plain"] != row["predicted"] for row in rows)
    labelled = [row for row in rows if row["label"] is not None]
    if labelled:
        told["right without"] = sum(row["plain"] == row["label"] for row in labelled)
        told["right"] = sum(row["predicted"] == row["label"] for row in labelled)
    return rows, told
