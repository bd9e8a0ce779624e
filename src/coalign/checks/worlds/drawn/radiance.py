"""Pairs of frames of a moved scene of high dynamic range: a short exposure, and a long one whose bright parts saturate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from coalign.vision.exposures.attention import patch_cosines
from coalign.vision.exposures.network import SATURATED, HDRNetwork, frame_inputs
from coalign.vision.exposures.photometry import to_ldr

SIDE, MARGIN, CELL = 64, 16, 8
LONG, NOISE = 8.0, 1e-3
SHIFTS = (-16, -8, 0, 8, 16)
"""Pixels that a scene moves between the two frames, on each axis."""
EXPOSURES = (1.0, LONG)
"""Of the neighbour, and of the reference."""


@dataclass(frozen=True)
class Frames:
    """A batch of pairs.

    Attributes:
        ldr: [B, 2, 3, 64, 64], neighbour and reference.
        target: [B, 3, 64, 64] radiance of the reference frame, at most 1.
        shift: [B, 2] rows and columns by which the neighbour's content lies further down and to the right.
    """

    ldr: Tensor
    target: Tensor
    shift: Tensor

    @property
    def exposures(self) -> Tensor:
        """[B, 2]."""
        return torch.tensor([EXPOSURES]).expand(len(self.ldr), -1)

    @property
    def saturated(self) -> Tensor:
        """[B, 1, 64, 64] where a channel of the reference is saturated."""
        return self.ldr[:, 1].amax(1, keepdim=True) >= SATURATED


def drawn_frames(count: int, generator: torch.Generator) -> Frames:
    """Scenes of smooth light (a few grids of random values, exponentiated) times a fine texture, each moved by a shift."""
    size = SIDE + 2 * MARGIN
    light = torch.zeros(count, 1, size, size)
    for cells, height in ((8, 0.7), (16, 0.5)):
        grid = torch.randn(count, 1, cells, cells, generator=generator)
        light = light + height * interpolate(grid, (size, size), mode="bicubic", align_corners=False)
    fine = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    texture = (2 * interpolate(fine, (size, size), mode="nearest") - 2).exp()
    tint = 0.6 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    scene = (light - light.amax((2, 3), keepdim=True)).exp() * texture * tint
    scene = scene / scene.amax((1, 2, 3), keepdim=True)
    places = torch.randint(len(SHIFTS), (count, 2), generator=generator)
    shift = torch.tensor(SHIFTS)[places]
    target = scene[..., MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    moved = [
        one[:, MARGIN - down : MARGIN - down + SIDE, MARGIN - right : MARGIN - right + SIDE]
        for one, (down, right) in zip(scene, shift.tolist(), strict=True)
    ]
    neighbour = torch.stack(moved)
    neighbour = (neighbour + NOISE * torch.randn(neighbour.shape, generator=generator)).clamp(0, 1)
    return Frames(torch.stack([to_ldr(neighbour, 1.0), to_ldr(target, LONG)], 1), target, shift)


def true_places(shift: Tensor) -> Tensor:
    """[B, P] place in the neighbour's map of 8 x 8 cells of what every place of the reference shows; -1 outside."""
    cells = SIDE // CELL
    rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    moved_rows = rows[None] + shift[:, :1, None] // CELL
    moved_columns = columns[None] + shift[:, 1:, None] // CELL
    inside = (moved_rows >= 0) & (moved_rows < cells) & (moved_columns >= 0) & (moved_columns < cells)
    return torch.where(inside, moved_rows * cells + moved_columns, -1).flatten(1)


def matching_cosines(network: HDRNetwork, frames: Frames) -> Tensor:
    """[B, P key, P query] of the neighbour's luminance against the reference's at the neighbour's exposure."""
    _, luminance, reference = frame_inputs(frames.ldr, frames.exposures, 1)
    alignment = network.alignment
    query, key = (alignment.luminance(one[:, 0])[0] for one in (reference, luminance))
    return patch_cosines(query, key, alignment.project.weight)


def matching_loss(network: HDRNetwork, frames: Frames, temperature: float = 0.05) -> Tensor:
    """Scalar: cross-entropy of the true place among the neighbour's, over places that have one. Not of the paper: its
    matcher learns through the confidence alone.
    """
    cosines = matching_cosines(network, frames)
    return cross_entropy(cosines / temperature, true_places(frames.shift), ignore_index=-1)


@torch.no_grad()
def matched_share(network: HDRNetwork, frames: Frames) -> float:
    """Share of the places with a true one where the most similar is the true one."""
    truth = true_places(frames.shift)
    found = matching_cosines(network, frames).argmax(1)
    return float((found == truth)[truth >= 0].float().mean())


@torch.no_grad()
def self_matched_share(network: HDRNetwork, frames: Frames) -> float:
    """Share of the places of the reference that are most similar to themselves."""
    luminance = frame_inputs(frames.ldr, frames.exposures, 1)[1][:, 1]
    features = network.alignment.luminance(luminance)[0]
    found = patch_cosines(features, features, network.alignment.project.weight).argmax(1)
    return float((found == torch.arange(found.shape[1])).float().mean())


def still_pair(radiance: Tensor) -> Tensor:
    """[B, 2, 3, H, W] a scene that did not move, at both exposures and without noise."""
    return torch.stack([to_ldr(radiance, one) for one in EXPOSURES], 1)
