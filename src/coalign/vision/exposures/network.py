"""The network: every frame of a window aligned with the middle one by attention on luminance, filled where nothing matches,
merged into one frame of radiance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from coalign.core.errors import ModelError
from coalign.core.files import parse_json, write_json
from coalign.vision.exposures.attention import luminance_attention
from coalign.vision.exposures.blocks import FFTResBlock, Pyramid, ResBlock, conv
from coalign.vision.exposures.photometry import luma, re_exposed, to_radiance

if TYPE_CHECKING:
    from torch import Tensor

SATURATED = 0.98
"""Value at which a pixel counts as saturated in the mask. Our choice."""
RESIDUAL = 0.1
"""Of the first weights of what a residual branch adds. Source: as EDSR has it (arXiv 1707.02921)."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network.

    Attributes:
        frames: of a window; the reference is frame `frames // 2`.
        width: t, channels of the pyramids at full size.
        channels: of aligned features.
        blocks: residual blocks of the alignment.
        merge_blocks: blocks in space and frequency of the merge.
        align_downscale: by how much frames are reduced before they are aligned: 4 puts the attention at 1/32 of the size.
        hallucination_mask: seventh channel of the frames that are filled in: their luma, or where they are not saturated.
        attention: `none` leaves every place where it is, with full confidence (the ablation).
    """

    frames: int = 5
    width: int = 16
    channels: int = 64
    blocks: int = 5
    merge_blocks: int = 5
    align_downscale: int = 4
    hallucination_mask: Literal["luma", "saturation"] = "luma"
    attention: Literal["luminance", "none"] = "luminance"

    @property
    def multiple(self) -> int:
        """What height and width are filled up to a multiple of."""
        return 8 * self.align_downscale


def frame_inputs(ldr: Tensor, exposures: Tensor, reference: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is known of every frame, in linear light and as it was taken.

    Args:
        ldr: [B, N, 3, H, W] from 0 to 1.
        exposures: [B, N] relative to the darkest.
        reference: place of the frame that the others are aligned with.

    Returns:
        frames [B, N, 7, H, W] (LDR, radiance, luma), their luminance [B, N, 4, H, W] (luma, radiance), and the reference's
        luminance as it would be at each frame's exposure, [B, N, 4, H, W].
    """
    each = exposures[:, :, None, None, None]
    radiance = to_radiance(ldr, each)
    bright = luma(ldr)
    same = re_exposed(ldr[:, reference, None], each[:, reference, None], each)
    return (
        torch.cat([ldr, radiance, bright], 2),
        torch.cat([bright, radiance], 2),
        torch.cat([luma(same), to_radiance(same, each)], 2),
    )


