"""Themes and a network that in-paints: tiles of a palette and a texture with a shape on them, sheets of nine.

A theme is a palette (two of ten colours) and a texture; a tile is a theme with one of six shapes. The network fills the
centre of a sheet in the theme of the eight tiles around it, with the shape that it is told; it has learnt most themes, and
checks ask for the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import l1_loss, pixel_shuffle, pixel_unshuffle

from coalign.checks.tiny_models import seeded

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 16
COLOURS = {
    "red": (0.85, 0.1, 0.1), "orange": (1.0, 0.55, 0.0), "yellow": (0.9, 0.85, 0.1), "green": (0.1, 0.6, 0.15),
    "cyan": (0.1, 0.75, 0.8), "blue": (0.15, 0.25, 0.85), "purple": (0.55, 0.15, 0.7), "pink": (1.0, 0.5, 0.75),
    "brown": (0.45, 0.25, 0.1), "black": (0.1, 0.1, 0.1),
}  # fmt: skip
TEXTURES = ("rows", "columns", "checks", "dots")
SHAPES = ("disc", "square", "triangle", "cross", "ring", "diamond")
_NAMES = tuple(COLOURS)
PALETTES = tuple((_NAMES[one], _NAMES[(one + 3) % len(_NAMES)]) for one in range(len(_NAMES)))
WORDS = (*COLOURS, *TEXTURES, *SHAPES, "and", "a", "with")
NOISE = 0.02


@dataclass(frozen=True, order=True)
class Theme:
    """A palette (background, shape) and a texture of the background."""

    palette: tuple[str, str]
    texture: str

    @property
    def phrase(self) -> str:
        """`red and green rows`."""
        return f"{self.palette[0]} and {self.palette[1]} {self.texture}"


def described(theme: Theme, shape: str) -> str:
    """The text of a tile: `a ring with red and green rows`."""
    return f"a {shape} with {theme.phrase}"


def phrases_of(theme: Theme, shape: str) -> tuple[str, str, str]:
    """Key phrases of that text: the subject and its colours, the look, the whole."""
    subject = f"a {shape} with {theme.palette[0]} and {theme.palette[1]}"
    return subject, theme.phrase, described(theme, shape)


THEMES = tuple(Theme(palette, texture) for palette in PALETTES for texture in TEXTURES)


def _texture(name: str) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    rows, columns = y // 2 % 2 == 0, x // 2 % 2 == 0
    found = {"rows": rows, "columns": columns, "checks": rows ^ columns, "dots": rows & columns}
    return found[name]


def _shape(name: str) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    far = np.hypot(y, x)
    found = {
        "disc": far <= 5,
        "square": np.maximum(abs(y), abs(x)) <= 4.5,
        "triangle": (y <= 4.5) & (y >= 2.2 * abs(x) - 5.5),
        "cross": (np.minimum(abs(y), abs(x)) <= 1.5) & (np.maximum(abs(y), abs(x)) <= 5.5),
        "ring": (far <= 6) & (far >= 3.5),
        "diamond": abs(y) + abs(x) <= 6,
    }
    return found[name]


def drawn_tile(theme: Theme, shape: str, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """[3, 16, 16] from 0 to 1: the texture in the palette's first colour and a paler one, the shape in the second; a
    little noise, where there is a source of it.
    """
    first, second = (np.array(COLOURS[name]) for name in theme.palette)
    paper = np.where(_texture(theme.texture)[..., None], first, 0.45 * first + 0.55)
    tile = np.where(_shape(shape)[..., None], second, paper).transpose(2, 0, 1)
    if rng is not None:
        tile = tile + rng.normal(0, NOISE, tile.shape)
    return np.clip(tile, 0, 1).astype(np.float32)


PLAIN = np.stack([drawn_tile(theme, shape) for theme in THEMES for shape in SHAPES])
"""[240, 3, 16, 16]: every tile without noise, themes first."""


def seen_as(tiles: NDArray[np.float32]) -> list[tuple[Theme, str, float]]:
    """Of each tile [N, 3, 16, 16] the theme and shape that it comes closest to, and the mean absolute distance."""
    flat, plain = tiles.reshape(len(tiles), 1, -1), PLAIN.reshape(1, len(PLAIN), -1)
    distance = np.abs(flat - plain).mean(-1)
    nearest = distance.argmin(1)
    return [
        (THEMES[place // len(SHAPES)], SHAPES[place % len(SHAPES)], float(row[place]))
        for place, row in zip(nearest, distance, strict=True)
    ]


def held_out_themes(seed: int, count: int = 8) -> list[Theme]:
    """Themes that are never learnt: palettes that differ, so that every palette and texture is learnt in others."""
    rng = np.random.default_rng([seed, 17])
    palettes = rng.permutation(len(PALETTES))[:count]
    return [Theme(PALETTES[one], TEXTURES[place % len(TEXTURES)]) for place, one in enumerate(palettes)]


def captioned_tiles(themes: Sequence[Theme], count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Tiles [count, 3, 32, 32], enlarged for the small CLIP, each with a caption that says some of what it is."""
    rng = np.random.default_rng([seed, 23])
    tiles, texts = [], []
    for _ in range(count):
        theme, shape = themes[int(rng.integers(len(themes)))], str(rng.choice(SHAPES))
        tiles.append(drawn_tile(theme, shape, rng))
        texts.append(str(rng.choice(phrases_of(theme, shape))))
    return enlarged(torch.from_numpy(np.stack(tiles))), texts


