"""Who fills the empty tile: any in-painting pipeline of diffusers, or a function of the user's own.

The call is `inpaint(canvas, mask, text, generator) -> picture`: a canvas and a mask of Pillow (white where it paints), the
text, and a generator of random numbers of torch; a picture comes back, of the size of the canvas.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.core.extras import require
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, OptionGroup, option, required
from coalign.core.own_code import load_code, names_code
from coalign.models.devices import pick_device

if TYPE_CHECKING:
    from PIL import Image

    Inpaint: TypeAlias = Callable[[Image.Image, Image.Image, str, torch.Generator], Image.Image]


@dataclass(kw_only=True)
class InpaintingOptions(OptionGroup):
    """Which model paints, and how."""

    __group__ = "Generator"

    generator: str = required(
        "in-painting pipeline of diffusers by folder or hub id, or a function of your own: FILE.py:NAME, called with "
        "(canvas, mask, text, generator)",
    )
    generator_revision: str | None = option(None, "of the pipeline on the hub")
    guidance: NonNegative = option(30.0, "guidance scale", source="official code (FLUX.1-Fill)")
    steps: Count = option(50, "sampling steps", source="official code")
    strength: Fraction | None = option(
        None,
        "how far the painted part is noised at first, for pipelines that ask; by default 1: from noise alone",
    )
    max_sequence_length: CountOrZero = option(
        512,
        "most tokens of the text, for pipelines that take it; 0 leaves it to the pipeline",
        source="official code",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "number format of the pipeline; auto: bfloat16 on an accelerator, else float32"
    )
    offload: bool = option(
        False, "keep on the accelerator only the part that works: FLUX.1-Fill needs 24 GB otherwise"
    )
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if names_code(self.generator):
            names = (
                "generator_revision",
                "guidance",
                "steps",
                "strength",
                "max_sequence_length",
                "dtype",
                "offload",
            )
            self.refuse(names, "with a generator of your own")


def open_inpainting(options: InpaintingOptions) -> Inpaint:
    """The model that `options` name.

    Raises:
        ConfigError: the function of the user's own cannot be found.
        ModelError: the pipeline cannot be loaded, or does not in-paint.
    """
    if names_code(options.generator):
        found = load_code(options.generator, "generator")
        if not callable(found):
            raise ConfigError(f"generator: {options.generator} is no function.")
        return cast("Inpaint", found)
    return _Pipeline(options)


class _Pipeline:
    """A pipeline of diffusers behind the narrow call. What a pipeline does not take it is not given."""

    def __init__(self, options: InpaintingOptions) -> None:
        diffusers: Any = require("diffusers", "diffusion")
        self.options = options
        device = pick_device(options.device)
        chosen = (
            ("float32" if device.type == "cpu" else "bfloat16") if options.dtype == "auto" else options.dtype
        )
        place = Path(options.generator).expanduser()
        name = str(place) if place.is_dir() else options.generator
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                name, revision=options.generator_revision, dtype=getattr(torch, chosen)
            )
            if "mask_image" not in inspect.signature(pipeline.__call__).parameters:
                pipeline = diffusers.AutoPipelineForInpainting.from_pipe(pipeline)
        except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{options.generator}: no in-painting pipeline of diffusers that can be loaded ({first}).",
                hint="Give the folder or hub id of one (FLUX.1-Fill, Stable Diffusion inpainting, ...), or FILE.py:NAME.",
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        if options.offload:
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
        self.pipeline: Any = pipeline
        self.takes = {*inspect.signature(pipeline.__call__).parameters}
        self.multiple = _multiple_of(pipeline)

    def __call__(
        self, canvas: Image.Image, mask: Image.Image, text: str, generator: torch.Generator
    ) -> Image.Image:
        if any(one % self.multiple for one in canvas.size):
            raise ConfigError(
                f"tile: the sheet has {canvas.width} x {canvas.height} pixels, expected a multiple of {self.multiple} "
                "for this pipeline."
            )
        asked = {
            "width": canvas.width,
            "height": canvas.height,
            "guidance_scale": self.options.guidance,
            "num_inference_steps": self.options.steps,
            "strength": 1.0 if self.options.strength is None else self.options.strength,
            "max_sequence_length": self.options.max_sequence_length or None,
        }
        given = {name: value for name, value in asked.items() if name in self.takes and value is not None}
        return self.pipeline(prompt=text, image=canvas, mask_image=mask, generator=generator, **given).images[
            0
        ]


def _multiple_of(pipeline: Any) -> int:
    """What width and height must be multiples of: FLUX packs latents in pairs."""
    factor = int(getattr(pipeline, "vae_scale_factor", 8))
    return 2 * factor if hasattr(pipeline, "_pack_latents") else factor


def seeded(seed: int) -> torch.Generator:
    """Random numbers of one picture; on the CPU, so that they are alike on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def drawn_seed(seed: int, scene: str) -> int:
    """0 to 1000 for a scene that names none, from the run's seed and the scene's id: drawn for each scene, where the
    official code keeps what it drew for the first.
    """
    return random.Random(f"{seed}/{scene}").randint(0, 1000)