class Alignment(nn.Module):
    """A frame's features moved to where the reference has the same content."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        t, self.attention = shape.width, shape.attention
        self.luminance = Pyramid(4, t)
        self.value = Pyramid(6, t)
        self.project = nn.Linear(9 * 8 * t, 4 * t, bias=False)
        self.join = conv(16 * t, 8 * t)
        self.coarse = nn.Sequential(*(ResBlock(8 * t) for _ in range(shape.blocks)), conv(8 * t, 4 * t))
        widths = ((4 * t, 2 * t), (2 * t, t), (t, shape.channels))
        self.skips = nn.ModuleList(conv(given, given) for given, _ in widths)
        self.rise = nn.ModuleList(ResBlock(given, made) for given, made in widths)
        self.last = nn.Sequential(conv(shape.channels, shape.channels), nn.ReLU())

    def forward(self, frames: Tensor, luminance: Tensor, reference: Tensor) -> Tensor:
        """[B, channels, h, w] of frames [B, 6, h, w] and luminances [B, 4, h, w]."""
        coarse, *finer = self.value(frames)
        if self.attention == "none":
            found, confidence = coarse, torch.ones_like(coarse[:, :1])
        else:
            query, key = self.luminance(reference)[0], self.luminance(luminance)[0]
            found, confidence, _ = luminance_attention(query, key, coarse, self.project.weight)
        x = self.coarse(self.join(torch.cat([found, coarse], 1)) * confidence)
        for level, skip, block in zip(finer, self.skips, self.rise, strict=True):
            x = block(skip(level) + _sized(x, level))
        return self.last(x)


class Hallucination(nn.Module):
    """Content where nothing could be aligned, and the gate that says where aligned features count."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        t, channels = shape.width, shape.channels
        self.moving = Pyramid(7, t, gated=True)
        self.reference = Pyramid(7, t, gated=True)
        self.coarse = nn.Sequential(
            ResBlock(16 * t, 8 * t), ResBlock(8 * t), ResBlock(8 * t), conv(8 * t, 4 * t)
        )
        widths = ((4 * t, 2 * t), (2 * t, t), (t, channels))
        self.rise = nn.ModuleList(conv(given, given) for given, _ in widths)
        self.blocks = nn.ModuleList(ResBlock(given, made) for given, made in widths)
        self.place = {4: 0, 2: 1, 1: 2}[shape.align_downscale]
        here = widths[self.place][1]
        self.filled = conv(here, channels, 1)
        self.gate = conv(2 * channels, 1, 5)
        self.after = ResBlock(channels, here)

    def forward(self, frames: Tensor, reference: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, channels, H, W] of frames and references [B, 7, H, W] and aligned features, and the gate."""
        moving, still = self.moving(frames), self.reference(reference)
        x = self.coarse(torch.cat([moving[0], still[0]], 1))
        gate = aligned
        for place, (rise, block) in enumerate(zip(self.rise, self.blocks, strict=True)):
            skip = moving[place + 1] + still[place + 1]
            x = block(rise(_sized(x, skip)) + skip)
            if place == self.place:
                filled = self.filled(x)
                near = _sized(aligned, filled)
                gate = torch.sigmoid(self.gate(torch.cat([filled, near], 1)))
                x = self.after(filled + gate * near)
        return x, gate


class HDRNetwork(nn.Module):
    """Windows of frames of alternating exposure to the radiance of their middle frame."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.alignment = Alignment(shape)
        self.hallucination = Hallucination(shape)
        channels = shape.channels
        self.merge = nn.Sequential(
            conv(shape.frames * channels, channels),
            nn.ReLU(),
            *(FFTResBlock(channels) for _ in range(shape.merge_blocks)),
            conv(channels, 3),
        )

    def forward(self, ldr: Tensor, exposures: Tensor) -> Tensor:
        """[B, 3, H, W] radiance in 0 to 1 of frames [B, N, 3, H, W] in 0 to 1 and exposures [B, N]."""
        return self.with_gates(ldr, exposures)[0]

    def with_gates(self, ldr: Tensor, exposures: Tensor) -> tuple[Tensor, Tensor]:
        """Also the gates [B, N, 1, h, w]: near 1 aligned features count, near 0 those that were made up."""
        height, width = ldr.shape[-2:]
        ldr = _filled_up(ldr, self.shape.multiple)
        batch, count, _, *size = ldr.shape
        frames, luminance, reference = frame_inputs(ldr, exposures, count // 2)
        if self.shape.hallucination_mask == "saturation":
            unsaturated = (ldr.amax(2, keepdim=True) < SATURATED).to(ldr.dtype)
            frames = torch.cat([frames[:, :, :6], unsaturated], 2)
        flat = [one.flatten(0, 1) for one in (frames[:, :, :6], luminance, reference)]
        if self.shape.align_downscale > 1:
            small = [length // self.shape.align_downscale for length in size]
            flat = [interpolate(one, small, mode="bilinear", align_corners=False) for one in flat]
        aligned = self.alignment(*flat)
        still = frames[:, count // 2, None].expand_as(frames)
        features, gate = self.hallucination(frames.flatten(0, 1), still.flatten(0, 1), aligned)
        merged = torch.sigmoid(self.merge(features.reshape(batch, -1, *size)))
        return merged[..., :height, :width], gate.unflatten(0, (batch, count))

    def save(self, folder: Path) -> None:
        """Write weights and shape."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: one.detach().cpu().contiguous() for name, one in self.state_dict().items()},
            folder / WEIGHTS,
        )
        write_json(folder / CONFIG, {"model_type": "hdr-video", **asdict(self.shape)})

    @classmethod
    def load(cls, folder: Path) -> HDRNetwork:
        """Read what `save` wrote, from its folder or from a run's.

        Raises:
            ModelError: absent or of another kind.
        """
        from safetensors.torch import load_file

        place = folder / "model" if (folder / "model" / CONFIG).is_file() else folder
        try:
            values = parse_json((place / CONFIG).read_text(encoding="utf-8"))
            if values.pop("model_type", None) != "hdr-video":
                raise ValueError("model_type is not hdr-video")
            network = cls(NetworkShape(**values))
            network.load_state_dict(load_file(place / WEIGHTS))
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            first = str(error).partition("\n")[0]
            raise ModelError(f"{folder}: not a network of lan-hdr ({first}).") from error
        return network.eval()


def new_network(shape: NetworkShape, seed: int) -> HDRNetwork:
    """A network with random weights of a seed, whatever was drawn before: He's weights and biases of 0, the last
    convolution of every residual branch at a tenth. Under PyTorch's own the biases outgrow what is seen, layer by layer, and
    features of different places come out alike. Our choice.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HDRNetwork(shape)
        for one in network.modules():
            if isinstance(one, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
                if one.bias is not None:
                    nn.init.zeros_(one.bias)
        for one in network.modules():
            if isinstance(one, ResBlock | FFTResBlock):
                for last in one.last_convolutions:
                    last.weight.data *= RESIDUAL
        return network


def _sized(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else interpolate(x, size, mode="bilinear", align_corners=False)


def _filled_up(ldr: Tensor, multiple: int) -> Tensor:
    """Height and width filled up below and to the right by repeating the border."""
    height, width = ldr.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return ldr
    batch, count = ldr.shape[:2]
    return pad(ldr.flatten(0, 1), (0, right, 0, below), mode="replicate").unflatten(0, (batch, count))
