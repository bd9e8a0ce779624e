"""Blocks of networks of pictures: residual ones in space and in frequency, gated convolutions, pyramids of features."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.functional import elu

if TYPE_CHECKING:
    from torch import Tensor


def conv(given: int, made: int, size: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size, or halves it with stride 2."""
    return nn.Conv2d(given, made, size, stride, size // 2, bias=bias)


class ResBlock(nn.Module):
    """`x + conv(relu(conv(x)))`; the shortcut is a convolution where channels change."""

    def __init__(self, given: int, made: int | None = None) -> None:
        super().__init__()
        made = made or given
        self.body = nn.Sequential(conv(given, made), nn.ReLU(), conv(made, made))
        self.shortcut = nn.Identity() if given == made else conv(given, made)

    @property
    def last_convolutions(self) -> list[nn.Conv2d]:
        """What its branch ends with."""
        return [cast(nn.Conv2d, self.body[-1])]

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class FFTResBlock(nn.Module):
    """`x + conv(relu(conv(x))) + irfft2(1x1(relu(1x1([Re, Im] of rfft2(x)))))`, without biases, the spectrum always
    in float32: half precision has no transforms of all sizes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.space = nn.Sequential(
            conv(channels, channels, bias=False), nn.ReLU(), conv(channels, channels, bias=False)
        )
        width = 2 * channels
        self.spectrum = nn.Sequential(
            conv(width, width, 1, bias=False), nn.ReLU(), conv(width, width, 1, bias=False)
        )

    @property
    def last_convolutions(self) -> list[nn.Conv2d]:
        """What its branches end with."""
        return [cast(nn.Conv2d, self.space[-1]), cast(nn.Conv2d, self.spectrum[-1])]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            spectrum = torch.fft.rfft2(wide)
            real, imaginary = self.spectrum(torch.cat([spectrum.real, spectrum.imag], 1)).chunk(2, 1)
            filtered = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:])
        return x + self.space(x) + filtered.to(x.dtype)


class GatedConv(nn.Module):
    """`elu(a) sigmoid(b)`, a and b the halves of a convolution's channels."""

    def __init__(self, given: int, made: int, stride: int = 1) -> None:
        super().__init__()
        self.both = conv(given, 2 * made, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, 1)
        return elu(a) * torch.sigmoid(b)


class Pyramid(nn.Module):
    """Features at four sizes.

    Args:
        given: channels of the input.
        width: t channels at full size; they double whenever the size is halved.
        gated: whether the convolutions between the blocks are gated.
    """

    def __init__(self, given: int, width: int, *, gated: bool = False) -> None:
        super().__init__()

        def step(before: int, after: int, stride: int) -> nn.Module:
            kind = GatedConv(before, after, stride) if gated else conv(before, after, stride=stride)
            return nn.Sequential(kind, nn.ReLU())

        self.first = nn.Sequential(step(given, width, 1), step(width, width, 1), FFTResBlock(width))
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(
            nn.Sequential(step(before, after, 2), FFTResBlock(after))
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 8t, H/8, W/8], [B, 4t, H/4, W/4], [B, 2t, H/2, W/2], [B, t, H, W]."""
        found = [self.first(x)]
        for one in self.down:
            found.append(one(found[-1]))
        return found[::-1]
