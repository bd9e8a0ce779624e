"""Schedulers of diffusers for sampling, spaced so that no noise is left in the picture."""

from __future__ import annotations

from typing import Any, Literal

from coalign.models.diffusion.files import quiet_diffusers

Sampler = Literal["pipeline", "ddim", "ddpm", "dpm-solver", "euler", "euler-ancestral", "unipc"]
_CLASSES: dict[str, str] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def sampling_scheduler(scheduler: Any, name: Sampler = "pipeline") -> Any:
    """A scheduler for sampling with the noise schedule of another one.

    The DDIM and DDPM schedulers of diffusers step back by a fixed number of time steps, which `linspace` spacing does not
    have: noise is left in the picture (0.42.1). They are spaced `trailing` instead, as is every other that is asked for by
    name (Lin et al. 2023).

    Args:
        name: `pipeline` keeps the kind of scheduler that the model comes with.
    """
    diffusers = quiet_diffusers()
    kind = type(scheduler) if name == "pipeline" else getattr(diffusers, _CLASSES[name])
    fixed = kind.__name__ in ("DDIMScheduler", "DDPMScheduler")
    spacing = scheduler.config.get("timestep_spacing")
    if name == "pipeline" and not (fixed and spacing == "linspace"):
        return scheduler
    return kind.from_config(scheduler.config, timestep_spacing="trailing")
