"""Windows of alternating exposure made of ordinary video, or of radiance: what the network learns from.

The curve of a camera that was drawn at random is undone, the frames are cut, turned and scaled in brightness (both windows of
an example alike), taken again with alternating exposures, and noise is put on the darker ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from coalign.vision.exposures.photometry import inverse_camera_curve, quantised, to_ldr, to_radiance

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from coalign.vision.exposures.shots import Shot

NOISE, NOISE_SHARE = 1e-3, 0.9
"""Standard deviation in linear light, and how often there is noise. Source: the official code."""
CURVE = ((0.65, 0.1, 0.4, 0.9), (0.6, 0.1, 0.4, 0.8))
"""Mean, deviation, least and most of n and of sigma of a camera's curve. Source: the official code."""
STRETCH = 7
"""Consecutive frames out of which those of an example are picked: a septuplet of Vimeo-90K."""


@dataclass(frozen=True)
class Windows:
    """Two windows of a shot, the second one frame later.

    Attributes:
        ldr: [2, N, 3, h, w] from 0 to 1.
        exposures: [2, N].
        target: [2, 3, h, w] radiance of the middle frames, at most 1.
    """

    ldr: Tensor
    exposures: Tensor
    target: Tensor


@dataclass(frozen=True)
class Synthesis:
    """How windows are made.

    Attributes:
        frames: of a window.
        exposures: 2 or 3 that alternate.
        ratios: of two exposures, one of these is drawn; of three they are 1, 4 and 16.
        crop: pixels of a side; a smaller shot is enlarged.
    """

    frames: int
    exposures: Literal[2, 3]
    ratios: tuple[float, ...]
    crop: int


def picked(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """Places of `wanted` frames in order, out of `STRETCH` (or as many as are wanted) that follow each other; where a shot
    has fewer frames, some of its last three come twice. Half of the time backwards.
    """
    stretch = min(count, max(STRETCH, wanted))
    start = int(rng.integers(count - stretch + 1))
    places = [start + one for one in range(stretch)]
    if stretch >= wanted:
        found = sorted(rng.permutation(places)[:wanted].tolist())
    else:
        found = sorted(places + rng.choice(places[-3:], wanted - stretch).tolist())
    return found[::-1] if rng.random() < 0.5 else found


def exposure_cycle(synthesis: Synthesis, rng: np.random.Generator) -> list[float]:
    """Exposures of the N + 1 frames of an example, beginning anywhere in the cycle."""
    cycle = [1.0, 4.0, 16.0] if synthesis.exposures == 3 else [1.0, float(rng.choice(synthesis.ratios))]
    start = int(rng.integers(len(cycle)))
    return [cycle[(start + place) % len(cycle)] for place in range(synthesis.frames + 1)]


def synthesised(shot: Shot, synthesis: Synthesis, rng: np.random.Generator) -> Windows:
    """Two windows of a shot; errors are those of `Shot.read`."""
    wanted = synthesis.frames + 1
    frames = shot.read(picked(shot.count, wanted, rng))
    light = torch.stack([torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1))) for one in frames])
    light = light / light.max().clamp(min=1e-6) if shot.is_linear else _uncurved(light, rng)
    light = _augmented(light, synthesis.crop, rng)
    exposures = exposure_cycle(synthesis, rng)
    middle = synthesis.frames // 2
    light = _rescaled(light, light[middle], dark=exposures[middle] == min(exposures), rng=rng)
    noisy = rng.random() < NOISE_SHARE
    seeds = torch.Generator().manual_seed(int(rng.integers(2**31)))
    taken = []
    for place, exposure in enumerate(exposures):
        ldr = to_ldr(light[place], exposure)
        around = [exposures[one] for one in (place - 1, place + 1) if 0 <= one < wanted]
        if noisy and exposure < max(around):
            noise = NOISE * torch.randn(ldr.shape, generator=seeds)
            ldr = to_ldr((to_radiance(ldr, exposure) + noise).clamp(min=0), exposure)
        taken.append(ldr)
    ldr, each = torch.stack(taken), torch.tensor(exposures)
    windows = [slice(0, synthesis.frames), slice(1, wanted)]
    return Windows(
        torch.stack([ldr[one] for one in windows]),
        torch.stack([each[one] for one in windows]),
        light[[middle, middle + 1]],
    )


def _uncurved(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Linear light of frames whose camera is drawn, at 16 bits."""
    n, sigma = (
        float(np.clip(rng.normal(mean, deviation), low, high)) for mean, deviation, low, high in CURVE
    )
    return quantised(inverse_camera_curve(frames, n, sigma))


def _augmented(light: Tensor, crop: int, rng: np.random.Generator) -> Tensor:
    """[N, 3, crop, crop]: resized, cut, mirrored, turned, colours exchanged; all frames alike."""
    height, width = light.shape[-2:]
    least = crop / min(height, width)
    scale = least + (1 - least) * rng.random() if least < 1 else least
    size = [max(math.ceil(one * scale - 1e-9), crop) for one in (height, width)]
    if size != [height, width]:
        light = interpolate(light, size, mode="bilinear", align_corners=False, antialias=True).clamp(min=0)
    top, left = (int(rng.integers(one - crop + 1)) for one in size)
    light = light[..., top : top + crop, left : left + crop]
    flips = [axis for axis in (-2, -1) if rng.random() < 0.5]
    light = torch.rot90(light.flip(flips), int(rng.integers(4)), (-2, -1))
    return light[:, rng.permutation(3).tolist()]


def _rescaled(light: Tensor, reference: Tensor, *, dark: bool, rng: np.random.Generator) -> Tensor:
    """Brightness anew: where the middle frame is a dark exposure, its brightest value at 0.1 to 1 of what it was; else a
    value among its brightest two per cent at a place up to 1, so that the long exposure saturates.
    """
    if dark:
        return (light * rng.uniform(0.1, 1.0)).clamp(0, 1)
    anchor = float(np.percentile(reference.numpy(), rng.uniform(98, 100)))
    new = rng.uniform(min(anchor, 1.0), 1.0)
    return (light * (new / max(anchor, 1e-6))).clamp(0, 1)


def window_of(place: int, frames: int, count: int, period: int) -> list[int]:
    """Places of the window around a frame of a shot. Beyond its ends, the nearest frame of the same exposure stands in.

    Args:
        period: frames after which exposures repeat.
    """
    found = []
    for one in range(place - frames // 2, place - frames // 2 + frames):
        near = one
        if near < 0:
            near += math.ceil(-near / period) * period
        if near >= count:
            near -= math.ceil((near - count + 1) / period) * period
        found.append(min(max(near, 0), count - 1))
    return found


def period_of(exposures: tuple[float, ...]) -> int:
    """Frames after which exposures repeat; as many as there are, where they do not."""
    count = len(exposures)
    return next(
        (
            one
            for one in range(1, count)
            if all(math.isclose(exposures[place], exposures[place + one]) for place in range(count - one))
        ),
        count,
    )


def as_array(picture: Tensor) -> NDArray[np.float32]:
    """[H, W, 3] of [3, H, W]."""
    return np.ascontiguousarray(picture.permute(1, 2, 0).float().cpu().numpy())
