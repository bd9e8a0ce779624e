"""Scenes of two coloured squares, captions that say how they stand or not, and a small diffusion model of such scenes.

A scene has nine cells, each a pixel, as the latents of a large model have one for a patch. In pictures of many pixels a square
is hidden from the network by the strongest noise alone, so that little of the training says what a relation means.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from coalign.checks.tiny_models import seeded
from coalign.checks.worlds.drawn.captions import word_tokenizer
from coalign.measures.media.spatial import (
    OPPOSITE,
    Detection,
    Relation,
    SpatialPrompt,
    spatial_outcome,
    visor_by,
)
from coalign.models.diffusion.files import quiet_diffusers
from coalign.models.diffusion.schedulers import sampling_scheduler
from coalign.models.diffusion.text_to_image import TextToImage, sample_latents, tokens_of
from coalign.training.checkpoints import KeyedShuffle
from coalign.vision.spatial.options import MixedTrainingOptions
from coalign.vision.spatial.training import Captioned, CaptionedPictures, MixedCaptionTask

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 3
"""Cells along a side, each a pixel."""
GREY = 127
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "cyan": (0, 255, 255),
    "red": (255, 0, 0), "purple": (255, 0, 255), "yellow": (255, 255, 0), "white": (255, 255, 255),
}  # fmt: skip
PHRASES: dict[Relation, str] = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
WORDS = [*COLOURS, "a", "square", "and", "left", "right", "above", "below", "of"]
CONTEXT = 10
"""Tokens of the longest caption with its begin and end."""
TOKENIZER = word_tokenizer(WORDS, CONTEXT)
NOISE_STEPS, SAMPLING_STEPS = 100, 20
WIDTH, HEADS = 64, 4
PICTURES = 4
"""Pictures of each description."""
CLOSE = 0.45
"""A square has a colour within this distance, the root of the mean square over channels that go from -1 to 1."""


@dataclass(frozen=True)
class Squares:
    """Two squares of different colours in cells (x, y), one of them clearly beside or above the other."""

    first: str
    second: str
    place: tuple[int, int]
    other: tuple[int, int]

    @property
    def relation(self) -> Relation:
        """How the first stands to the second, by the axis on which they are farther apart."""
        across, down = self.other[0] - self.place[0], self.other[1] - self.place[1]
        if abs(across) > abs(down):
            return "left" if across > 0 else "right"
        return "above" if down > 0 else "below"

    def general(self, draw: random.Random) -> str:
        """Names both squares in either order."""
        one, other = draw.sample([self.first, self.second], 2)
        return f"a {one} square and a {other} square"

    def descriptions(self) -> list[SpatialPrompt]:
        """How either stands to the other."""
        relation = self.relation
        return [
            described(self.first, relation, self.second),
            described(self.second, OPPOSITE[relation], self.first),
        ]

    def picture(self) -> np.ndarray:
        """[3, 3, 3] bytes."""
        values = np.full((3, SIDE, SIDE), GREY, np.uint8)
        for colour, (x, y) in ((self.first, self.place), (self.second, self.other)):
            values[:, y, x] = COLOURS[colour]
        return values


def described(first: str, relation: Relation, second: str) -> SpatialPrompt:
    """The sentence that asks for two squares in a relation."""
    return SpatialPrompt(f"a {first} square {PHRASES[relation]} a {second} square", first, relation, second)


def drawn_squares(count: int, draw: random.Random) -> list[Squares]:
    """So many scenes; all pairs of colours and all pairs of places with one axis that dominates alike."""
    cells = [(x, y) for x in range(SIDE) for y in range(SIDE)]
    pairs = [
        (one, other) for one in cells for other in cells if abs(one[0] - other[0]) != abs(one[1] - other[1])
    ]
    scenes = []
    for _ in range(count):
        (first, second), (place, other) = draw.sample(list(COLOURS), 2), draw.choice(pairs)
        scenes.append(Squares(first, second, place, other))
    return scenes


def asked_descriptions(count: int, draw: random.Random) -> list[SpatialPrompt]:
    """So many of the 224 descriptions of two colours in a relation."""
    whole = [
        described(one, relation, other)
        for one in COLOURS
        for other in COLOURS
        if one != other
        for relation in PHRASES
    ]
    return draw.sample(whole, count)


def captioned(
    scenes: Sequence[Squares], left_out: Sequence[SpatialPrompt], draw: random.Random
) -> list[Captioned]:
    """What is said of scenes: no spatial caption is one of those left out, and a scene with two such ones has none."""
    never, told = {one.text for one in left_out}, []
    for place, scene in enumerate(scenes):
        texts = [one.text for one in scene.descriptions() if one.text not in never]
        told.append(Captioned(str(place), scene.general(draw), draw.choice(texts) if texts else None))
    return told


class CaptionEncoder(nn.Module):
    """A transformer layer over the words of a caption, each with its place; reads both ways, as T5's encoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(TOKENIZER), WIDTH)
        self.places = nn.Parameter(torch.randn(CONTEXT, WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        """[B, L, W] states of token ids [B, L]."""
        return (self.layer(self.words(ids) + self.places),)


class CellDenoiser(nn.Module):
    """A transformer over cells that looks at the states of a caption, called as a U-Net of diffusers is."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.read = nn.Linear(3, WIDTH)
        self.places = nn.Parameter(torch.randn(SIDE**2, WIDTH))
        self.times = nn.Sequential(
            nn.Embedding(NOISE_STEPS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.write = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))

    def forward(
        self, noisy: Tensor, steps: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """[B, 3, 3, 3] from the same, time steps [B] and states [B, L, W]."""
        states = self.read(noisy.flatten(2).transpose(1, 2)) + self.places + self.times(steps)[:, None]
        for layer in self.layers:
            states = layer(states, encoder_hidden_states)
        return (self.write(states).transpose(1, 2).unflatten(2, noisy.shape[2:]),)


def new_model(seed: int) -> TextToImage:
    """A denoiser and a caption encoder, with weights drawn from `seed`."""
    return seeded(lambda: TextToImage(CellDenoiser(), CaptionEncoder()), seed)


def noise_schedule() -> Any:
    """100 steps of the cosine schedule; the network predicts the scene."""
    return quiet_diffusers().DDIMScheduler(
        num_train_timesteps=NOISE_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
    )


def trained_on_squares(
    model: TextToImage,
    pictures: np.ndarray,
    captions: Sequence[Captioned],
    *,
    share: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> TextToImage:
    """A copy of the model after training on pictures [N, 3, 3, 3], by the system's own data set, drawing of captions and loss.
    The learning rate rises over 50 steps and falls over the last 30 %.
    """
    model = copy.deepcopy(model).train()
    options = MixedTrainingOptions(
        spatial_share=share, learning_rate=learning_rate, text_learning_rate=learning_rate, ema=0.0, seed=seed
    )
    data = CaptionedPictures(pictures, captions, options)
    pipeline = SimpleNamespace(tokenizer=TOKENIZER, scheduler=noise_schedule(), unet=model.unet)
    task = MixedCaptionTask(pipeline, options)
    optimizer = task.optimizer(model, cast(Any, SimpleNamespace(weight_decay=0.0)))
    keys = _keys(task.sampler(len(data), seed))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
        losses = task.loss(
            model, task.collate([data[key] for key in itertools.islice(keys, batch_size)]), cast(Any, None)
        ).losses
        optimizer.zero_grad()
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def _keys(sampler: KeyedShuffle) -> Iterator[int]:
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from sampler


def painted_squares(model: TextToImage, asked: Sequence[SpatialPrompt], seed: int) -> Tensor:
    """[prompts, 4, 3, 3, 3] pictures of descriptions, in -1 to 1; no guidance."""
    ids, _ = tokens_of(TOKENIZER, [one.text for one in asked for _ in range(PICTURES)])
    noise = torch.randn((len(ids), 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        states = model.states(ids)
    found = sample_latents(
        lambda noisy, steps: model.unet(noisy, steps, encoder_hidden_states=states)[0],
        sampling_scheduler(noise_schedule(), "ddim"),
        noise,
        SAMPLING_STEPS,
    )
    return found.unflatten(0, (len(asked), PICTURES))


def detected_squares(picture: Tensor) -> list[Detection]:
    """Of each colour the cell of a picture [3, 3, 3] that comes nearest to it, where it is near enough. The score is 1 minus
    the distance.
    """
    found = []
    for colour, values in COLOURS.items():
        wanted = torch.tensor(values)[:, None, None] / 127.5 - 1
        distance, cell = (picture - wanted).square().mean(0).sqrt().flatten().min(0)
        if distance < CLOSE:
            y, x = divmod(int(cell), SIDE)
            found.append(Detection(colour, 1 - float(distance), (x, y, x + 1, y + 1)))
    return found


def obeyed(model: TextToImage, asked: Sequence[SpatialPrompt], seed: int) -> dict[str, float]:
    """VISOR of the model's pictures in per cent, also of either axis alone."""
    groups: dict[str, list[list[tuple[bool, bool, bool]]]] = {"left and right": [], "above and below": []}
    for prompt, pictures in zip(asked, painted_squares(model, asked, seed), strict=True):
        outcomes = [
            spatial_outcome(prompt, detected_squares(one), width=SIDE, height=SIDE) for one in pictures
        ]
        axis = "left and right" if prompt.relation in ("left", "right") else "above and below"
        groups[axis].append(
            [(one.first is not None, one.second is not None, one.correct) for one in outcomes]
        )
    measures = visor_by(groups)
    whole = measures.pop("all")
    return {
        **{name: 100 * (whole[name] or 0.0) for name in ("OA", "VISOR_cond", "VISOR_uncond", "VISOR_4")},
        **{f"VISOR_cond, {name}": 100 * (one["VISOR_cond"] or 0.0) for name, one in measures.items()},
        "pictures with both": float(whole["both"] or 0),
    }