def enlarged(tiles: Tensor) -> Tensor:
    """[N, 3, 32, 32] of [N, 3, 16, 16]: every pixel four times."""
    return tiles.repeat_interleave(2, -1).repeat_interleave(2, -2)


class Inpainter(torch.nn.Module):
    """A U-Net of diffusers that fills the centre of a sheet of 48 x 48 pixels; shapes are its classes."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d import UNet2DModel

        blocks = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
        self.network: Any = UNet2DModel(
            sample_size=3 * SIDE // 2,
            in_channels=16,
            out_channels=12,
            block_out_channels=(32, 48, 64),
            down_block_types=blocks,
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=16,
            num_class_embeds=len(SHAPES),
        )

    def forward(self, canvas: Tensor, mask: Tensor, shapes: Tensor) -> Tensor:
        """[B, 3, 48, 48] of a canvas [B, 3, 48, 48], a mask [B, 1, 48, 48] (1 is painted) and shapes [B]."""
        given = pixel_unshuffle(torch.cat([canvas * (1 - mask) - 0.5 * (1 - mask), mask], 1), 2)
        return pixel_shuffle(self.network(given, 0, class_labels=shapes).sample, 2) + 0.5


def mask_of(count: int) -> Tensor:
    """[count, 1, 48, 48], 1 in the centre."""
    mask = torch.zeros(count, 1, 3 * SIDE, 3 * SIDE)
    mask[..., SIDE : 2 * SIDE, SIDE : 2 * SIDE] = 1
    return mask


def trained_inpainter(
    themes: Sequence[Theme], *, steps: int, batch: int, seed: int, rate: float = 2e-3, others: int = 0
) -> Inpainter:
    """A network that learnt to fill the centre of sheets of one theme (L1 on the centre, AdamW, a cosine).

    Args:
        others: at most so many of the eight tiles around are of other themes.
    """
    model = seeded(Inpainter, seed)
    rng, optimizer = np.random.default_rng([seed, 29]), torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    mask = mask_of(batch)
    model.train()
    for _ in range(steps):
        sheets, shapes = zip(*(_sheet(themes, rng, others) for _ in range(batch)), strict=True)
        target = torch.from_numpy(np.stack(sheets))
        filled = model(target, mask, torch.tensor(shapes))
        loss = l1_loss(_centre(filled), _centre(target))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _centre(sheets: Tensor) -> Tensor:
    return sheets[..., SIDE : 2 * SIDE, SIDE : 2 * SIDE]


def _sheet(themes: Sequence[Theme], rng: np.random.Generator, others: int) -> tuple[NDArray[np.float32], int]:
    """A whole sheet and the shape of its centre."""
    theme, wrong = themes[int(rng.integers(len(themes)))], int(rng.integers(others + 1))
    places = [one for one in itertools.product(range(3), range(3)) if one != (1, 1)]
    strange = {places[one] for one in rng.permutation(8)[:wrong]}
    sheet, shape = np.zeros((3, 3 * SIDE, 3 * SIDE), np.float32), int(rng.integers(len(SHAPES)))
    for row, column in itertools.product(range(3), range(3)):
        own = themes[int(rng.integers(len(themes)))] if (row, column) in strange else theme
        here = shape if (row, column) == (1, 1) else int(rng.integers(len(SHAPES)))
        tile = PLAIN[THEMES.index(own) * len(SHAPES) + here]
        sheet[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = tile
    return np.clip(sheet + rng.normal(0, NOISE, sheet.shape).astype(np.float32), 0, 1), shape


class TileScorer:
    """A small CLIP over tiles: a scorer of pictures of Pillow and texts.

    Args:
        model, tokenizer: of `train_small_clip`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image]) -> NDArray[np.float64]:
        """[N, D] features."""
        pixels = enlarged(torch.stack([as_tensor(one) for one in pictures]))
        return self.model.get_image_features(pixel_values=pixels).pooler_output.double().numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[N, D] features."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return self.model.get_text_features(input_ids=ids["input_ids"]).pooler_output.double().numpy()


def as_tensor(picture: Image) -> Tensor:
    """[3, H, W] from 0 to 1."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


def as_picture(tile: NDArray[np.float32]) -> Image:
    """A picture of Pillow of [3, H, W] from 0 to 1."""
    from PIL.Image import fromarray

    return fromarray(np.rint(np.clip(tile.transpose(1, 2, 0), 0, 1) * 255).astype(np.uint8))


def painting(network: Inpainter) -> Callable[[Image, Image, str, torch.Generator], Image]:
    """The network behind the call of in-painting models: it paints the shape that the text names."""

    @torch.no_grad()
    def inpaint(canvas: Image, mask: Image, text: str, generator: torch.Generator) -> Image:
        shape = next(number for number, one in enumerate(SHAPES) if one in text.split())
        given = as_tensor(canvas)[None], as_tensor(mask)[None, :1], torch.tensor([shape])
        filled = torch.where(given[1] > 0.5, network(*given), given[0])
        return as_picture(filled[0].numpy())

    return inpaint
