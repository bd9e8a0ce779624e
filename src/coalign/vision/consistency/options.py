"""Options of consistency training: what is learnt from, by which network, towards what, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    Seed,
    option,
    required,
)
from coalign.training.options import Tracker, assert_trackers
from coalign.vision.consistency.losses import Preconditioning, Reduction, get_distance
from coalign.vision.consistency.objective import ConsistencyObjective, TeacherSchedule
from coalign.vision.consistency.schedules import Curriculum, Noise, NoiseDistribution, Weighting

NETWORK = ("width", "multipliers", "attention", "layers_per_block", "dropout")
"""The options that describe a new network."""


@dataclass(kw_only=True)
class ObjectiveOptions(OptionGroup):
    """The loss and its schedules: improved consistency training, and each of its parts as it was before."""

    __group__ = "Objective"

    curriculum: Curriculum = option(
        "doubling",
        "how the number of noise levels grows: doubling (iCT), square-root (CT), or constant",
        source="paper, Table 1",
    )
    first_levels: Count = option(
        10, "steps between noise levels at the beginning (s0); CT: 2", source="paper, Table 1"
    )
    last_levels: Count = option(
        1280,
        "at the end (s1); CT: 150 (CIFAR-10) or 200 (ImageNet 64)",
        source="paper, Table 1",
    )
    noise: NoiseDistribution = option(
        "lognormal", "which levels are drawn: lognormal (iCT) or uniform (CT)", source="paper, Table 1"
    )
    noise_mean: float = option(
        -1.1, "mean of ln sigma (P_mean)", source="paper, Table 1", only_with={"noise": "lognormal"}
    )
    noise_deviation: Positive = option(
        2.0, "its deviation (P_std)", source="paper, Table 1", only_with={"noise": "lognormal"}
    )
    weighting: Weighting = option(
        "inverse-gap",
        "weight of a level: 1 / (next - this) (iCT) or none (CT)",
        source="paper, Table 1",
    )
    distance: str = option(
        "pseudo-huber",
        "between student and teacher: pseudo-huber (iCT), squared, or file.py:function of your own (CT's LPIPS)",
        source="paper, Table 1",
    )
    huber_constant: Positive | None = option(
        None,
        "c of the pseudo-Huber distance; by default 0.00054 times the root of the numbers in a picture",
        source="paper, section 3.3",
        only_with={"distance": "pseudo-huber"},
    )
    huber_reduction: Reduction = option(
        "sample",
        "one norm a picture (the paper), or elementwise, as a public re-implementation has it",
        source="paper, equation 5",
        only_with={"distance": "pseudo-huber"},
    )
    teacher_ema: Fraction = option(
        0.0,
        "decay of the teacher's moving average at the beginning (mu0); 0: the teacher is the student (iCT). CT: 0.9",
        source="paper, section 3.2",
    )
    teacher_schedule: TeacherSchedule = option(
        "levels",
        "levels: the decay grows with the number of noise levels (CT); constant",
        source="consistency models, appendix C",
        only_with="teacher_ema",
    )
    sigma_min: Positive = option(0.002, "smallest noise level", source="consistency models' code")
    sigma_max: Positive = option(80.0, "largest noise level", source="consistency models' code")
    rho: Positive = option(7.0, "how densely levels lie at the small end", source="Karras et al. 2022")
    sigma_data: Positive = option(
        0.5, "standard deviation of the data in [-1, 1]", source="Karras et al. 2022"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max {self.sigma_max:g} is not above sigma_min {self.sigma_min:g}")
        if self.last_levels < self.first_levels:
            raise ValueError(
                f"last_levels {self.last_levels} is below first_levels {self.first_levels}; the number grows"
            )
        if self.teacher_ema >= 1:
            raise ValueError("teacher_ema is 1: the teacher would stay the network that nothing has trained")
        if self.curriculum == "constant":
            self.refuse(["first_levels"], "with curriculum: constant")
        self.objective()  # an unknown distance, and a distribution outside of the levels

    def objective(self) -> ConsistencyObjective:
        """What is optimised.

        Raises:
            ConfigError: an unknown distance, or code of one's own that cannot be loaded.
            ValueError: no noise level can be drawn.
        """
        noise = Noise(
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            rho=self.rho,
            distribution=self.noise,
            mean=self.noise_mean,
            deviation=self.noise_deviation,
            weighting=self.weighting,
        )
        if self.noise == "lognormal":
            noise.assert_inside()
        return ConsistencyObjective(
            model=Preconditioning(sigma_min=self.sigma_min, sigma_data=self.sigma_data),
            noise=noise,
            curriculum=self.curriculum,
            first=self.first_levels,
            last=self.last_levels,
            distance=get_distance(self.distance, self.huber_constant, self.huber_reduction),
            teacher=self.teacher_ema,
            teacher_schedule=self.teacher_schedule,
        )


@dataclass(kw_only=True)
class NetworkOptions(OptionGroup):
    """The network: a new U-Net, one as a file describes it, or one that is trained on."""

    __group__ = "Network"

    model: str = option(
        "new",
        "`new`; a .json file with the configuration of a diffusers UNet2DModel; or a folder, run folder or hub id to go on from",
    )
    revision: str | None = option(None, "branch, tag or commit on the hub")
    width: Count = option(
        128,
        "channels of a new U-Net at full resolution",
        source="CIFAR-10 networks, from memory",
        only_with={"model": "new"},
    )
    multipliers: list[Count] = option(
        [2, 2, 2],
        "its channels at each resolution, in widths",
        source="from memory",
        only_with={"model": "new"},
    )
    attention: list[CountOrZero] = option(
        [1],
        "resolutions with attention, from 0",
        source="16 x 16 of 32 x 32, from memory",
        only_with={"model": "new"},
    )
    layers_per_block: Count = option(
        4,
        "residual blocks at each resolution; iCT-deep has twice as many",
        source="from memory",
        only_with={"model": "new"},
    )
    dropout: Fraction = option(
        0.3,
        "dropout of the new U-Net; ImageNet 64: 0.2",
        source="paper, from memory",
        only_with={"model": "new"},
    )
    embedding_scale: Positive = option(
        1000.0,
        "ln(sigma) / 4 is multiplied by this before the network's embedding of time",
        source="consistency models' code",
    )
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "new" or self.model.endswith(".json"):
            self.refuse(["revision"], f"with model: {self.model}")
        if not self.multipliers:
            raise ValueError("multipliers is empty, expected one number a resolution")
        beyond = [one for one in self.attention if one >= len(self.multipliers)]
        if beyond and self.model == "new":
            raise ValueError(
                f"attention names resolution {beyond[0]}, but multipliers has {len(self.multipliers)} (from 0)"
            )


@dataclass(kw_only=True)
class PictureOptions(OptionGroup):
    """How pictures become tensors."""

    __group__ = "Pictures"

    image_size: Count = option(32, "side of the square that pictures are brought to, in pixels")
    fit: Literal["crop", "pad", "stretch"] = option(
        "crop", "cut what stands out of the square, lie inside of it on white, or change the proportions"
    )
    grey: bool = option(False, "one channel of grey")
    flip: bool = option(True, "mirror half of the pictures; off for ImageNet 64", source="paper, from memory")
    classes: bool = option(False, "condition the network on the label of each record")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at pictures that cannot be used, or count them"
    )


@dataclass(kw_only=True)
class ConsistencyTrainingOptions(OptionGroup):
    """How to train; the defaults are those of CIFAR-10."""

    __group__ = "Training"

    max_steps: Count = option(
        400_000, "optimizer steps (K)", source="paper, from memory; ImageNet 64: 800,000"
    )
    batch_size: Count = option(
        1024, "pictures in one forward pass", source="paper, from memory; ImageNet 64: 4096"
    )
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    optimizer: Literal["radam", "adamw"] = option(
        "radam", "what moves the weights", source="paper, from memory"
    )
    learning_rate: Positive = option(1e-4, "peak learning rate", source="paper, from memory")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "constant", "learning-rate schedule", source="paper, from memory"
    )
    warmup_ratio: Fraction = option(
        0.0, "share of the steps with rising learning rate", source="paper, from memory"
    )
    weight_decay: NonNegative = option(0.0, "weight decay", source="paper, from memory")
    max_grad_norm: Positive | None = option(
        None, "gradient clipping; by default none", source="paper, from memory"
    )
    ema: Fraction = option(
        0.99993,
        "decay of the moving average of the weights that is sampled from; ImageNet 64: 0.99997",
        source="paper, from memory",
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    eval_fraction: Fraction = option(
        0.0, "share of the pictures held out: their loss, and what samples are held against"
    )
    eval_steps: Count | None = option(
        None, "evaluate every so many steps; by default once an epoch", only_with="eval_fraction"
    )
    logging_steps: Count = option(50, "log every so many steps")
    save_steps: CountOrZero = option(5000, "write a checkpoint every so many steps; 0 writes none")
    report_to: list[Tracker] = option([], "also log to these trackers")
    seed: Seed = option(0, "seed of everything random")

    epochs: ClassVar = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_trackers(self.report_to)
        if self.ema >= 1:
            raise ValueError("ema is 1: the average would stay the network that nothing has trained")


@dataclass(kw_only=True)
class SamplingOptions(OptionGroup):
    """What is sampled from the trained model, and how it is measured."""

    __group__ = "Samples"

    samples: Annotated[int, Ge(2)] = option(64, "pictures sampled at the end with one step and with several")
    steps_at: list[Positive] = option(
        [0.821],
        "noise levels of the steps after the first, in descending order; ImageNet 64: 1.526",
        source="paper, from memory",
    )
    sampling_batch: Count = option(64, "pictures sampled at once")
    encoder: str | None = option(
        None,
        "image encoder (folder or hub id) whose features are compared by the Fréchet distance; it is not the FID of papers",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(later >= earlier for earlier, later in zip(self.steps_at, self.steps_at[1:], strict=False)):
            raise ValueError("steps_at is not in descending order")
        if not self.steps_at:
            raise ValueError("steps_at is empty, expected the noise level of a second step at least")


@dataclass(kw_only=True)
class ConsistencyOptions(
    ObjectiveOptions, NetworkOptions, PictureOptions, ConsistencyTrainingOptions, SamplingOptions
):
    """A whole consistency training of pictures."""

    __group__ = "Method"

    data: str = required("pictures: a folder, a file of records, WebDataset shards or a hub id")
    split: str = option("train", "split of a hub data set")

    def __post_init__(self) -> None:
        super().__post_init__()
        beyond = [one for one in self.steps_at if not self.sigma_min < one < self.sigma_max]
        if beyond:
            raise ValueError(
                f"steps_at: {beyond[0]:g} is not between sigma_min {self.sigma_min:g} and sigma_max {self.sigma_max:g}"
            )
