"""Two coloured squares on grey, captions that do or do not say how they stand, and a small diffusion model of the scenes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.measures.spatial import Detection, Relation, SpatialPrompt, spatial_outcome, visor
from coalign.models.diffusion.files import quiet_diffusers
from coalign.models.diffusion.losses import diffusion_losses, noised, prediction_of
from coalign.models.diffusion.schedulers import sampling_scheduler
from coalign.models.diffusion.text_to_image import TextToImage, sample_latents

SIDE, SQUARE, PATCH, GAP = 12, 3, 3, 2
"""Pixels of a scene, of a square, of a patch of the network, and by which the larger distance exceeds the other."""
TOKENS, CHANNELS = SIDE // PATCH, 3 * PATCH**2
"""Patches along a side, and numbers in a patch."""
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1), "purple": (1, -1, 1), "cyan": (-1, 1, 1),
}  # fmt: skip
WORDS = ["<pad>", "<end>", *COLOURS, "a", "square", "and", "left", "right", "above", "below", "of"]
LENGTH = 10
PHRASES: dict[Relation, str] = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
DIRECTIONS: tuple[Relation, ...] = ("left", "right", "above", "below")
STEPS, SAMPLING_STEPS = 100, 20
WIDTH, HEADS, LAYERS = 64, 4, 3
PICTURES = 4
CLOSE = 0.45
"""A square has a colour within this distance (root mean square over the channels of its mean)."""


@dataclass(frozen=True)
class Scene:
    """Where two squares of different colours are: upper left corners."""

    first: str
    second: str
    place: tuple[int, int]
    other: tuple[int, int]

    def relation(self) -> Relation | None:
        """How the first stands to the second by the larger distance; None where it does not exceed the other by `GAP`."""
        across, down = self.other[0] - self.place[0], self.other[1] - self.place[1]
        if abs(abs(across) - abs(down)) < GAP:
            return None
        if abs(across) > abs(down):
            return "left" if across > 0 else "right"
        return "above" if down > 0 else "below"

    def pixels(self) -> Tensor:
        """[3, 12, 12] in [-1, 1]."""
        found = torch.zeros(3, SIDE, SIDE)
        for colour, (x, y) in ((self.first, self.place), (self.second, self.other)):
            found[:, y : y + SQUARE, x : x + SQUARE] = torch.tensor(COLOURS[colour])[:, None, None]
        return found


def draw_scene(draw: random.Random) -> Scene:
    """Two squares that do not touch and stand clearly in one of the four relations."""
    while True:
        first, second = draw.sample(list(COLOURS), 2)
        (x, y), (u, v) = (
            (draw.randrange(SIDE - SQUARE + 1), draw.randrange(SIDE - SQUARE + 1)) for _ in "ab"
        )
        scene = Scene(first, second, (x, y), (u, v))
        if max(abs(x - u), abs(y - v)) > SQUARE and scene.relation() is not None:
            return scene


def general_caption(scene: Scene, draw: random.Random) -> str:
    """Names both squares in either order."""
    one, other = draw.sample([scene.first, scene.second], 2)
    return f"a {one} square and a {other} square"


def spatial_caption(scene: Scene) -> str:
    """Says how the first stands to the second."""
    relation = scene.relation()
    assert relation is not None
    return _described(scene.first, relation, scene.second)


def _described(first: str, relation: Relation, second: str) -> str:
    return f"a {first} square {PHRASES[relation]} a {second} square"


def caption_ids(texts: Sequence[str]) -> Tensor:
    """[B, L] word numbers; padded at the end."""
    rows = [[WORDS.index(word) for word in text.split()] + [1] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


class CaptionEncoder(nn.Module):
    """Embeddings of the words, and a GRU of two layers over them: [B, L, W] states, as a text encoder gives them."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)
        self.states = nn.GRU(width, width, num_layers=2, batch_first=True)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        embedded = self.words(ids)
        return (embedded + self.states(embedded)[0],)


class Block(nn.Module):
    """Attention and a perceptron over patches and words, scaled and shifted by the time step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.mixed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.timed = nn.Linear(width, 4 * width)

    def forward(self, states: Tensor, time: Tensor) -> Tensor:
        scale, shift, other_scale, other_shift = self.timed(time)[:, None].chunk(4, -1)
        normal = self.norms[0](states) * (1 + scale) + shift
        heads = [one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in self.mixed(normal).chunk(3, -1)]
        found = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        states = states + self.out(found)
        return states + self.perceptron(self.norms[1](states) * (1 + other_scale) + other_shift)


class PatchDenoiser(nn.Module):
    """A small transformer over patches, time step and the states of a caption, called as a U-Net of diffusers is."""

    def __init__(self, width: int = WIDTH, layers: int = LAYERS) -> None:
        super().__init__()
        self.read = nn.Linear(CHANNELS, width)
        self.places = nn.Parameter(0.1 * torch.randn(TOKENS**2, width))
        self.times = nn.Embedding(STEPS, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.write = nn.Linear(width, CHANNELS)

    def forward(
        self, noisy: Tensor, steps: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """[B, C, h, w] from the same, time steps [B] and states [B, L, W]."""
        patches = self.read(noisy.flatten(2).transpose(1, 2)) + self.places
        states, time = torch.cat([patches, encoder_hidden_states], 1), self.times(steps)
        for block in self.blocks:
            states = block(states, time)
        return (self.write(states[:, : TOKENS**2]).transpose(1, 2).unflatten(2, noisy.shape[2:]),)


def new_model(seed: int) -> TextToImage:
    """A denoiser of patches and a caption encoder, with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextToImage(PatchDenoiser(), CaptionEncoder())


