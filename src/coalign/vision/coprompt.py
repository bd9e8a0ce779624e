"""CoPrompt: tune an image-text model to your classes on a few pictures of each, and keep it good on other classes.

Consistency-guided Prompt Learning for Vision-Language Models (arXiv 2306.01195, ICLR 2024). Deep prompts in both towers and
an adapter behind each are trained beside the frozen model; the features of images and classes are held near those of the
frozen model, of another view of the image and of a sentence about the class.

    coalign run coprompt --data pictures/ --model openai/clip-vit-base-patch16 --shots 8
    coalign run coprompt --data pets/ --test pets-test/ --descriptions pets.json --preset pets --transfer sketch=sketches/

A run measures the model as it is, trains every arm under every seed on the same drawn shots, and reports accuracy on the
base classes, on classes that nothing was trained for, and their harmonic mean, with the spread over seeds.

Where paper and code differ the code is followed: both views are random (`clean_student` gives the trained model the
picture itself, as the paper has it), the adapter has a second ReLU, and the learning rate is that of the released
configuration. Descriptions are drawn with one number for all classes, modulo each class's own count, where the code
needs lists of one length. Without descriptions the frozen model reads templates. Everything is trained in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalign.core.options import Count, Fraction, NonNegative, OptionGroup, Seed, option, required
from coalign.core.runs import Run
from coalign.vision.tuning.options import Criterion, Protocol, TuningOptions

if TYPE_CHECKING:
    from coalign.vision.tuning.prompted import PromptSettings

PRESETS: dict[str, tuple[int, int, float]] = {
    "imagenet": (4, 12, 8.0),
    "caltech": (4, 12, 4.0),
    "pets": (2, 12, 0.1),
    "cars": (4, 12, 4.0),
    "flowers": (4, 9, 8.0),
    "food": (4, 9, 0.5),
    "aircraft": (4, 9, 2.0),
    "sun": (4, 12, 8.0),
    "dtd": (2, 12, 8.0),
    "eurosat": (2, 12, 0.1),
    "ucf": (4, 12, 2.0),
}
"""(prompt length, prompt depth, weight) of the released code by data set (trainers/constants.py)."""
USUAL = (2, 9, 8.0)
TEMPLATES = [
    "a photo of a {}.",
    "a bad photo of the {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a close-up photo of a {}.",
    "a {} in the background.",
]
Preset = Literal[
    "imagenet", "caltech", "pets", "cars", "flowers", "food", "aircraft", "sun", "dtd", "eurosat", "ucf"
]
Arm = Literal["coprompt", "no-adapters", "no-consistency", "prompts"]


@dataclass(kw_only=True)
class Constants(OptionGroup):
    """What is trained, and how near it stays to the frozen model."""

    __group__ = "Objective"

    preset: Preset | None = option(
        None, "prompt length, depth and weight of the released code for a data set"
    )
    prompt_length: Count | None = option(
        None, "vectors in a prompt (n); by default 2, or the preset's", source="released configuration"
    )
    prompt_depth: Count | None = option(
        None,
        "layers with a prompt of their own (J); by default 9, or the preset's",
        source="released configuration",
    )
    weight: NonNegative | None = option(
        None, "of the consistency (lambda); by default 8, or the preset's", source="released train.py"
    )
    criterion: Criterion = option("cosine", "how distance is measured: cosine or mse", source="official code")
    context: str = option(
        "a photo of a",
        "words before a class name; the first prompt starts from them where they have as many tokens",
        source="released configuration",
    )
    ending: str = option(".", "what stands behind a class name", source="official code")
    reduction: Count = option(4, "width of the features over that of an adapter", source="official code")
    image_ratio: Fraction = option(0.1, "share of the adapter in image features", source="official code")
    text_ratio: Fraction = option(0.2, "share of the adapter in text features", source="official code")
    clean_student: bool = option(
        False,
        "the trained model sees the picture itself, not a random view",
        source="paper; the code has two views",
    )
    augmentation: Literal["randaugment", "none"] = option(
        "randaugment",
        "random views: two changes of the list at full strength",
        source="released configuration",
    )

    def resolved(self) -> tuple[int, int, float]:
        """Prompt length, depth and weight as they are used."""
        length, depth, weight = PRESETS[self.preset] if self.preset else USUAL
        return (
            self.prompt_length or length,
            self.prompt_depth or depth,
            weight if self.weight is None else self.weight,
        )

    def settings(self, *, adapters: bool) -> PromptSettings:
        from coalign.vision.tuning.prompted import PromptSettings

        length, depth, _ = self.resolved()
        return PromptSettings(
            length=length,
            depth=depth,
            context=self.context,
            ending=self.ending,
            adapters=adapters,
            reduction=self.reduction,
            image_ratio=self.image_ratio,
            text_ratio=self.text_ratio,
        )


@dataclass(kw_only=True)
class Config(Constants, TuningOptions):
    """Options of `coalign run coprompt`."""

    __group__ = "Method"

    data: str = required(
        "pictures with the name of their class: a folder a class, rows, WebDataset shards, a hub id"
    )
    split: str = option("train", "split of a data set that has several")
    test: str | None = option(None, "pictures to measure on; by default those of `data` that are no shots")
    test_split: str = option("test", "split of `test`", only_with="test")
    transfer: list[str] = option(
        [],
        "NAME=SOURCE of further pictures: other styles of the classes, or other classes, which then stand for themselves",
    )
    model: str = option(
        "openai/clip-vit-base-patch16", "image-text model: a folder or hub id", source="paper"
    )
    revision: str | None = option(None, "of the model on the hub")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    protocol: Protocol = option(
        "base-to-novel",
        "train on the first half of the sorted classes and measure both, or train on all",
        source="paper",
    )
    shots: Count = option(16, "pictures of each class to train on", source="paper")
    seeds: list[Seed] = option([1, 2, 3], "each draws shots, starts and orders of its own", source="paper")
    arms: list[Arm] = option(
        ["coprompt"],
        "what is trained; no-adapters, no-consistency and prompts (neither, as MaPLe) leave parts out; the first is kept",
    )
    descriptions: str | None = option(
        None,
        "JSON file {class: [sentences]}, or rows of `coalign generate` whose ids are classes; by default the templates",
    )
    templates: list[str] = option(
        TEMPLATES,
        "sentences with {} for the class name, where there are no descriptions",
        source="CLIP's, a few of them",
    )
    eval_batch_size: Count = option(
        100, "pictures in one forward pass of a measurement", source="released configuration"
    )
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at pictures that cannot be used, or count them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds}, expected one or more that differ")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms: {self.arms}, expected one or more that differ")
        for one in self.templates:
            if "{}" not in one:
                raise ValueError(f"templates: {one!r} has no {{}} for the class name")
        for one in self.transfer:
            if "=" not in one or not all(one.split("=", 1)):
                raise ValueError(f"transfer: {one!r}, expected NAME=SOURCE")
        if not self.weight and self.weight is not None and {"coprompt", "no-adapters"} & set(self.arms):
            raise ValueError(
                "weight: 0 leaves the consistency out: say so with the arms no-consistency or prompts"
            )
        if self.descriptions is not None and self.templates != TEMPLATES:
            self.refuse(["templates"], "with descriptions")


def run(config: Config, run: Run) -> None:
    """Measure the model as it is, train the arms under each seed, measure them, report.

    Raises:
        DataError: pictures that cannot be used, or a class without one.
        ConfigError: descriptions that miss a class.
        ModelError: the model cannot be loaded.
    """
    from coalign.vision.tuning.run import run_tuning

    run_tuning(config, run)
