"""The network of a consistency model of pictures: a U-Net of diffusers, saved as a pipeline that diffusers samples from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.models.devices import autocast_format, pick_device
from coalign.models.diffusion.files import load_network, network_of_config, quiet_diffusers, save_pipeline
from coalign.vision.consistency.losses import Network
from coalign.vision.consistency.options import NetworkOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.vision.consistency.objective import ConsistencyObjective

KIND = "UNet2DModel"
GROUPS = 32
"""Groups of a new network's normalisation, or the largest number below that divides its width."""


def open_network(options: NetworkOptions, *, size: int, channels: int, classes: int, seed: int) -> nn.Module:
    """The U-Net of the options on its device; weights of a new one are drawn from `seed`.

    Args:
        size: side of the pictures.
        channels: 1 or 3.
        classes: how many labels it is conditioned on; 0 for none.

    Raises:
        ConfigError, ModelError: it cannot be built or loaded, or does not fit the pictures.
    """
    if options.model == "new" or options.model.endswith(".json"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if options.model == "new":
                network = _new(options, size, channels, classes)
            else:
                network = network_of_config(Path(options.model), KIND)
    else:
        network = load_network(options.model, KIND, revision=options.revision)
    _assert_fits(options.model, network, size, channels, classes)
    device = pick_device(options.device)
    network = network.to(device)
    network.autocast_dtype = autocast_format(device)  # type: ignore[assignment]
    return network


def network_function(unet: nn.Module, scale: float, labels: Tensor | None) -> Network:
    """The U-Net as losses and sampling call it.

    Args:
        scale: what `ln(sigma) / 4` is multiplied by.
        labels: [B] classes, for a network that is conditioned on them.
    """

    def network(scaled: Tensor, level: Tensor) -> Tensor:
        classes = {} if labels is None else {"class_labels": labels}
        return unet(scaled, level * scale, return_dict=False, **classes)[0]

    return network


def save_consistency_model(
    unet: nn.Module, objective: ConsistencyObjective, path: Path, levels: int = 40
) -> Path:
    """Write the network with its noise schedule as a `ConsistencyModelPipeline`: `model_index.json`, `unet/`, `scheduler/`.

    Args:
        levels: how many noise levels the pipeline's steps are chosen among.
    """
    diffusers = quiet_diffusers()
    scheduler = diffusers.CMStochasticIterativeScheduler(
        num_train_timesteps=levels,
        sigma_min=objective.noise.sigma_min,
        sigma_max=objective.noise.sigma_max,
        sigma_data=objective.model.sigma_data,
        rho=objective.noise.rho,
    )
    return save_pipeline(diffusers.ConsistencyModelPipeline(unet, scheduler), path)


def nearest_timestep(objective: ConsistencyObjective, sigma: float, levels: int = 40) -> int:
    """Which of a saved pipeline's timesteps lies nearest to a noise level; 0 is the largest level."""
    noise = objective.noise
    low, high = (one ** (1 / noise.rho) for one in (noise.sigma_min, noise.sigma_max))
    place = (high - sigma ** (1 / noise.rho)) / (high - low) * (levels - 1)
    return min(max(round(place), 0), levels - 1)


def _new(options: NetworkOptions, size: int, channels: int, classes: int) -> Any:
    diffusers = quiet_diffusers()
    levels = range(len(options.multipliers))
    kinds = ["Attn" if one in options.attention else "" for one in levels]
    widths = tuple(options.width * one for one in options.multipliers)
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        down_block_types=tuple(f"{one}DownBlock2D" for one in kinds),
        up_block_types=tuple(f"{one}UpBlock2D" for one in reversed(kinds)),
        layers_per_block=options.layers_per_block,
        dropout=options.dropout,
        norm_num_groups=math.gcd(options.width, GROUPS),
        attention_head_dim=min(64, math.gcd(*widths)),
        num_class_embeds=classes or None,
        resnet_time_scale_shift="scale_shift",
    )


def _assert_fits(name: str, network: Any, size: int, channels: int, classes: int) -> None:
    config = network.config
    if (config.in_channels, config.out_channels) != (channels, channels):
        raise ConfigError(
            f"{name}: the network takes {config.in_channels} channels and gives {config.out_channels}, expected "
            f"{channels} (--{'no-' if channels == 1 else ''}grey is the other kind of picture)"
        )
    if config.time_embedding_type != "positional":
        raise ModelError(
            f"{name}: its embedding of time is {config.time_embedding_type}, expected positional: noise levels are given "
            "as multiples of ln(sigma), which can be negative."
        )
    halvings = 2 ** (len(config.block_out_channels) - 1)
    if size % halvings:
        raise ConfigError(
            f"image_size: {size} cannot be halved {len(config.block_out_channels) - 1} times by the network {name}, "
            f"expected a multiple of {halvings}"
        )
    given = config.num_class_embeds or 0
    if bool(given) != bool(classes) or given < classes:
        raise ConfigError(
            f"{name}: the network is conditioned on {given} classes, the pictures have {classes}"
            + ("" if classes else " that are used (--classes takes their labels)")
        )
