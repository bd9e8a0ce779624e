"""Options of an image classifier that learns from several domains."""

from __future__ import annotations

from dataclasses import dataclass
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

LEARNED: dict[str, object] = {"consistency": "learned"}


@dataclass(kw_only=True)
class ClassifierOptions(OptionGroup):
    """Which classifier, and on what."""

    __group__ = "Model"

    model: str = option(
        "microsoft/resnet-18",
        "image classifier or its backbone: a hub id, a model folder, or a run of this method",
        source="paper: ResNet-18",
    )
    revision: str | None = option(None, "branch, tag or commit on the hub")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")


@dataclass(kw_only=True)
class ConsistencyOptions(OptionGroup):
    """What is learnt beside the classes."""

    __group__ = "Objective"

    views: bool = option(
        True,
        "also classify a view of every picture in a mixed style; without: cross-entropy alone (ERM)",
        source="paper",
    )
    consistency: Literal["learned", "squared", "none"] = option(
        "learned",
        "between picture and view: by learned layers, the squared difference as it is, or none",
        source="paper",
        only_with="views",
    )
    consistency_layers: Count = option(
        10, "elementwise layers of the learned consistency", source="official code", only_with=LEARNED
    )
    alignment_weight: NonNegative = option(
        0.1,
        "of the agreement of both losses' gradients, by which the layers are learned; 0 leaves them as they start",
        source="official code",
        only_with=LEARNED,
    )
    layer_rate: Positive | None = option(
        None,
        "Adam's rate of the layers; by default a tenth of learning_rate",
        source="official code",
        only_with=LEARNED,
    )
    concentration: Positive = option(
        0.1, "of the Beta distribution of a picture's share of its own style", source="official code"
    )

    @property
    def kind(self) -> Literal["learned", "squared", "none"]:
        """The consistency that is learnt with; without views there is none."""
        return self.consistency if self.views else "none"


@dataclass(kw_only=True)
class DomainTraining(OptionGroup):
    """How to train on several domains."""

    __group__ = "Training"

    learning_rate: Positive = option(5e-5, "Adam's rate", source="DomainBed, official code")
    max_steps: Count = option(5000, "optimizer steps", source="DomainBed; 15000 for DomainNet")
    batch_per_domain: Count = option(32, "pictures of every domain in a step", source="DomainBed")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "constant", "learning-rate schedule", source="DomainBed"
    )
    warmup_ratio: Fraction = option(0.0, "share of the steps with rising learning rate", source="DomainBed")
    weight_decay: NonNegative = option(0.0, "AdamW weight decay", source="DomainBed")
    max_grad_norm: Positive = option(1e9, "gradient clipping; DomainBed has none", source="DomainBed")
    augment: bool = option(
        True,
        "crop (70 % or more), flip, recolour and grey the pictures at random while training",
        source="DomainBed",
    )
    held_out: Fraction = option(
        0.2, "share of each training domain on which the step to keep is chosen", source="DomainBed"
    )
    eval_steps: Count = option(
        300, "measure the held-out pictures every so many steps", source="DomainBed: 300"
    )
    logging_steps: Count = option(20, "log every so many steps")
    save_steps: CountOrZero = option(300, "write a checkpoint every so many steps; 0 writes none")
    seed: Seed = option(0, "seed of everything random")

    epochs: ClassVar = 1.0
    batch_size: ClassVar = 64
    gradient_accumulation: ClassVar = 1
    gradient_checkpointing: ClassVar = False
    report_to: ClassVar = ()


@dataclass(kw_only=True)
class StreamOptions(OptionGroup):
    """How the classifier follows a stream of new pictures."""

    __group__ = "Adaptation"

    adapt: bool = option(True, "change the adaptive parameters with every batch; without: only predict")
    adapted: Literal["maps", "extractor"] = option(
        "maps",
        "what is changed: elementwise maps behind the blocks, or all that lies below the head (the paper's naive comparison)",
        source="paper",
        only_with="adapt",
    )
    styles: Literal["bank", "batch"] = option(
        "bank",
        "whose styles views of new pictures take: training pictures', or each other's as in the released code",
        only_with="adapt",
    )
    bank: Count = option(256, "training pictures whose styles are kept behind each of the two first blocks")
    map_layers: Count = option(
        5, "elementwise layers behind each block", source="official code", only_with={"adapted": "maps"}
    )
    test_rate: Positive = option(
        1e-4,
        "Adam's rate of what is adapted; the released code: a tenth of the training's. High rates do harm",
        only_with="adapt",
    )
    test_weight: Positive = option(
        1.0,
        "of the consistency at test time; the released code has 1e-6 (DomainNet 0.1), which Adam's epsilon swallows",
        only_with="adapt",
    )
    test_steps: Count = option(1, "steps of adaptation a batch", source="official code", only_with="adapt")
    test_batch: Count = option(32, "pictures of a batch of the stream; the released code has 1")
    order: Literal["shuffled", "given"] = option(
        "shuffled",
        "of the stream: pictures sorted by class would tell their classes by the styles beside them",
    )

    released: bool = option(
        False,
        "for comparison, the step of the released code: a picture at a time, mixed with itself, the consistency times 1e-6, a "
        "tenth of the training's rate; it changes nothing",
        only_with="adapt",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.released:
            names = ("adapted", "styles", "test_rate", "test_weight", "test_steps", "test_batch")
            self.refuse(names, "with released")
        if self.adapt and self.styles == "batch" and self.test_batch == 1:
            raise ValueError(
                "test_batch: 1 with styles: batch mixes a picture with itself, so that nothing is adapted; expected 2 or "
                "more, or styles: bank"
            )
