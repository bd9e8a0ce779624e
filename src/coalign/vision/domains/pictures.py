"""Pictures with a class and a domain: read, held out by domain, changed at random while training, made batches of pixels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.extras import require
from coalign.core.progress import progress
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import Picture
from coalign.data.media.records import MediaRecord, scan_media

if TYPE_CHECKING:
    from PIL import Image

    from coalign.training.task import Batch

DOMAIN_NAMES = ("domain", "style", "environment", "source")
SMALLEST_CROP = 0.7
"""Share of a picture's area that a random crop keeps at least. Source: DomainBed."""


@dataclass(frozen=True)
class DomainPicture:
    """A picture, its class and its domain; the stream's may have neither."""

    id: str
    picture: Picture
    label: str | None = None
    domain: str = ""


@dataclass(frozen=True)
class DomainSet:
    """The pictures of a source, what was done to them, and the records that could not be used.

    Attributes:
        conversions: how many pictures were turned, scaled to 8 bits, composed on white, ...
    """

    pictures: list[DomainPicture]
    problems: list[RecordProblem]
    conversions: Counter[str]

    @property
    def notes(self) -> list[str]:
        """For the report: conversions, and what was left out."""
        done = [f"{count} pictures: {what}." for what, count in self.conversions.most_common()]
        bad = rows_with(self.problems)
        return [*done, *([f"{bad} records were left out: {self.problems[0]}"] if bad else [])]


def read_pictures(
    source: str,
    *,
    labelled: bool,
    split: str = "train",
    on_bad_record: Literal["fail", "skip"] = "fail",
) -> DomainSet:
    """Read pictures, each decoded once to see that it can be.

    Args:
        source: anything that `coalign.data.media.records` reads: a folder `DOMAIN/CLASS/picture.png`, or records with a picture,
            its class, and its domain in one of `DOMAIN_NAMES`.
        labelled: whether class and domain are needed; without, they are taken where they are there.
        on_bad_record: stop at a record or picture that cannot be used, or leave it out and count it.

    Raises:
        DataError: no such source, bad records under `fail`, or no picture.
    """
    found = scan_media(source, kind="image", split=split)
    problems = list(found.problems)
    conversions: Counter[str] = Counter()
    pictures = []
    with progress(len(found), "Reading", "picture") as bar:
        for record in found.records:
            one = _of_record(record)
            wrong = _problem(one, record, labelled=labelled, conversions=conversions)
            if wrong is None:
                pictures.append(one)
            else:
                problems.append(wrong)
            bar.advance()
    bad = rows_with(problems)
    if problems and on_bad_record == "fail":
        raise DataError(
            f"{source}: {bad} of {len(pictures) + bad} pictures cannot be used.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted).",
        )
    if not pictures:
        raise DataError(f"{source}: no picture can be used.", problems)
    return DomainSet(pictures, problems, conversions)


def _of_record(record: MediaRecord) -> DomainPicture:
    """With the domain of its column, or else domain and class by the folders that it lies in."""
    assert record.picture is not None
    domain = next(
        (record.more[name] for name in DOMAIN_NAMES if record.more.get(name) not in (None, "")), None
    )
    parts = Path(record.id).parts
    if domain is None and len(parts) >= 3:
        return DomainPicture(record.id, record.picture, parts[-2], parts[-3])
    return DomainPicture(record.id, record.picture, record.label, "" if domain is None else str(domain))


def _problem(
    one: DomainPicture, record: MediaRecord, *, labelled: bool, conversions: Counter[str]
) -> RecordProblem | None:
    if labelled and one.label is None:
        return record.problem("label", "missing", "the name of a class, or the folders DOMAIN/CLASS/picture")
    if labelled and not one.domain:
        names = ", ".join(DOMAIN_NAMES)
        return record.problem(
            "domain", "missing", f"its domain ({names}), or the folders DOMAIN/CLASS/picture"
        )
    try:
        one.picture.open(conversions=conversions)
    except MediaError as error:
        return record.problem("image", f"{error.file}: {error.problem}", error.expected)
    return None


