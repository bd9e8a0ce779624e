"""A world of token streams: noisy feature frames in which tokens are held for a while, and a small online recogniser.

Twelve tokens have prototypes in 16 dimensions; each is held for 6 to 9 frames, with gaps of up to 3 between. When a
token starts is known exactly, so the delay with which a recogniser writes it can be measured in frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.tiny_models import seeded, stream
from coalign.speech.audio.error_rates import word_error_rate
from coalign.speech.ctc.align import emission_frames
from coalign.speech.ctc.losses import ctc_losses

BLANK = 0
Term = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Logits [B, T, V] and lengths [B] to losses [B]."""


class StreamModel(nn.Module):
    """GRU layers that see no future, and a CTC head."""

    def __init__(self, features: int, labels: int, width: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(features, width, 2, batch_first=True)
        self.head = nn.Linear(width, labels)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.gru(frames)[0])


@dataclass(frozen=True)
class Streams:
    """`frames` [B, T, D], for each stream its tokens (1 ..) and the frames in which they start."""

    frames: Tensor
    tokens: list[list[int]]
    starts: list[list[int]]


@dataclass(frozen=True)
class StreamWorld:
    """What streams are drawn from; everything depends on `seed`."""

    seed: int
    labels: int = 12
    dimensions: int = 16
    length: int = 90
    noise: float = 1.6
    shortest: int = 6
    longest: int = 9
    longest_gap: int = 3

    @property
    def prototypes(self) -> Tensor:
        """[labels + 1, dimensions]; that of the blank is 0."""
        drawn = torch.randn(self.labels, self.dimensions, generator=stream(self.seed, "prototypes"))
        return torch.cat([torch.zeros(1, self.dimensions), drawn])

    def streams(self, n: int, purpose: str) -> Streams:
        """`n` streams; another purpose draws others. A token that would not fit whole is not begun."""
        generator = stream(self.seed, f"streams/{purpose}")

        def between(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        held = torch.zeros(n, self.length, dtype=torch.long)
        tokens: list[list[int]] = []
        starts: list[list[int]] = []
        for row in range(n):
            now = between(0, self.longest_gap)
            tokens.append([])
            starts.append([])
            while now + self.longest <= self.length:
                token, duration = between(1, self.labels), between(self.shortest, self.longest)
                held[row, now : now + duration] = token
                tokens[-1].append(token)
                starts[-1].append(now)
                now += duration + between(0, self.longest_gap)
        noise = torch.randn(n, self.length, self.dimensions, generator=generator)
        return Streams(self.prototypes[held] + self.noise * noise, tokens, starts)


@dataclass(frozen=True)
class StreamStart:
    """What the arms of a seed share: the recogniser after CTC alone, and the streams."""

    world: StreamWorld
    base: StreamModel
    train: Streams
    test: Streams = field(repr=False)


def start(seed: int, *, steps: int = 700, train: int = 1500, test: int = 300) -> StreamStart:
    """A recogniser trained by CTC from scratch (Adam 3e-3, batches of 32)."""
    world = StreamWorld(seed)
    data = world.streams(train, "train")
    model = seeded(lambda: StreamModel(world.dimensions, world.labels + 1), seed)
    base = train_streams(model, data, seed, "start", steps=steps, learning_rate=3e-3)
    return StreamStart(world, base, data, world.streams(test, "test"))


def train_streams(
    model: StreamModel,
    data: Streams,
    seed: int,
    purpose: str,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    term: Term | None = None,
) -> StreamModel:
    """A copy of `model` after `steps` of CTC plus `term`; the order of the streams is that of (seed, purpose)."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    order, draws = stream(seed, f"order/{purpose}"), stream(seed, f"term/{purpose}")
    lengths = torch.full((batch_size,), data.frames.shape[1])
    for _ in range(steps):
        rows = torch.randint(len(data.tokens), (batch_size,), generator=order)
        logits = model(data.frames[rows])
        losses = ctc_losses(logits, lengths, [data.tokens[row] for row in rows.tolist()], BLANK)
        if term is not None:
            losses = losses + term(logits, lengths, draws)
        optimizer.zero_grad()
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return model.eval()


def trained_on(material: StreamStart, term: Term | None = None) -> Measures:
    """300 steps more (Adam 1e-3), with or without a term, measured on the test streams."""
    base, data, seed = material.base, material.train, material.world.seed
    model = train_streams(base, data, seed, "arms", steps=300, learning_rate=1e-3, term=term)
    return measure_streams(model, material.test)


@torch.no_grad()
def measure_streams(model: StreamModel, streams: Streams) -> Measures:
    """Greedy decoding: mean delay in frames from a token's start to its first frame, over the streams decoded without
    an error (their share is `correct`), and the token error rate over all.
    """
    paths = model(streams.frames).argmax(-1)
    delays: list[int] = []
    texts: list[str] = []
    correct = 0
    for path, tokens, starts in zip(paths.tolist(), streams.tokens, streams.starts, strict=True):
        found = emission_frames(path, BLANK)
        written = [path[frame] for frame in found]
        texts.append(" ".join(map(str, written)))
        if written == tokens:
            correct += 1
            delays += [frame - begin for frame, begin in zip(found, starts, strict=True)]
    references = [" ".join(map(str, tokens)) for tokens in streams.tokens]
    return {
        "delay": sum(delays) / len(delays) if delays else float(streams.frames.shape[1]),
        "token error rate": word_error_rate(references, texts).rate,
        "correct": correct / len(streams.tokens),
    }