def noise_schedule() -> Any:
    """100 steps of the cosine schedule; the network predicts v."""
    return quiet_diffusers().DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
    )


Caption = Callable[[Scene, random.Random], tuple[str, bool]]
"""A caption for a scene, and whether the picture is mirrored."""


def train(
    model: TextToImage,
    caption: Caption,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> TextToImage:
    """A copy of the model after training on scenes that are drawn from `seed`; U-Net and encoder learn together."""
    model = copy.deepcopy(model).train()
    scheduler = noise_schedule()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, foreach=True)
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
        scenes = [draw_scene(draw) for _ in range(batch_size)]
        told = [caption(one, draw) for one in scenes]
        pixels = torch.stack([one.pixels() for one in scenes])
        pixels = torch.stack(
            [one.flip(-1) if flipped else one for one, (_, flipped) in zip(pixels, told, strict=True)]
        )
        data = nn.functional.pixel_unshuffle(pixels, PATCH)
        noise = torch.randn(data.shape, generator=generator)
        times = torch.randint(STEPS, (batch_size,), generator=generator)
        noisy = noised(scheduler.alphas_cumprod, data, noise, times)
        predicted = model(noisy, times, caption_ids([text for text, _ in told]))
        losses = diffusion_losses(
            predicted, data, noise, times, scheduler.alphas_cumprod, prediction_of(scheduler)
        )
        optimizer.zero_grad()
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def captions(share: float, *, flip: bool = False) -> Caption:
    """Spatial captions for a share of the scenes, general ones for the others; `flip` mirrors half of the pictures under
    captions that stay as they are.
    """

    def caption(scene: Scene, draw: random.Random) -> tuple[str, bool]:
        chance, side, general = draw.random(), draw.random(), general_caption(scene, draw)
        return (spatial_caption(scene) if chance < share else general), flip and side < 0.5

    return caption


def prompts(count: int, seed: int) -> list[SpatialPrompt]:
    """So many of the 120 descriptions of two colours in a relation."""
    whole = [
        SpatialPrompt(_described(one, relation, other), one, relation, other)
        for one in COLOURS
        for other in COLOURS
        if one != other
        for relation in DIRECTIONS
    ]
    return random.Random(seed).sample(whole, count)


def pictures(model: TextToImage, asked: Sequence[SpatialPrompt], seed: int, batch_size: int = 96) -> Tensor:
    """[prompts, 4, 3, 12, 12] pictures; sample k of prompt i has noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids = caption_ids([one.text for one in asked for _ in range(PICTURES)])
    shape = (len(ids), CHANNELS, TOKENS, TOKENS)
    noise = torch.randn(shape, generator=generator)
    parts = []
    for first in range(0, len(ids), batch_size):
        with torch.no_grad():
            states = model.states(ids[first : first + batch_size])
        found = sample_latents(
            lambda noisy, steps, states=states: model.unet(
                noisy, steps, encoder_hidden_states=states, return_dict=False
            )[0],
            sampling_scheduler(noise_schedule(), "ddim"),
            noise[first : first + batch_size],
            SAMPLING_STEPS,
        )
        parts.append(nn.functional.pixel_shuffle(found, PATCH))
    return torch.cat(parts).reshape(len(asked), PICTURES, 3, SIDE, SIDE)


def detected(picture: Tensor) -> list[Detection]:
    """The squares of a picture [3, 12, 12]: where the mean over a square's size comes nearest to a colour, if it is near
    enough. The score is 1 minus the distance.
    """
    means = nn.functional.avg_pool2d(picture, SQUARE, stride=1)
    found = []
    for colour, values in COLOURS.items():
        distances = (means - torch.tensor(values)[:, None, None]).square().mean(0).sqrt()
        nearest = int(distances.argmin())
        distance = float(distances.flatten()[nearest])
        if distance < CLOSE:
            y, x = divmod(nearest, distances.shape[1])
            found.append(Detection(colour, 1 - distance, (x, y, x + SQUARE, y + SQUARE)))
    return found


def measured(model: TextToImage, asked: Sequence[SpatialPrompt], seed: int) -> dict[str, float]:
    """VISOR of the model's pictures, also of the two axes alone."""
    groups: dict[str, list[list[tuple[bool, bool, bool]]]] = {
        "": [],
        ", left and right": [],
        ", above and below": [],
    }
    for prompt, drawn in zip(asked, pictures(model, asked, seed), strict=True):
        outcomes = [spatial_outcome(prompt, detected(one), width=SIDE, height=SIDE) for one in drawn]
        row = [(one.first is not None, one.second is not None, one.correct) for one in outcomes]
        groups[""].append(row)
        sideways = prompt.relation in ("left", "right")
        groups[", left and right" if sideways else ", above and below"].append(row)
    figures: dict[str, float] = {}
    for name, rows in groups.items():
        found = visor(rows)
        figures |= {f"{kind}{name}": 100 * (found[kind] or 0.0) for kind in ("OA", "VISOR_cond")}
    whole = visor(groups[""])
    return {
        **figures,
        "VISOR_uncond": 100 * (whole["VISOR_uncond"] or 0.0),
        "both": float(whole["both"] or 0),
    }
