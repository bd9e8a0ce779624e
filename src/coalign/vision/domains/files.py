"""Image classifiers from disk and to disk, with the consistency that was learned beside them and the styles that they saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ModelError
from coalign.core.files import write_json
from coalign.models.devices import pick_device
from coalign.models.files.loading import assert_whole, load_with_info
from coalign.models.files.places import Location, locate
from coalign.models.quiet import no_load_report, no_weight_bars
from coalign.vision.domains.classifier import BlockClassifier, ElementwiseLayers
from coalign.vision.domains.styles import Style

if TYPE_CHECKING:
    from coalign.vision.domains.options import ClassifierOptions

LEARNED = "consistency.safetensors"
"""Beside a model that was trained here: layers of the consistency and the bank of styles."""


@dataclass
class Adaptable:
    """What test-time adaptation starts from.

    Attributes:
        layers: of the learned consistency; none where the squared difference is taken.
        bank: styles of training pictures behind each block in `classifier.MIXED`.
        consistency: `learned`, `squared` or `none`, as it was trained.
    """

    classifier: BlockClassifier
    processor: Any
    classes: list[str]
    layers: ElementwiseLayers
    bank: list[Style]
    consistency: str = "learned"


def load_processor(place: Location) -> Any:
    """The image processor beside a model.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoImageProcessor

    try:
        with no_load_report():
            return AutoImageProcessor.from_pretrained(
                place.path, revision=place.revision, local_files_only=place.cached_only
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"{place.name} does not say how pictures become its input: {str(error).splitlines()[0]}",
            hint="Put the preprocessor_config.json of the model that it was made from beside it.",
        ) from error


def load_new(options: ClassifierOptions, classes: Sequence[str]) -> tuple[BlockClassifier, Any]:
    """A classifier over the backbone of any model, with a new head for `classes`, and its processor.

    Raises:
        ModelError: it cannot be read, is no image classifier or backbone, or has no blocks.
    """
    place = locate(options.model, options.revision)
    labels = dict(enumerate(classes))
    model, info = _load(
        place,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
        ignore_mismatched_sizes=True,
    )
    head = ("classifier",)
    info["missing_keys"] = {name for name in info["missing_keys"] if not name.startswith(head)}
    assert_whole(place, info, "Take an image classifier of Transformers, or the backbone of one.")
    return BlockClassifier(model.to(pick_device(options.device))), load_processor(place)


def load_adaptable(options: ClassifierOptions) -> Adaptable:
    """What `save_adaptable` wrote.

    Raises:
        ModelError: the model was not trained here.
    """
    from safetensors import safe_open

    place = locate(options.model, options.revision)
    stored = Path(place.path) / LEARNED
    if not stored.is_file():
        raise ModelError(
            f"{place.name} holds no {LEARNED}: it was not trained on several domains here.",
            hint="Train it first: give --data, labelled pictures of several domains.",
        )
    model, _ = _load(place)
    device = pick_device(options.device)
    with safe_open(stored, framework="pt", device=str(device)) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kind = file.metadata()["consistency"]
    count, *shape = found["weights"].shape
    layers = ElementwiseLayers(count, shape).to(device)
    layers.load_state_dict({name: found[name] for name in ("weights", "biases")})
    bank = [
        Style(found[f"bank.{block}.mean"], found[f"bank.{block}.deviation"])
        for block in range(sum(name.startswith("bank.") for name in found) // 2)
    ]
    labels = model.config.id2label
    classes = [labels[number] for number in range(len(labels))]
    return Adaptable(BlockClassifier(model.to(device)), load_processor(place), classes, layers, bank, kind)


def save_adaptable(one: Adaptable, folder: Path) -> None:
    """Write the classifier in Hugging Face layout, its processor, and the rest beside it."""
    from safetensors.torch import save_file

    network: Any = one.classifier.network
    with no_weight_bars():
        network.save_pretrained(folder)
    one.processor.save_pretrained(folder)
    tensors = {name: value.detach().cpu() for name, value in one.layers.state_dict().items()}
    for block, style in enumerate(one.bank):
        tensors[f"bank.{block}.mean"] = style.mean.cpu()
        tensors[f"bank.{block}.deviation"] = style.deviation.cpu()
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        folder / LEARNED,
        metadata={"consistency": one.consistency},
    )
    write_json(folder / "classes.json", one.classes)


def _load(place: Location, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForImageClassification

    # The gradient of a gradient is taken, which fused attention kernels do not have.
    with no_load_report():
        return load_with_info(
            AutoModelForImageClassification,
            place,
            "image classifier",
            attn_implementation="eager",
            dtype=torch.float32,
            **arguments,
        )
