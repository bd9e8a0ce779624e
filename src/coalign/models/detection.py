"""Objects in pictures by any detector: of Transformers, with its own labels or asked for by text, or of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coalign.core.own_code import load_code, names_code
from coalign.measures.media.spatial import Detection
from coalign.models.devices import pick_device
from coalign.models.files.failures import explained
from coalign.models.files.places import locate
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from PIL.Image import Image


class Detector(Protocol):
    """Finds objects in a picture."""

    def __call__(self, picture: Image, labels: Sequence[str], threshold: float) -> list[Detection]:
        """The objects with these labels whose score is above the threshold; boxes in pixels of the picture."""
        ...


def open_detector(name: str, *, revision: str | None = None, device: str = "auto") -> Detector:
    """A detector by name.

    Args:
        name: a folder or hub id of an object detector (DETR, RT-DETR, YOLOS, ...: its own labels) or of one that is asked
            for labels in text (OWL-ViT, OWLv2, Grounding DINO), or `file.py:function` of your own, called with a picture
            of Pillow, the labels and the threshold, which gives (label, score, (x_min, y_min, x_max, y_max)).

    Raises:
        ModelError: absent, no detector, or no safetensors weights.
        ConfigError: code of your own that cannot be loaded.
    """
    if names_code(name):
        return _OwnDetector(load_code(name, "detector"))
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForObjectDetection,
        AutoModelForZeroShotObjectDetection,
        AutoProcessor,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING

    place = locate(name, revision)
    hub: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
    try:
        config = AutoConfig.from_pretrained(place.path, **hub)
        asked = type(config) in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING
        kind: Any = AutoModelForZeroShotObjectDetection if asked else AutoModelForObjectDetection
        with no_weight_bars():
            model = kind.from_pretrained(place.path, use_safetensors=True, **place.of_weights)
        processor = (AutoProcessor if asked else AutoImageProcessor).from_pretrained(place.path, **hub)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise explained(error, place, "detector") from error
    model = model.to(pick_device(device)).eval()
    return _AskedDetector(model, processor) if asked else _LabelledDetector(model, processor)


class _OwnDetector:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, picture: Image, labels: Sequence[str], threshold: float) -> list[Detection]:
        found = [
            Detection(label, float(score), tuple(box))
            for label, score, box in self.function(picture, labels, threshold)
        ]
        return [one for one in found if one.score > threshold]


class _LabelledDetector:
    """Labels of its own; those that are asked for are compared without regard to case."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    def __call__(self, picture: Image, labels: Sequence[str], threshold: float) -> list[Detection]:
        wanted = {one.lower(): one for one in labels}
        return [
            Detection(wanted[one.label.lower()], one.score, one.box)
            for one in self.everything(picture, threshold)
            if one.label.lower() in wanted
        ]

    def everything(self, picture: Image, threshold: float) -> list[Detection]:
        """All objects, under the detector's labels."""
        from coalign.models.scoring.products import inference

        inputs = self.processor(images=picture, return_tensors="pt").to(self.model.device)
        with inference():
            outputs = self.model(**inputs)
        (found,) = self.processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=[(picture.height, picture.width)]
        )
        names = self.model.config.id2label
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [Detection(names[label], score, tuple(box)) for label, score, box in rows]


class _AskedDetector:
    """Labels are asked for in text."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    def __call__(self, picture: Image, labels: Sequence[str], threshold: float) -> list[Detection]:
        from coalign.models.scoring.products import inference

        asked = list(dict.fromkeys(labels))
        inputs = self.processor(text=[asked], images=picture, return_tensors="pt", padding=True).to(
            self.model.device
        )
        with inference():
            outputs = self.model(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=[(picture.height, picture.width)], text_labels=[asked]
        )
        rows = zip(found["text_labels"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [Detection(label, score, tuple(box)) for label, score, box in rows]


def count_objects(detector: Detector, picture: Image, labels: Sequence[str], threshold: float) -> int:
    """How many objects a picture holds: of these labels, or of any that the detector knows where none is given."""
    everything = getattr(detector, "everything", None)
    found = (
        everything(picture, threshold) if everything and not labels else detector(picture, labels, threshold)
    )
    return sum(one.score > threshold for one in found)
