"""Options of spatial captions, of fine-tuning on them, and of measuring where objects stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    Seed,
    option,
)
from coalign.models.backends.options import assert_address
from coalign.models.diffusion.schedulers import Sampler
from coalign.training.options import Tracker, assert_trackers

CaptionForm = Literal["long", "short", "negated"]


@dataclass(kw_only=True)
class PictureOptions(OptionGroup):
    """Pictures with captions to learn from."""

    __group__ = "Pictures"

    data: str | None = option(
        None, "pictures with captions: a folder, a file of records, WebDataset shards or a hub id"
    )
    split: str = option("train", "split of a hub data set", only_with="data")
    limit: Count | None = option(None, "read only the first records", only_with="data")
    spatial_column: str = option(
        "spatial_caption",
        "column of spatial captions that are there already",
        source="official data",
        only_with="data",
    )
    image_size: Count | None = option(
        None, "side of the square that pictures are brought to; by default the model's own", only_with="data"
    )
    fit: Literal["crop", "pad", "stretch"] = option(
        "crop",
        "cut what stands out of the square, which can cut objects that the caption names; lie inside of it on white; or change the proportions",
        source="official script: crop",
        only_with="data",
    )
    more_objects_than: CountOrZero | None = option(
        None,
        "keep pictures with more objects than this, counted by the detector; the paper: 18",
        source="paper, from memory; the recipe is a reconstruction",
        only_with="data",
    )
    count_labels: list[str] = option(
        [],
        "what is counted; by default everything that the detector has labels for",
        only_with="more_objects_than",
    )
    most_pictures: Count | None = option(
        None,
        "train on so many pictures at most, those with the most objects; the paper: below 500",
        only_with="more_objects_than",
    )
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at records that cannot be used, or count them", only_with="data"
    )


@dataclass(kw_only=True)
class CaptioningOptions(OptionGroup):
    """Who writes spatial captions."""

    __group__ = "Captions"

    captioner: str | None = option(
        None,
        "image-text-to-text model (folder, hub id, or its name on the endpoint) that writes spatial captions",
    )
    captioner_endpoint: str | None = option(
        None, "address of an OpenAI-compatible server whose model takes pictures"
    )
    caption_template: Path | None = option(
        None, "file with the question about a picture; by default ours", source="reconstruction"
    )
    caption_tokens: Count = option(120, "most tokens of a caption", source="reconstruction")
    caption_temperature: NonNegative = option(0.0, "of the sampling; 0 is greedy", source="reconstruction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captioner_endpoint is not None:
            assert_address(self.captioner_endpoint)
        if not self.captions_are_asked:
            names = ("caption_template", "caption_tokens", "caption_temperature")
            self.refuse(names, "without captioner or captioner_endpoint")

    @property
    def captions_are_asked(self) -> bool:
        return self.captioner is not None or self.captioner_endpoint is not None


@dataclass(kw_only=True)
class TextToImageOptions(OptionGroup):
    """The text-to-image model."""

    __group__ = "Model"

    model: str | None = option(
        None, "a pipeline of diffusers of the form of Stable Diffusion 1 or 2: folder, run folder or hub id"
    )
    revision: str | None = option(None, "branch, tag or commit on the hub", only_with="model")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")


@dataclass(kw_only=True)
class MixedTrainingOptions(OptionGroup):
    """Fine-tuning of U-Net and text encoder on a mix of general and spatial captions."""

    __group__ = "Training"

    tune: bool = option(True, "fine-tune the model on the pictures; off: captions or measurement alone")
    spatial_share: Fraction = option(
        0.5,
        "how often a picture has its spatial caption, drawn anew in every epoch (q)",
        source="official code",
        only_with="tune",
    )
    caption_form: CaptionForm = option(
        "long",
        "of the spatial caption: long, one random sentence of it (short), or one with its relation said by what it is not",
        source="paper; negation is a reconstruction",
        only_with="tune",
    )
    flip: Literal["off", "swap"] = option(
        "off",
        "mirror half of the pictures, left and right exchanged in their captions; the official commands mirror without that",
        source="ours",
        only_with="tune",
    )
    train_text_encoder: bool = option(True, "train the text encoder, too", source="paper", only_with="tune")
    learning_rate: Positive = option(
        5e-5,
        "of the U-Net",
        source="official README; its script for several machines has 5e-6",
        only_with="tune",
    )
    text_learning_rate: Positive = option(
        1e-6, "of the text encoder", source="official README", only_with="train_text_encoder"
    )
    min_snr: Positive | None = option(
        None, "gamma of min-SNR weights; by default none", source="official script", only_with="tune"
    )
    max_steps: Count = option(15_000, "optimizer steps", source="official script", only_with="tune")
    batch_size: Count = option(
        4,
        "pictures in one forward pass of one process; the script has 32 processes",
        source="official script",
        only_with="tune",
    )
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step", only_with="tune")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "constant", "learning-rate schedule", source="official script", only_with="tune"
    )
    warmup_ratio: Fraction = option(
        0.0, "share of the steps with rising learning rate", source="official script", only_with="tune"
    )
    weight_decay: NonNegative = option(1e-2, "AdamW weight decay", source="official code", only_with="tune")
    max_grad_norm: Positive = option(
        1.0,
        "gradient clipping, of U-Net and text encoder together",
        source="official script",
        only_with="tune",
    )
    ema: Fraction = option(
        0.9999,
        "decay of the moving average of the U-Net's weights, which is what is saved; 0: none",
        source="diffusers' examples",
        only_with="tune",
    )
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass to save memory", only_with="tune"
    )
    logging_steps: Count = option(10, "log every so many steps", only_with="tune")
    save_steps: CountOrZero = option(
        500, "write a checkpoint every so many steps; 0 writes none", only_with="tune"
    )
    report_to: list[Tracker] = option([], "also log to these trackers", only_with="tune")
    seed: Seed = option(0, "seed of everything random")

    epochs: ClassVar = 1.0
    eval_steps: ClassVar = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_trackers(self.report_to)
        if self.ema >= 1:
            raise ValueError("ema is 1: the average would stay the model that training started from")


@dataclass(kw_only=True)
class SpatialMeasureOptions(OptionGroup):
    """Where the objects of pictures stand: VISOR, and the spatial score of T2I-CompBench."""

    __group__ = "Measurement"

    prompts: str | None = option(
        None,
        "descriptions of two objects in a relation: a text file with one a line, or records with prompt or first, relation, second",
    )
    objects: list[str] = option(
        [],
        "objects of which descriptions are made, every ordered pair in four relations; coco: the 80 of COCO",
        source="VISOR",
    )
    most_prompts: Count | None = option(None, "draw so many of the descriptions")
    pictures_per_prompt: Count = option(4, "pictures of every description (K)", source="VISOR")
    pictures: str | None = option(
        None, "pictures that were made elsewhere: records with image and prompt; nothing is generated then"
    )
    detector: str | None = option(
        None,
        "object detector (folder or hub id; with labels of its own or asked for in text), or file.py:function",
    )
    detections: Path | None = option(
        None,
        "objects that were found elsewhere: JSON Lines with picture (the id or the file of a row of --pictures) and detections",
        only_with="pictures",
    )
    threshold: Fraction = option(0.1, "detections count above this score", source="VISOR")
    sampler: Sampler = option("pipeline", "scheduler that samples; pipeline: the model's own")
    sampling_steps: Count = option(50, "steps of the scheduler", source="diffusers")
    guidance: NonNegative = option(7.5, "scale of classifier-free guidance", source="diffusers")

    @property
    def measures(self) -> bool:
        return bool(self.prompts or self.objects or self.pictures)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("prompts", "objects", "pictures") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        if self.detector and self.detections:
            raise ValueError("detector and detections exclude each other")
        if self.measures and not (self.detector or self.detections):
            raise ValueError(
                "detector is needed to measure where objects stand (or detections, with pictures)"
            )
        made = ("pictures_per_prompt", "sampler", "sampling_steps", "guidance")
        if not (self.prompts or self.objects):
            self.refuse([*made, "most_prompts"], "without prompts or objects")
        if not self.measures:
            self.refuse(["threshold"] if not self.detector else [], "without prompts, objects or pictures")


@dataclass(kw_only=True)
class SpatialOptions(
    PictureOptions, CaptioningOptions, TextToImageOptions, MixedTrainingOptions, SpatialMeasureOptions
):
    """Captions, fine-tuning and measurement; each can be done alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions_are_asked and not self.data:
            raise ValueError("captioner has no effect without data; leave it out")
        if self.tune and self.data and not self.model:
            raise ValueError("model is needed to fine-tune; --no-tune writes the captions alone")
        if self.tune and self.measures and not self.data:
            raise ValueError("tune has no effect without data; say --no-tune")
        if (self.prompts or self.objects) and not self.model:
            raise ValueError("model is needed to make pictures of prompts")
        if self.model and not self.tune and not (self.prompts or self.objects):
            raise ValueError("model has no effect with --no-tune and without prompts; leave it out")
        if self.more_objects_than is not None and not self.detector:
            raise ValueError("detector is needed to count objects (more_objects_than)")
        if self.detector and not self.measures and self.more_objects_than is None:
            raise ValueError(
                "detector has no effect without prompts, objects, pictures or more_objects_than; leave it out"
            )
        if self.pictures and self.tune:
            raise ValueError(
                "pictures has no effect with tune: what was made elsewhere does not change; say --no-tune"
            )