def split_domains(
    pictures: Sequence[DomainPicture], fraction: float, seed: int
) -> tuple[list[DomainPicture], list[DomainPicture]]:
    """(training, held out): the same share of every domain is held out, one picture at least where a share is asked for."""
    training: list[DomainPicture] = []
    held_out: list[DomainPicture] = []
    for domain in sorted({one.domain for one in pictures}):
        own = [one for one in pictures if one.domain == domain]
        random.Random(f"{seed}/{domain}").shuffle(own)
        count = min(max(round(fraction * len(own)), int(fraction > 0)), len(own) - 1)
        held_out += own[:count]
        training += own[count:]
    return training, held_out


class TrainingPictures:
    """Decoded pictures by number, as a training takes them. Item `pass * size + index` is picture `index`, changed at random
    in a way of its own in every pass where `augment` says so.
    """

    def __init__(self, pictures: Sequence[DomainPicture], *, augment: bool = False, seed: int = 0) -> None:
        self.pictures = pictures
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int) -> tuple[DomainPicture, Image.Image]:
        one = self.pictures[key % len(self.pictures)]
        opened = one.picture.open()
        return one, augmented(opened, np.random.default_rng([self.seed, key])) if self.augment else opened


def collator(processor: Callable[..., Any], classes: Sequence[str]) -> Callable[[Sequence[Any]], Batch]:
    """Pictures to a batch of pixels [B, 3, H, W] and labels [B].

    Args:
        processor: an image processor of Transformers.
    """
    import torch

    places = {name: place for place, name in enumerate(classes)}

    def collate(items: Sequence[tuple[DomainPicture, Image.Image]]) -> Batch:
        return {
            "ids": [one.id for one, _ in items],
            "pixels": pixels_of(processor, [picture for _, picture in items]),
            "labels": torch.tensor([places[one.label or ""] for one, _ in items]),
        }

    return collate


def pixels_of(processor: Callable[..., Any], pictures: Sequence[Image.Image]) -> Any:
    """[B, 3, H, W] float32."""
    return processor(images=list(pictures), return_tensors="pt")["pixel_values"].float()


def augmented(picture: Image.Image, numbers: np.random.Generator) -> Image.Image:
    """DomainBed's random changes: a square out of at least 70 % of the picture, a flip, other brightness, contrast, saturation
    (up to 30 % each) and hue, and one of ten in grey.
    """
    image, enhance = require("PIL.Image", "images"), require("PIL.ImageEnhance", "images")
    width, height = picture.size
    area = width * height * numbers.uniform(SMALLEST_CROP, 1)
    ratio = np.exp(numbers.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide = int(np.clip(round(np.sqrt(area * ratio)), 1, width))
    high = int(np.clip(round(np.sqrt(area / ratio)), 1, height))
    left, top = int(numbers.integers(width - wide + 1)), int(numbers.integers(height - high + 1))
    side = min(width, height)
    changed = picture.resize(
        (side, side), image.Resampling.BILINEAR, box=(left, top, left + wide, top + high)
    )
    if numbers.random() < 0.5:
        changed = changed.transpose(image.Transpose.FLIP_LEFT_RIGHT)
    for kind in numbers.permutation(["Brightness", "Contrast", "Color", "hue"]):
        if kind == "hue":
            hue, saturation, value = changed.convert("HSV").split()
            turned = (np.asarray(hue).astype(int) + int(numbers.integers(-76, 77))) % 256
            hue = image.fromarray(turned.astype(np.uint8))
            changed = image.merge("HSV", (hue, saturation, value)).convert("RGB")
        else:
            changed = getattr(enhance, kind)(changed).enhance(float(numbers.uniform(0.7, 1.3)))
    return changed.convert("L").convert("RGB") if numbers.random() < 0.1 else changed


def in_batches(
    pictures: Sequence[DomainPicture], size: int, seed: int | None
) -> list[tuple[DomainPicture, ...]]:
    """The pictures in batches, in an order drawn from `seed`, or as they are."""
    ordered = list(pictures)
    if seed is not None:
        random.Random(f"{seed}/stream").shuffle(ordered)
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
