"""Options of reconstructing radiance from video of alternating exposures."""

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
from coalign.core.own_code import names_code


@dataclass(kw_only=True)
class NetworkOptions(OptionGroup):
    """The network."""

    __group__ = "Network"

    frames: Count | None = option(
        None, "frames of a window, an odd number; by default 5 for two exposures, 7 for three", source="paper"
    )
    width: Count = option(16, "channels at full size of the feature pyramids (tdim)", source="official code")
    channels: Count = option(64, "channels of aligned features (ch)", source="official code")
    blocks: Count = option(5, "residual blocks of the alignment", source="official code")
    merge_blocks: Count = option(5, "blocks in space and frequency of the merge", source="official code")
    align_downscale: Literal[1, 2, 4] = option(
        4,
        "by how much frames are reduced before they are aligned: 4 puts the attention at 1/32 of the size, where crops of "
        "128 pixels have 16 places",
        source="official code",
    )
    hallucination_mask: Literal["luma", "saturation"] = option(
        "luma",
        "seventh channel of what is filled in: luma, or where nothing is saturated",
        source="official code",
    )
    attention: Literal["luminance", "none"] = option(
        "luminance", "how frames are aligned; none leaves every place where it is", source="paper"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.frames % 2 == 0:
            raise ValueError(
                f"frames is {self.frames}, expected an odd number: the middle one is reconstructed"
            )


@dataclass(kw_only=True)
class RadianceTraining(OptionGroup):
    """How the network is trained."""

    __group__ = "Training"

    exposures: Literal[2, 3] = option(
        2, "exposures that alternate in the windows that are made", source="paper"
    )
    learning_rate: Positive = option(1e-4, "learning rate of AdamW", source="official code")
    epochs: Positive = option(100.0, "passes over the shots", source="our choice; the code's ceiling is 1000")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(8, "shots in one forward pass, two windows each", source="official code")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "constant", "learning-rate schedule", source="official code"
    )
    warmup_ratio: Fraction = option(0.0, "share of the steps with rising learning rate")
    weight_decay: NonNegative = option(
        0.01, "AdamW weight decay", source="official code: that of the optimizer"
    )
    max_grad_norm: Positive = option(1.0, "gradient clipping", source="our choice")
    crop: Count = option(128, "pixels of the squares that are learnt from", source="official code")
    ratios: list[Positive] = option(
        [4.0, 8.0],
        "longer of two exposures to the shorter one, drawn for each example",
        source="official code",
    )
    frequency_weight: NonNegative = option(
        0.1,
        "of the spectra's distance; it grows with the crop, and belongs to 128 pixels",
        source="official code",
    )
    temporal_weight: NonNegative = option(
        0.1, "of the change from one window to the next", source="official code"
    )
    perceptual: str | None = option(
        None,
        "FILE.py:NAME of features of pictures [B, 3, H, W] normalised by ImageNet's mean and deviation (the paper: VGG-19 up "
        "to relu5_1); without it there is no perceptual term",
    )
    perceptual_weight: NonNegative = option(
        0.1, "of their squared distance", source="official code", only_with="perceptual"
    )
    eval_fraction: Fraction = option(0.1, "share of the shots held out, on which the network is measured")
    save_steps: CountOrZero = option(500, "write a checkpoint every so many steps; 0 writes none")
    logging_steps: Count = option(10, "log every so many steps")
    seed: Seed = option(0, "seed of everything random")

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    report_to: ClassVar = ()


@dataclass(kw_only=True)
class RadianceOptions(NetworkOptions, RadianceTraining):
    """What is learnt from, what is reconstructed, and how."""

    __group__ = "Data"

    data: str | None = option(
        None,
        "shots to learn from: rows with `frames` or `video`, or folders; ordinary video, or radiance (OpenEXR, Radiance)",
    )
    reconstruct: str | None = option(
        None,
        "shots of alternating exposure to reconstruct: with `exposures` or `stops`, and `targets` where known",
    )
    network: str | None = option(None, "trained network to begin with: a folder or run of ours")
    limit: Count | None = option(None, "read only so many shots of each source")
    output: Literal["exr", "hdr"] = option(
        "exr", "files of the frames: OpenEXR in float32, or Radiance", only_with="reconstruct"
    )
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is not None:
            self.refuse(NetworkOptions, "with network, which has its own sizes")
        if self.data is None:
            if self.reconstruct is not None and self.network is None:
                raise ValueError("network is required without data: nothing is trained")
            self.refuse(RadianceTraining, "without data: nothing is trained")
            return
        if self.exposures == 3:
            self.refuse(["ratios"], "with exposures: 3, which are 1, 4 and 16")
        if not self.ratios or any(one <= 1 for one in self.ratios):
            raise ValueError(f"ratios is {self.ratios}, expected numbers above 1")
        if self.perceptual is not None and not names_code(self.perceptual):
            raise ValueError(f"perceptual: {self.perceptual!r} is no FILE.py:NAME")
        unit = 8 * self.align_downscale
        if self.crop % unit:
            raise ValueError(
                f"crop is {self.crop}, expected a multiple of {unit} with align_downscale: {self.align_downscale}"
            )

    @property
    def window(self) -> int:
        """Frames of a window."""
        return self.frames if self.frames is not None else 5 if self.exposures == 2 else 7
