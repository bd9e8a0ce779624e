"""The parts of a text-to-image model that are trained: a U-Net that is conditioned on the states of a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class TextToImage(nn.Module):
    """U-Net and text encoder as one module, so that their gradients are clipped together and shared by processes.

    Args:
        unet: called with (noisy, steps, encoder_hidden_states), as a UNet2DConditionModel.
        text_encoder: gives `last_hidden_state`, as a CLIPTextModel.
    """

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
        """[B, ...] prediction for noisy latents at time steps [B] of the captions with token ids [B, L]."""
        return self.unet(noisy, steps, encoder_hidden_states=self.states(ids), return_dict=False)[0]

    def states(self, ids: Tensor) -> Tensor:
        """[B, L, D] last hidden states of the text encoder; padding is read as well, as Stable Diffusion has it."""
        return self.text_encoder(ids)[0]


def text_to_image_of(pipeline: Any, name: str) -> TextToImage:
    """The trained parts of a pipeline.

    Raises:
        ModelError: a U-Net that asks for more than the states of one text encoder (Stable Diffusion XL), or none.
    """
    config = pipeline.unet.config
    if type(pipeline.unet).__name__ != "UNet2DConditionModel" or config.get("addition_embed_type"):
        raise ModelError(
            f"{name}: its {type(pipeline.unet).__name__} is conditioned on more than one text encoder's states.",
            hint="Models of the form of Stable Diffusion 1 and 2 are trained here.",
        )
    return TextToImage(pipeline.unet, pipeline.text_encoder)


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
    """[B, L] token ids, padded and cut to the model's length, and which texts were cut."""
    most = tokenizer.model_max_length
    found = tokenizer(
        list(texts), padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    )
    lengths = [len(one) for one in tokenizer(list(texts), truncation=False).input_ids]
    return found.input_ids, [one > most for one in lengths]


def latents_of(vae: Any, pixels: Tensor, draw: Callable[[torch.Size], Tensor]) -> Tensor:
    """[B, C, h, w] latents: drawn from the distribution of the autoencoder, shifted and scaled as its configuration says.

    Args:
        vae: None for a model of pixels, which are then returned as they are.
        pixels: [B, 3, H, W] in [-1, 1].
        draw: standard normal numbers of a shape.
    """
    if vae is None:
        return pixels
    with torch.no_grad():
        found = vae.encode(pixels.to(vae.dtype)).latent_dist
        sample = found.mean + found.std * draw(found.mean.shape).to(found.mean)
    shift = vae.config.get("shift_factor") or 0.0
    return (sample - shift) * vae.config.scaling_factor


def sample_latents(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    noise: Tensor,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """[B, ...] latents that a scheduler of diffusers makes of noise in `steps` steps; without gradient.

    Args:
        predict: the network's prediction for noisy latents [B, ...] at time steps [B].
        noise: [B, ...] standard normal.
        generator: of schedulers that draw noise on the way.
    """
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    drawn = {"generator": generator} if generator is not None else {}
    with torch.no_grad():
        for step in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, step)
            predicted = predict(scaled, step.expand(len(latents)).to(latents.device))
            latents = scheduler.step(predicted, step, latents, return_dict=False, **drawn)[0]
    return latents
