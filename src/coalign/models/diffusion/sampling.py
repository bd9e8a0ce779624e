"""Pictures of prompts by any text-to-image pipeline of diffusers; each picture has a random stream of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from coalign.models.diffusion.schedulers import Sampler, sampling_scheduler

if TYPE_CHECKING:
    from PIL.Image import Image


def pictures_of(
    pipeline: Any,
    prompt: str,
    count: int,
    *,
    seed: int,
    sampler: Sampler = "pipeline",
    steps: int = 50,
    guidance: float = 7.5,
    **given: Any,
) -> list[Image]:
    """So many pictures of a prompt. Picture k depends on `seed` and k, not on how many are made.

    Args:
        guidance: scale of classifier-free guidance; 1 and below is without.
        given: further arguments of the pipeline, such as `negative_prompt`, `height`, `width`.
    """
    before = pipeline.scheduler
    pipeline.scheduler = sampling_scheduler(before, sampler)
    generators = [torch.Generator().manual_seed(seed * 1_000_003 + number) for number in range(count)]
    try:
        found = pipeline(
            prompt=prompt,
            num_images_per_prompt=count,
            generator=generators,
            num_inference_steps=steps,
            guidance_scale=guidance,
            **given,
        )
    finally:
        pipeline.scheduler = before
    return list(found.images)
